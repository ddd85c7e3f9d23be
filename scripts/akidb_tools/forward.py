"""Encoder weights and token ids enter; the unit vector a text should get leaves, in float64 with numpy alone.

This is the witness against the ONNX graph: it has its own names, its own formulas and no batch or padding, and must
never import `bert_graph` or `pooling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .architecture import EncoderConfig

_ERF_STEP = 1 / 512
_ERF_END = 6.0
_ERF_X = np.arange(0.0, _ERF_END + _ERF_STEP, _ERF_STEP)
_ERF_Y = np.array([math.erf(x) for x in _ERF_X])
_ERF_SLOPE = 2 / math.sqrt(math.pi) * np.exp(-(_ERF_X**2))

# bert/roberta name, distilbert name
_PARTS = {
    "q": ("encoder.layer.%d.attention.self.query", "transformer.layer.%d.attention.q_lin"),
    "k": ("encoder.layer.%d.attention.self.key", "transformer.layer.%d.attention.k_lin"),
    "v": ("encoder.layer.%d.attention.self.value", "transformer.layer.%d.attention.v_lin"),
    "o": ("encoder.layer.%d.attention.output.dense", "transformer.layer.%d.attention.out_lin"),
    "norm1": ("encoder.layer.%d.attention.output.LayerNorm", "transformer.layer.%d.sa_layer_norm"),
    "fc1": ("encoder.layer.%d.intermediate.dense", "transformer.layer.%d.ffn.lin1"),
    "fc2": ("encoder.layer.%d.output.dense", "transformer.layer.%d.ffn.lin2"),
    "norm2": ("encoder.layer.%d.output.LayerNorm", "transformer.layer.%d.output_layer_norm"),
}


class Forward:
    """One encoder, ready to embed; weights are widened to float64 once."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, np.ndarray]) -> None:
        self._config = config
        self._w = {name: value.astype(np.float64) for name, value in weights.items()}

    def hidden_states(self, ids: np.ndarray) -> np.ndarray:
        """Last hidden states [tokens, dim] of one text, `ids` int64 [tokens], all of them real tokens."""
        x = self._embed(ids)
        for layer in range(self._config.layers):
            x = self._layer(x, layer)
        return x

    def embedding(self, ids: np.ndarray, pooling: str) -> np.ndarray:
        """Unit vector [dim]."""
        return pool_one(self.hidden_states(ids), pooling)

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        x = self._w["embeddings.word_embeddings.weight"][ids]
        first = self._config.position_offset
        x = x + self._w["embeddings.position_embeddings.weight"][np.arange(first, first + len(ids))]
        if "embeddings.token_type_embeddings.weight" in self._w:
            x = x + self._w["embeddings.token_type_embeddings.weight"][0]
        return self._layer_norm(x, "embeddings.LayerNorm")

    def _layer(self, x: np.ndarray, layer: int) -> np.ndarray:
        distil = self._config.model_type == "distilbert"
        name = {part: names[1 if distil else 0] % layer for part, names in _PARTS.items()}
        count, heads = len(x), self._config.heads
        q, k, v = (self._dense(x, name[p]).reshape(count, heads, -1).swapaxes(0, 1) for p in "qkv")
        attention = _softmax(np.einsum("htd,hsd->hts", q, k) / math.sqrt(q.shape[-1]))
        context = np.einsum("hts,hsd->thd", attention, v).reshape(count, -1)
        x = self._layer_norm(x + self._dense(context, name["o"]), name["norm1"])
        inner = self._dense(x, name["fc1"])
        inner = np.maximum(inner, 0) if self._config.activation == "relu" else _gelu(inner)
        return self._layer_norm(x + self._dense(inner, name["fc2"]), name["norm2"])

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"]

    def _layer_norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + self._config.norm_eps)
        return centred / deviation * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]


def pool_one(hidden: np.ndarray, pooling: str) -> np.ndarray:
    """Unit vector [dim] of one text's hidden states [tokens, dim]."""
    vector = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    return vector / np.linalg.norm(vector)


def _softmax(x: np.ndarray) -> np.ndarray:
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _erf(x: np.ndarray) -> np.ndarray:
    """Error function by cubic Hermite interpolation of `math.erf` (numpy has none); absolute error < 1e-12."""
    size = np.minimum(np.abs(x), _ERF_END - _ERF_STEP)
    at = (size / _ERF_STEP).astype(np.int64)
    t = size / _ERF_STEP - at
    left, right = _ERF_Y[at], _ERF_Y[at + 1]
    slope_left, slope_right = _ERF_SLOPE[at] * _ERF_STEP, _ERF_SLOPE[at + 1] * _ERF_STEP
    cubic = left * (1 + 2 * t) * (1 - t) ** 2 + slope_left * t * (1 - t) ** 2
    cubic += right * t**2 * (3 - 2 * t) + slope_right * t**2 * (t - 1)
    return np.copysign(cubic, x)
