"""A checkpoint's tokenizer.json enters; the bytes of the bundle's tokenizer, and texts as token ids, leave.

The bundle's file never pads nor truncates: the server decides both (many published files pad every text to 128 tokens).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .errors import BadInput


def clean(file: Path, lowercase: bool = False) -> bytes:
    """The file without padding and truncation; `lowercase` adds what sentence-transformers' `do_lower_case` does."""
    if not file.is_file():
        raise BadInput(
            f"{file} is missing; a fast tokenizer is needed: "
            "AutoTokenizer.from_pretrained(..).save_pretrained(..) writes it"
        )
    try:
        document = json.loads(file.read_text("utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise BadInput(f"{file} is not a tokenizer file: {error}") from error
    document["padding"] = None
    document["truncation"] = None
    if lowercase:
        document["normalizer"] = _after_lowercase(document.get("normalizer"))
    return (json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")


def _after_lowercase(normalizer: dict | None) -> dict:
    first = {"type": "Lowercase"}
    if normalizer is None:
        return first
    return {"type": "Sequence", "normalizers": [first, normalizer]}


class Encoder:
    """Texts to ids, special tokens included, at most `max_tokens` each."""

    def __init__(self, data: bytes, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise BadInput(f"tokenizer.json cannot be loaded: {error}") from error
        self.max_tokens = max_tokens
        self._tokenizer.enable_truncation(max_tokens)
        sample = self._tokenizer.encode("one text")
        if any(sample.type_ids):
            raise BadInput("the tokenizer gives token types other than 0 to a single text, which is not supported")

    def ids(self, text: str) -> np.ndarray:
        """int64 [tokens]."""
        return np.array(self._tokenizer.encode(text).ids, np.int64)

    def vocabulary_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def words(self) -> list[str]:
        """The vocabulary, in the order of the ids."""
        return [word for word, _ in sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])]

    def pieces(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def is_unknown(self, token: int) -> bool:
        """Whether the id stands for what the vocabulary does not know."""
        return self._tokenizer.id_to_token(token) in ("[UNK]", "<unk>")
