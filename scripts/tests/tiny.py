"""A folder enters; a seeded checkpoint of a few kilobytes in the Hugging Face layout leaves, for any supported family.

The weights come from numpy's frozen `RandomState`, so that vectors made once elsewhere stay comparable.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HIDDEN, INNER, LAYERS, HEADS, POSITIONS = 32, 64, 2, 4, 40
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = SPECIAL + list(string.printable[:95]) + [f"##{c}" for c in string.printable[:95]]
ARCHITECTURE = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
    "camembert": "CamembertModel",
    "distilbert": "DistilBertModel",
}
TEXTS = ["hello world", "x", "a much longer sentence that does not fit into the forty positions there are"]


def checkpoint(folder: Path, model_type: str = "bert", pooling: str | None = "mean", seed: int = 7, **config) -> Path:
    """Writes the checkpoint; `config` overrides keys of config.json. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**_config(model_type), **config}
    _write(folder / "config.json", settings)
    save_file(_tensors(settings, np.random.RandomState(seed)), folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 24})
    if pooling:
        modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        flags = {f"pooling_mode_{m}": m.startswith(pooling + "_to") for m in modes}
        (folder / "1_Pooling").mkdir(exist_ok=True)
        _write(folder / "1_Pooling/config.json", {"word_embedding_dimension": HIDDEN, **flags})
    return folder


def edit(file: Path, **changes) -> None:
    """Changes keys of a JSON file."""
    _write(file, {**json.loads(file.read_text("utf-8")), **changes})


def _write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value), "utf-8")


def _config(model_type: str) -> dict:
    if model_type == "distilbert":
        sizes = {"dim": HIDDEN, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": HEADS, "activation": "gelu"}
    else:
        sizes = {
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "hidden_act": "gelu",
            "type_vocab_size": 2 if model_type == "bert" else 1,
            "layer_norm_eps": 1e-12 if model_type == "bert" else 1e-5,
        }
    return {
        "model_type": model_type,
        "architectures": [ARCHITECTURE[model_type]],
        "vocab_size": len(WORDS),
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0 if model_type in ("bert", "distilbert") else 1,
        **sizes,
    }


def _tensors(config: dict, random: np.random.RandomState) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 0.25, around: float = 0.0) -> None:
        tensors[name] = (random.standard_normal(shape) * scale + around).astype(np.float32)

    def dense(name: str, out: int, into: int) -> None:
        add(f"{name}.weight", out, into)
        add(f"{name}.bias", out)

    def norm(name: str) -> None:
        add(f"{name}.weight", HIDDEN, around=1.0)
        add(f"{name}.bias", HIDDEN)

    add("embeddings.word_embeddings.weight", len(WORDS), HIDDEN)
    add("embeddings.position_embeddings.weight", POSITIONS, HIDDEN)
    distil = config["model_type"] == "distilbert"
    if not distil:
        add("embeddings.token_type_embeddings.weight", config["type_vocab_size"], HIDDEN)
    norm("embeddings.LayerNorm")
    for n in range(LAYERS):
        at = f"transformer.layer.{n}" if distil else f"encoder.layer.{n}"
        for part in ("q", "k", "v", "out"):
            long = {"q": "self.query", "k": "self.key", "v": "self.value", "out": "output.dense"}[part]
            dense(f"{at}.attention.{part}_lin" if distil else f"{at}.attention.{long}", HIDDEN, HIDDEN)
        norm(f"{at}.sa_layer_norm" if distil else f"{at}.attention.output.LayerNorm")
        dense(f"{at}.ffn.lin1" if distil else f"{at}.intermediate.dense", INNER, HIDDEN)
        dense(f"{at}.ffn.lin2" if distil else f"{at}.output.dense", HIDDEN, INNER)
        norm(f"{at}.output_layer_norm" if distil else f"{at}.output.LayerNorm")
    return tensors


def _tokenizer() -> Tokenizer:
    """Character pieces; padded to a fixed length and cut at 12, as many published files are."""
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(12)
    return tokenizer
