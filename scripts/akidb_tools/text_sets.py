"""A calibration or test file enters; its texts leave, or a refusal that says what is wrong with them.

Forms: one text a line; a JSON list of strings (or of objects with `text`); an object with `texts` and graded `pairs`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .bundle import sha256
from .errors import BadInput
from .tokenizer import Encoder

LEAST_TEXTS = 32
# English in an English vocabulary has 1.1-1.3 pieces a word; German or Spanish there 2.2, Czech 2.6.
MOST_PIECES = 1.8
MOST_UNKNOWN = 0.05
SAMPLE = 2_000


@dataclass(frozen=True)
class TextSet:
    """Texts in the order of the file; `pairs` are (text, text, grade)."""

    file: Path
    digest: str
    texts: list[str]
    pairs: list[tuple[str, str, float]]


def read(file: Path, least: int = LEAST_TEXTS) -> TextSet:
    """The texts of a file, refused where it is not one of text or holds too few."""
    if not file.is_file():
        raise BadInput(f"{file} is missing; make_corpus.py writes calibration-10k.txt and test-10k.json")
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if "\0" in content:
        raise BadInput(f"{file} holds NUL bytes: it is not a text file")
    document = _json(content) if file.suffix == ".json" or content.lstrip()[:1] in ("[", "{") else None
    if document is None and file.suffix == ".json":
        raise BadInput(f"{file} is not JSON; expected a list of texts or an object with `texts`")
    texts, pairs = ([line.strip() for line in content.splitlines()], []) if document is None else _of(document, file)
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(texts) < least:
        raise BadInput(f"{file} holds {len(texts)} different texts; at least {least} are needed")
    return TextSet(file, sha256(file), texts, pairs)


def _json(content: str) -> object | None:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _of(document: object, file: Path) -> tuple[list[str], list[tuple[str, str, float]]]:
    listed = document.get("texts") if isinstance(document, dict) else document
    if not isinstance(listed, list):
        raise BadInput(f"{file}: expected a list of texts, or an object with `texts`; make_corpus.py writes one")
    texts = [item.get("text") if isinstance(item, dict) else item for item in listed]
    if not all(isinstance(text, str) for text in texts):
        raise BadInput(f"{file}: every item must be a string, or an object with a string `text`")
    raw = document.get("pairs", []) if isinstance(document, dict) else []
    try:
        return texts, [(str(p["a"]), str(p["b"]), float(p["score"])) for p in raw]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: every pair needs `a`, `b` and a number `score`: {error!r}") from error


def check_language(texts: TextSet, encoder: Encoder) -> None:
    """Refuses texts in a script or language that the model's vocabulary was not made for."""
    sample = texts.texts[:: max(1, len(texts.texts) // SAMPLE)]
    own, theirs = _scripts(encoder.words()), _scripts(sample)
    script = theirs.most_common(1)[0][0] if theirs else None
    advice = "calibrate with texts as the model will get them, or say --any-language if they are"
    if script and own[script] < 0.05 * own.total():
        raise BadInput(
            f"{texts.file}: most letters are {script}, which {own[script] / max(1, own.total()):.1%} of the model's "
            f"vocabulary is: another language than the model's; {advice}"
        )
    pieces = [piece for text in sample for piece in encoder.pieces(text)]
    unknown = sum(encoder.is_unknown(piece) for piece in pieces) / max(1, len(pieces))
    if unknown > MOST_UNKNOWN:
        raise BadInput(f"{texts.file}: {unknown:.1%} of its tokens are unknown to the model's vocabulary; {advice}")
    words = [word for text in sample for word in re.findall(r"[^\W\d_]{2,}", text)][:20_000]
    rate = sum(len(encoder.pieces(word)) for word in words) / max(1, len(words))
    if rate > MOST_PIECES:
        raise BadInput(
            f"{texts.file}: its words fall into {rate:.1f} pieces each (the model's own language: 1.1 to 1.3, limit "
            f"{MOST_PIECES}): another language than the model's; {advice}"
        )


def _scripts(texts: list[str]) -> Counter[str]:
    """Letters by script, from their Unicode names (`LATIN`, `CJK`, `CYRILLIC`, ...)."""
    letters = Counter(c for text in texts for c in text if c.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "OTHER").split(" ")[0].split("-")[0]] += count
    return scripts
