"""config.json of an encoder enters; its shape, and the tensors it must consist of, leave.

An architecture, activation or tensor that the graph cannot honour is refused by name. Reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checkpoint import read_json
from .errors import BadInput

ARCHITECTURES = {
    "bert": ("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    "roberta": ("RobertaModel", "RobertaForMaskedLM"),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    "camembert": ("CamembertModel", "CamembertForMaskedLM"),
    "distilbert": ("DistilBertModel", "DistilBertForMaskedLM"),
}
ACTIVATIONS = ("gelu", "relu")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of a BERT-family encoder. `max_positions` counts usable positions, after `position_offset`."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    max_positions: int
    position_offset: int
    type_vocab: int
    norm_eps: float
    activation: str


def encoder_config(file: Path) -> EncoderConfig:
    """config.json of a supported architecture; anything else is refused by name."""
    if not file.is_file():
        raise BadInput(f"{file} is missing: it says which architecture the weights belong to")
    raw = read_json(file, [], {})
    kind = raw.get("model_type")
    names = raw.get("architectures") or []
    supported = ", ".join(f"{k} ({', '.join(v)})" for k, v in ARCHITECTURES.items())
    if kind not in ARCHITECTURES:
        raise BadInput(f"{file}: model_type {kind!r} (architectures {names}) is not supported; supported: {supported}")
    if any(name not in ARCHITECTURES[kind] for name in names):
        raise BadInput(f"{file}: architectures {names} are not supported for {kind}; supported: {supported}")
    if raw.get("is_decoder"):
        raise BadInput(f"{file}: is_decoder is true; only encoders can be exported")
    position = raw.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise BadInput(f"{file}: position_embedding_type {position!r} is not supported; supported: absolute")
    distil = kind == "distilbert"

    def value(key: str, distil_key: str, kind_of: type = int) -> int | float | str:
        chosen = distil_key if distil else key
        if not isinstance(raw.get(chosen), kind_of):
            raise BadInput(f"{file}: {chosen} is {raw.get(chosen)!r}, expected {kind_of.__name__}")
        return raw[chosen]

    activation = value("hidden_act", "activation", str)
    if activation not in ACTIVATIONS:
        raise BadInput(f"{file}: hidden_act {activation!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    hidden, heads = value("hidden_size", "dim"), value("num_attention_heads", "n_heads")
    if heads < 1 or hidden < 1 or hidden % heads:
        raise BadInput(f"{file}: hidden size {hidden} is not a multiple of {heads} attention heads")
    # RoBERTa counts positions from the padding id + 1.
    offset = 0 if kind in ("bert", "distilbert") else int(raw.get("pad_token_id", 1)) + 1
    return EncoderConfig(
        model_type=kind,
        layers=value("num_hidden_layers", "n_layers"),
        hidden=hidden,
        heads=heads,
        intermediate=value("intermediate_size", "hidden_dim"),
        max_positions=value("max_position_embeddings", "max_position_embeddings") - offset,
        position_offset=offset,
        type_vocab=0 if distil else int(raw.get("type_vocab_size", 2)),
        norm_eps=1e-12 if distil else float(raw.get("layer_norm_eps", 1e-12)),
        activation=activation,
    )


def stated_positions(file: Path) -> int | None:
    """Positions of a model whose graph came from elsewhere, so that its architecture does not matter here."""
    raw = read_json(file, [], {})
    most = raw.get("max_position_embeddings")
    if not isinstance(most, int) or most < 3:
        return None
    return most - (int(raw.get("pad_token_id", 1)) + 1 if "roberta" in str(raw.get("model_type")) else 0)


def check_tensors(config: EncoderConfig, tensors: Mapping[str, np.ndarray], vocabulary: int) -> None:
    """The weights fit the config and the tokenizer, and none of them would be left out of the graph."""
    expected = _expected_shapes(config)
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise BadInput(f"the checkpoint lacks {len(missing)} tensors, first {missing[0]}: is its config.json its own?")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise BadInput(f"the checkpoint has {len(unknown)} tensors this graph would ignore, the first {unknown[0]}")
    for name, shape in expected.items():
        got = tensors[name].shape
        if len(got) != len(shape) or any(want not in (None, has) for want, has in zip(shape, got, strict=True)):
            raise BadInput(f"tensor {name} has shape {list(got)}, config.json says {list(shape)} (None: any)")
    words = len(tensors["embeddings.word_embeddings.weight"])
    if vocabulary > words:
        raise BadInput(f"the tokenizer knows {vocabulary} tokens, the checkpoint {words}: they do not belong together")


def _expected_shapes(config: EncoderConfig) -> dict[str, tuple[int | None, ...]]:
    """Every tensor the encoder has, with its shape; None: any length."""
    hidden, inner = config.hidden, config.intermediate
    shapes: dict[str, tuple[int | None, ...]] = {
        "embeddings.word_embeddings.weight": (None, hidden),
        "embeddings.position_embeddings.weight": (config.max_positions + config.position_offset, hidden),
    }
    if config.type_vocab:
        shapes["embeddings.token_type_embeddings.weight"] = (config.type_vocab, hidden)
    square, norm = [(hidden, hidden)], [(hidden,)]
    if config.model_type == "distilbert":
        parts = {f"attention.{p}_lin": square for p in ("q", "k", "v", "out")}
        parts |= {"sa_layer_norm": norm, "output_layer_norm": norm}
        parts |= {"ffn.lin1": [(inner, hidden)], "ffn.lin2": [(hidden, inner)]}
        stem = "transformer.layer"
    else:
        parts = {f"attention.self.{p}": square for p in ("query", "key", "value")}
        parts |= {"attention.output.dense": square, "attention.output.LayerNorm": norm, "output.LayerNorm": norm}
        parts |= {"intermediate.dense": [(inner, hidden)], "output.dense": [(hidden, inner)]}
        stem = "encoder.layer"
    named = {"embeddings.LayerNorm": norm}
    named |= {f"{stem}.{n}.{part}": shape for n in range(config.layers) for part, shape in parts.items()}
    for name, (shape,) in named.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes
