"""Texts from sources or request logs enter; a cleaned, deduplicated, split corpus on disk leaves.

The side a text falls on is decided by a hash of the text itself, after near-duplicates are gone, so calibration and
test never overlap, whatever the sizes and the seed. Never commits or ships a text: it writes where it is told.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from .bundle import sha256
from .corpus_sources import DEFAULT_SOURCES, Found, Synset, locate, wordnet_senses
from .errors import BadInput
from .request_logs import read_logs

CALIBRATION, TEST, REPORT = "calibration-10k.txt", "test-10k.json", "corpus.json"
MOST_CHARACTERS = 2_000
# Characters below which a text counts as short, middle, long; and the share of each, the rest being very long.
LENGTHS, SHARES = (60, 200, 600), (0.35, 0.35, 0.2, 0.1)
NEAR = 0.7  # Jaccard similarity of word pairs from which two texts count as the same
HASHES, BANDS = 24, 8
GRADES = {"same": 3.0, "parent": 2.0, "sibling": 1.0, "other": 0.0}


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    output: Path = Path("build/corpus")
    sources: tuple[str, ...] = tuple(DEFAULT_SOURCES)
    from_logs: str | None = None
    calibration: int = 10_000
    test: int = 10_000
    pairs: int = 1_000
    seed: int = 0
    download: bool = True
    allow_missing: bool = False


def build(options: Options, say: Callable[[str], None]) -> dict:
    """Makes the corpus; returns its report (also written as corpus.json)."""
    if options.calibration < 1 or options.test < 1:
        raise BadInput(f"--calibration {options.calibration} and --test {options.test}: at least 1 text of each")
    found: list[Found] = []
    if options.from_logs:
        gathered = {"request logs": read_logs(options.from_logs, say)}
    else:
        cache = options.output / "packages"
        found = locate(list(options.sources), cache, options.download, options.allow_missing, say)
        gathered = {f.source: list(f.texts()) for f in found}
    texts = unique(text for part in gathered.values() for text in part)
    say(f"{sum(map(len, gathered.values())):,} texts read, {len(texts):,} left after cleaning and exact duplicates")
    pool = _candidates(texts, options)
    kept = without_near_duplicates(pool)
    say(f"{len(pool):,} candidates, {len(kept):,} left after near-duplicates (Jaccard >= {NEAR})")
    calibration = _mixed([t for t in kept if not in_test(t)], options.calibration, options.seed)
    test = _mixed([t for t in kept if in_test(t)], options.test, options.seed)
    if not calibration or not test:
        raise BadInput(f"{len(kept)} different texts are too few for a calibration set and a test set")
    wordnet = next((f for f in found if f.source == "wordnet"), None)
    pairs = _pairs(wordnet_senses(wordnet.folder), options) if wordnet and options.pairs else []
    report = _write(options, calibration, test, pairs)
    report["sources"] = {f.source: {"package": f.package.name, "files": f.digests()} for f in found}
    report["texts_read"] = {name: len(part) for name, part in gathered.items()}
    (options.output / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return report


def clean(text: str) -> str | None:
    """One line of NFC text without control characters; None where it is not worth keeping."""
    text = unicodedata.normalize("NFC", text).replace("\ufffd", " ")
    text = "".join(c if unicodedata.category(c)[0] != "C" or c in "\n\t\u200d" else " " for c in text)
    text = " ".join(text.split())[:MOST_CHARACTERS].strip()
    wordlike = sum(c.isalnum() or c.isspace() for c in text)
    return text if sum(c.isalpha() for c in text) >= 3 and wordlike >= 0.6 * len(text) else None


def in_test(text: str) -> bool:
    """The side of the split a text belongs to, from its words alone."""
    return hashlib.sha256(" ".join(words(text)).encode()).digest()[0] < 128


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"\w+", text.casefold())


def rank(text: str, seed: int) -> bytes:
    """A pseudo-random order that depends on the text and the seed, not on the order of the sources."""
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()


def unique(texts: Iterable[str]) -> list[str]:
    """The texts worth keeping, cleaned, the first of those with the same words."""
    first: dict[str, str] = {}
    for raw in texts:
        text = clean(raw)
        if text:
            first.setdefault(" ".join(words(text)), text)
    return list(first.values())


def _candidates(texts: list[str], options: Options) -> list[str]:
    """As many texts of each length as near-duplicate removal may leave short, in hash order."""
    wanted = 3 * (options.calibration + options.test) + 100
    ranked = sorted(texts, key=lambda text: rank(text, options.seed))
    return _mixed(ranked, min(wanted, len(ranked)), options.seed)


def _mixed(texts: list[str], count: int, seed: int) -> list[str]:
    """`count` texts, lengths mixed by `SHARES` where there are enough of each; in hash order."""
    bins: list[list[str]] = [[] for _ in SHARES]
    for text in sorted(texts, key=lambda text: rank(text, seed)):
        bins[sum(len(text) >= limit for limit in LENGTHS)].append(text)
    chosen = [text for part, share in zip(bins, SHARES, strict=True) for text in part[: round(share * count)]]
    rest = sorted({t for part in bins for t in part} - set(chosen), key=lambda text: rank(text, seed))
    chosen += rest[: max(0, count - len(chosen))]
    return sorted(chosen, key=lambda text: rank(text, seed))[:count]


def without_near_duplicates(texts: list[str]) -> list[str]:
    """Keeps the first of texts whose word pairs overlap by `NEAR`, found through MinHash bands."""
    random = np.random.RandomState(1)
    factors = random.randint(1, 2**31, HASHES).astype(np.uint64) | np.uint64(1)
    offsets = random.randint(0, 2**31, HASHES).astype(np.uint64)
    seen: dict[tuple[int, bytes], list[int]] = {}
    shingles: list[frozenset[int]] = []
    kept: list[str] = []
    for text in texts:
        spoken = words(text)
        pairs = [" ".join(p) for p in pairwise(spoken)] or spoken
        mine = frozenset(zlib.crc32(pair.encode()) for pair in pairs)
        hashes = np.fromiter(mine, np.uint64)[:, None] * factors + offsets
        signature = (hashes >> np.uint64(16)).astype(np.uint32).min(axis=0)
        keys = [(band, part.tobytes()) for band, part in enumerate(signature.reshape(BANDS, -1))]
        rivals = {i for key in keys for i in seen.get(key, ())}
        if any(len(mine & shingles[i]) >= NEAR * len(mine | shingles[i]) for i in rivals):
            continue
        for key in keys:
            seen.setdefault(key, []).append(len(kept))
        kept.append(text)
        shingles.append(mine)
    return kept


def _pairs(senses: dict[str, Synset], options: Options) -> list[dict]:
    """Pairs of test-side glosses graded by their distance in the noun taxonomy: parent, sibling, unrelated."""
    usable = {key: clean(sense.gloss) for key, sense in senses.items()}
    usable = {key: gloss for key, gloss in usable.items() if gloss and len(gloss) > 20 and in_test(gloss)}
    keys = sorted(usable, key=lambda key: rank(usable[key], options.seed))
    children: dict[str, list[str]] = {}
    for key in keys:
        children.setdefault(senses[key].parent or "", []).append(key)
    pairs: list[dict] = []
    per_grade = -(-options.pairs // 3)
    for grade in ("parent", "sibling", "other"):
        graded = []
        for n, key in enumerate(keys):
            above = senses[key].parent or ""
            others = {"parent": [above], "sibling": children.get(above, []), "other": [keys[n - len(keys) // 2]]}
            other = next((k for k in others[grade] if k != key and k in usable), None)
            if other and len(graded) < per_grade:
                graded.append({"a": usable[key], "b": usable[other], "score": GRADES[grade]})
        pairs += graded
    return pairs[: options.pairs]


def _write(options: Options, calibration: list[str], test: list[str], pairs: list[dict]) -> dict:
    options.output.mkdir(parents=True, exist_ok=True)
    paths = {"calibration": options.output / CALIBRATION, "test": options.output / TEST}
    paths["calibration"].write_text("\n".join(calibration) + "\n", "utf-8")
    document = {"texts": test, "pairs": pairs}
    paths["test"].write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", "utf-8")
    return {
        "calibration": {"file": CALIBRATION, "n": len(calibration), "sha256": sha256(paths["calibration"])},
        "test": {"file": TEST, "n": len(test), "pairs": len(pairs), "sha256": sha256(paths["test"])},
        "seed": options.seed,
    }
