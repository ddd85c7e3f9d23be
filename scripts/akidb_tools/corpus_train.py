"""Source texts and a test set enter; many varied training texts, none of which shares wording with a test text, leave.

Training texts are the calibration side of the split (`corpus.in_test`), and pieces of them: short queries, sentences
out of longer passages, passages of several texts. Most are short: a text teaches with its one vector, and a short one
takes less time. A text that has eight words in a row with a test text, is one, or is a near-duplicate of one is
dropped. The same sources and seed give the same bytes.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from . import corpus, text_sets
from .bundle import sha256
from .corpus_sources import locate
from .errors import BadInput

TRAIN, TRAIN_TEXTS = "train-150k.txt", 150_000
RUN = 8  # words in a row that a training text may not share with a test text
SHORT = 20  # words of a text that counts as short
# Share of short and of longer texts as they are, of queries, of sentences and of joined passages.
WHOLE, LONGER, QUERIES, SENTENCES, JOINED = 0.61, 0.05, 0.12, 0.20, 0.02


def build(folder: Path, count: int, seed: int, say: Callable[[str], None], download: bool = True) -> Path:
    """Writes `count` training texts (fewer where the sources end) for the corpus in `folder`; returns the file."""
    test = folder / corpus.TEST
    if not test.is_file():
        raise BadInput(f"{test} is missing: make_corpus.py writes it, and training texts must be different from it")
    found = locate(list(corpus.DEFAULT_SOURCES), folder / "packages", download, False, say)
    texts = corpus.unique(text for source in found for text in source.texts())
    texts = [text for text in texts if not corpus.in_test(text)]
    held_out = text_sets.read(test)
    listed = [*held_out.texts, *(text for a, b, _ in held_out.pairs for text in (a, b))]
    chosen = choose(texts, listed, count, seed)
    say(f"{len(texts):,} texts of the calibration side, {len(chosen):,} training texts without wording of the test set")
    file = folder / TRAIN
    file.write_text("\n".join(chosen) + "\n", "utf-8")
    say(f"{sha256(file)}  {file}")
    return file


def choose(texts: list[str], held_out: list[str], count: int, seed: int) -> list[str]:
    """`count` texts for training, in a pseudo-random order: whole ones, and pieces in the shares above."""
    shared = Overlap(held_out)
    ranked = sorted(texts, key=lambda text: corpus.rank(text, seed))
    apart = corpus.without_near_duplicates([*dict.fromkeys(held_out), *ranked])
    known = set(held_out)
    whole = [text for text in apart if text not in known and not shared.with_text(text)]
    chooser = random.Random(seed)
    short, longer = [text for text in whole if _is_short(text)], [text for text in whole if not _is_short(text)]
    made = {
        "longer": (LONGER, iter(longer)),
        "queries": (QUERIES, _queries(whole, chooser)),
        "sentences": (SENTENCES, _sentences(whole)),
        "joined": (JOINED, _joined(whole, chooser)),
    }
    chosen = dict.fromkeys(short[: round(WHOLE * count)])
    for share, pieces in made.values():
        cleaned = (text for piece in pieces if (text := corpus.clean(piece)) and not shared.with_text(text))
        fresh = (text for text in cleaned if text not in chosen)
        chosen |= dict.fromkeys(islice(fresh, round(share * count)))
    return sorted(chosen, key=lambda text: corpus.rank(text, seed))[:count]


class Overlap:
    """The wording of the held-out texts: every run of `RUN` words, and the whole of the shorter ones."""

    def __init__(self, held_out: Iterable[str]) -> None:
        self._runs: set[int] = set()
        self._whole: set[str] = set()
        for text in held_out:
            words = corpus.words(text)
            self._whole.add(" ".join(words))
            self._runs.update(_runs(words))

    def with_text(self, text: str) -> bool:
        """Whether the text is a held-out one in other dress, or shares a run of words with one."""
        words = corpus.words(text)
        return " ".join(words) in self._whole or any(run in self._runs for run in _runs(words))


def _runs(words: list[str]) -> Iterator[int]:
    return (zlib.crc32(" ".join(words[n : n + RUN]).encode()) for n in range(len(words) - RUN + 1))


def _queries(texts: list[str], chooser: random.Random) -> Iterator[str]:
    """One to six words in a row, as somebody would type them into a search box."""
    for text in texts:
        parts = text.split()
        size = chooser.randint(1, 6)
        if len(parts) > size + 2:
            at = chooser.randrange(len(parts) - size)
            yield " ".join(parts[at : at + size]).strip(".,;:()\"'").lower()


def _sentences(texts: list[str]) -> Iterator[str]:
    for text in texts:
        if len(text) > 120:
            yield from (part for part in re.split(r"(?<=[.!?;:,])\s+", text) if len(part) > 20 and _is_short(part))


def _is_short(text: str) -> bool:
    return len(text.split()) <= SHORT


def _joined(texts: list[str], chooser: random.Random) -> Iterator[str]:
    """Two to four texts after one another: passages longer than most entries of a dictionary."""
    for start in range(0, len(texts) - 4, 4):
        yield ". ".join(text.rstrip(".") for text in texts[start : start + chooser.randint(2, 4)])
