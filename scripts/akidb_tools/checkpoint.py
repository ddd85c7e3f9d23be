"""A checkpoint folder's small files enter; what they say about the encoder, pooling and limits leaves.

Every value that the exporter cannot honour is refused here by name: an embedding that is silently different from the
checkpoint's own is the worst result this tool could give. Reads no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import BadInput
from .pooling import POOLINGS

ARCHITECTURES = {
    "bert": ("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    "roberta": ("RobertaModel", "RobertaForMaskedLM"),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    "camembert": ("CamembertModel", "CamembertForMaskedLM"),
    "distilbert": ("DistilBertModel", "DistilBertForMaskedLM"),
}
ACTIVATIONS = ("gelu", "relu")
MODULES = ("Transformer", "Pooling", "Normalize")
UNLIMITED = 1_000_000  # tokenizers write 1e30 for "no limit"
SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0"}


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


@dataclass(frozen=True)
class Checkpoint:
    """What a folder says. `files` are the ones that were read, for the lineage; None or empty: not stated."""

    folder: Path
    transformer: Path
    pooling: str | None
    max_tokens: int | None
    lowercase: bool
    license: str | None
    prompts: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def read(folder: Path) -> Checkpoint:
    """Pooling, limits, prompts and licence of `folder` (sentence-transformers layout or a plain one)."""
    seen: list[Path] = []
    transformer, pooling_folder = _modules(folder, seen)
    sentence = _json(transformer / "sentence_bert_config.json", seen, {})
    tokenizer = _json(transformer / "tokenizer_config.json", seen, {})
    limits = [sentence.get("max_seq_length"), tokenizer.get("model_max_length")]
    stated = [int(v) for v in limits if isinstance(v, int | float) and 0 < v < UNLIMITED]
    settings = _json(folder / "config_sentence_transformers.json", seen, {})
    prompts = settings.get("prompts") or {}
    return Checkpoint(
        folder=folder,
        transformer=transformer,
        pooling=_pooling(pooling_folder / "config.json", seen),
        max_tokens=stated[0] if stated else None,
        lowercase=bool(sentence.get("do_lower_case", False)),
        license=_license(folder / "README.md"),
        prompts={str(k): str(v) for k, v in prompts.items() if v},
        files=tuple(seen),
    )


def encoder_config(file: Path) -> EncoderConfig:
    """config.json of a supported architecture; anything else is refused by name."""
    if not file.is_file():
        raise BadInput(f"{file} is missing: it says which architecture the weights belong to")
    raw = _json(file, [], {})
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
    raw = _json(file, [], {})
    most = raw.get("max_position_embeddings")
    if not isinstance(most, int) or most < 3:
        return None
    return most - (int(raw.get("pad_token_id", 1)) + 1 if "roberta" in str(raw.get("model_type")) else 0)


def check_tensors(config: EncoderConfig, tensors: Mapping[str, np.ndarray], vocabulary: int) -> None:
    """The weights fit the config and the tokenizer, and none of them would be left out of the graph."""
    expected = _expected_shapes(config)
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise BadInput(f"the checkpoint has no tensor {missing[0]} ({len(missing)} missing): is its config.json its own?")
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise BadInput(f"the checkpoint has {len(unknown)} tensors that this graph would ignore, the first {unknown[0]}")
    for name, shape in expected.items():
        got = tensors[name].shape
        if len(got) != len(shape) or any(want is not None and want != has for want, has in zip(shape, got, strict=True)):
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


def _json(file: Path, seen: list[Path], absent: dict) -> dict:
    if not file.is_file():
        return absent
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from error
    if not isinstance(value, type(absent)):
        raise BadInput(f"{file} holds {type(value).__name__}, expected {type(absent).__name__}")
    seen.append(file)
    return value


def _modules(folder: Path, seen: list[Path]) -> tuple[Path, Path]:
    """Folders of the transformer and the pooling; modules that would change the vector are refused."""
    modules = _json(folder / "modules.json", seen, [])
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in MODULES:
            raise BadInput(f"{folder / 'modules.json'}: module {kind} is not supported; supported: {', '.join(MODULES)}")
        path = str(module.get("path", ""))
        if Path(path).is_absolute() or ".." in Path(path).parts or "\\" in path:
            raise BadInput(f"{folder / 'modules.json'}: path {path!r} leaves the checkpoint's folder")
        paths[kind] = path
    return folder / paths["Transformer"], folder / paths["Pooling"]


def _pooling(file: Path, seen: list[Path]) -> str | None:
    raw = _json(file, seen, {})
    if not raw:
        return None
    if raw.get("include_prompt", True) is False:
        raise BadInput(f"{file}: include_prompt = false (prompt left out of the mean) is not supported")
    short = {"mean_tokens": "mean", "cls_token": "cls"}
    modes = [short.get(k[13:], k[13:]) for k, on in raw.items() if k.startswith("pooling_mode_") and on is True]
    stated = raw.get("pooling_mode", modes)
    modes = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise BadInput(
            f"{file}: pooling mode {' + '.join(modes) or 'none'} is not supported; supported: {', '.join(POOLINGS)}"
        )
    return modes[0]


def _license(readme: Path) -> str | None:
    """`license:` of a model card's front matter, as an SPDX id where it is a known one."""
    if not readme.is_file():
        return None
    matter = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", errors="replace"), re.DOTALL)
    found = matter and re.search(r"^license:\s*['\"]?([\w.+-]+)", matter[1], re.MULTILINE)
    if not found or found[1].lower() in ("other", "unknown"):
        return None
    return SPDX.get(found[1].lower(), found[1])
