"""A student's tensors and what is known of its making enter; a checkpoint folder that others can read leaves.

The layout is that of sentence-transformers, with `distillation.json` for the lineage: `export_onnx.py` takes it, and so
does whatever reads Hugging Face checkpoints. Never half-written: the folder is renamed into place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from . import bundle, weights
from .checkpoint import read_json
from .errors import BadInput

RECORD, FORMAT = "distillation.json", "akidb.distillation/1"
COPIED = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "merges.txt", "vocab.json")


@dataclass(frozen=True)
class Card:
    """What a reader of the folder is told beside the weights."""

    config: dict
    tokenizer: bytes
    tokenizer_folder: Path
    pooling: str
    dimension: int
    max_tokens: int
    lowercase: bool
    license: str | None
    prompts: dict[str, str]


def write(output: Path, tensors: Mapping[str, np.ndarray], card: Card, record: dict) -> dict:
    """Writes the folder; returns the record with the weights' digest added."""
    with bundle.replacing(output) as folder:
        save_file(dict(tensors), folder / weights.SINGLE, metadata={"format": "pt"})
        digest = bundle.sha256(folder / weights.SINGLE)
        record = {"format": FORMAT, "weights_sha256": digest, **record}
        (folder / "tokenizer.json").write_bytes(card.tokenizer)
        for name in COPIED:
            if (card.tokenizer_folder / name).is_file():
                (folder / name).write_bytes((card.tokenizer_folder / name).read_bytes())
        if not (folder / "tokenizer_config.json").is_file():
            _json(folder / "tokenizer_config.json", {"model_max_length": card.max_tokens})
        for name, document in _documents(card).items():
            (folder / name).parent.mkdir(exist_ok=True)
            _json(folder / name, document)
        _json(folder / RECORD, record)
        (folder / "README.md").write_text(_readme(output.name, card, record), "utf-8")
    return record


def read_record(folder: Path, seen: list[Path]) -> dict | None:
    """distillation.json of a checkpoint folder, refused where it speaks of other weights; None where there is none."""
    record = read_json(folder / RECORD, seen, {})
    if not record:
        return None
    if record.get("format") != FORMAT:
        raise BadInput(f"{folder / RECORD}: format is {record.get('format')!r}, expected {FORMAT!r}")
    file = folder / weights.SINGLE
    if not file.is_file() or bundle.sha256(file) != record.get("weights_sha256"):
        raise BadInput(
            f"{folder / RECORD} was measured on other weights than {weights.SINGLE}: distill again, or remove the "
            "record to export these weights as a model without a teacher"
        )
    return record


def _documents(card: Card) -> dict[str, object]:
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    own = "cls_token" if card.pooling == "cls" else "mean_tokens"
    module = "sentence_transformers.models."
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    documents: dict[str, object] = {
        "config.json": card.config,
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": module + kind} for n, (path, kind) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": card.dimension,
            **{f"pooling_mode_{mode}": mode == own for mode in modes},
        },
        "sentence_bert_config.json": {"max_seq_length": card.max_tokens, "do_lower_case": card.lowercase},
    }
    if card.prompts:
        documents["config_sentence_transformers.json"] = {"prompts": card.prompts, "default_prompt_name": None}
    return documents


def _json(file: Path, document: object) -> None:
    file.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _readme(name: str, card: Card, record: dict) -> str:
    e, teacher = record["evaluation"], record["teacher"]
    license_line = f"license: {card.license.lower()}\n" if card.license else ""
    recall = "not measured" if e["recall_at_10"] is None else f"{e['recall_at_10']:.4f}"
    return f"""---
{license_line}library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
# {name}

A student of {record["layers"]["student"]} layers, distilled from {teacher["model"]} (layers \
{", ".join(map(str, record["layers"]["teacher_layers"]))}, feed-forward {record["layers"]["intermediate"]}). \
Vectors of {card.dimension} dimensions, {card.pooling} pooling, normalised, at most {card.max_tokens} tokens. \
Its vectors are its own: do not mix them with the teacher's in one index.

On {e["n"]:,} held-out texts: mean cosine to the teacher {e["mean_cosine"]:.4f}, recall@10 among the teacher's \
neighbours {recall}. `{RECORD}` holds the lineage and how it was trained.
"""
