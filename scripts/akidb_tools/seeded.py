"""A shape and a seed enter; a checkpoint of random weights, in the Hugging Face layout and marked seeded, leaves.

Such a model has the size, the cost and the graph of the real one and embeds nothing: config.json says so, and every
bundle made from it. Each tensor has a stream of its own (numpy's frozen `RandomState`), so the same seed gives the same
bytes. The spread is that of trained BERT weights, not of an initialisation: attention that prefers some tokens,
LayerNorm gains that differ by channel, so that neither activations nor vectors collapse to one point.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .checkpoint import SEEDED
from .errors import BadInput
from .five_models import Recipe, Shape

TYPES = 2


def write(folder: Path, model: Recipe, seed: int, tokenizer: Path, say: Callable[[str], None]) -> Path:
    """Writes the checkpoint of `model` with the tokenizer.json given; returns `folder`."""
    shape = model.shape
    if shape is None:
        raise BadInput(f"{model.name} has real weights; only models with a shape can be seeded")
    vocabulary = len(json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"])
    folder.mkdir(parents=True, exist_ok=True)
    say(f"seeded weights (seed {seed}): {shape.layers} layers of {shape.hidden}, {vocabulary:,} words")
    tensors = dict(_tensors(shape, vocabulary, seed))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _json(folder / "config.json", {**_config(shape, vocabulary), SEEDED: {"seed": seed, "architecture": model.name}})
    _json(folder / "sentence_bert_config.json", {"max_seq_length": shape.positions, "do_lower_case": False})
    _json(folder / "config_sentence_transformers.json", {"prompts": model.prompts})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{mode}": mode.startswith(model.pooling) for mode in ("cls_token", "mean_tokens")}
    _json(folder / "1_Pooling/config.json", {"word_embedding_dimension": shape.hidden, **modes})
    return folder


def _json(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _config(shape: Shape, vocabulary: int) -> dict:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "vocab_size": vocabulary,
        "type_vocab_size": TYPES,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


def _tensors(shape: Shape, vocabulary: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    hidden = shape.hidden

    def normal(name: str, *size: int, spread: float, around: float = 0.0) -> tuple[str, np.ndarray]:
        own = int.from_bytes(hashlib.sha256(f"{seed}\n{name}".encode()).digest()[:4], "big")
        values = np.random.RandomState(own).standard_normal(size).astype(np.float32)
        return name, values * np.float32(spread) + np.float32(around)

    def dense(name: str, out: int, into: int, stronger: float = 1.0) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", out, into, spread=stronger / into**0.5)
        yield normal(f"{name}.bias", out, spread=0.05)

    def norm(name: str) -> Iterator[tuple[str, np.ndarray]]:
        yield normal(f"{name}.weight", hidden, spread=0.15, around=0.9)
        yield normal(f"{name}.bias", hidden, spread=0.05)

    yield normal("embeddings.word_embeddings.weight", vocabulary, hidden, spread=0.05)
    yield normal("embeddings.position_embeddings.weight", shape.positions, hidden, spread=0.015)
    yield normal("embeddings.token_type_embeddings.weight", TYPES, hidden, spread=0.01)
    yield from norm("embeddings.LayerNorm")
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for part, stronger in (("self.query", 1.5), ("self.key", 1.5), ("self.value", 1.0), ("output.dense", 1.0)):
            yield from dense(f"{at}.attention.{part}", hidden, hidden, stronger)
        yield from norm(f"{at}.attention.output.LayerNorm")
        yield from dense(f"{at}.intermediate.dense", shape.intermediate, hidden)
        yield from dense(f"{at}.output.dense", hidden, shape.intermediate)
        yield from norm(f"{at}.output.LayerNorm")
