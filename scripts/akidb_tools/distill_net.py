"""Tensors by their Hugging Face names and token ids enter; embeddings that torch can differentiate leave.

The only architecture is the BERT family's, as `forward` has it. Needs torch (requirements-distill.txt).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .architecture import EncoderConfig
from .distill_plan import STEM, Moments

WORDS = "embeddings.word_embeddings.weight"


class Encoder:
    """An encoder in float32; `parameters` are its tensors by name."""

    def __init__(self, config: EncoderConfig, tensors: Mapping[str, np.ndarray], pooling: str, device: str) -> None:
        self.config, self.pooling, self.device = config, pooling, device
        self.parameters = {name: torch.tensor(value, device=device) for name, value in tensors.items()}

    def states(self, ids: torch.Tensor, mask: torch.Tensor, inner: list[torch.Tensor] | None = None) -> torch.Tensor:
        """The last hidden states, float32 [batch, tokens, width]; `inner` collects the feed-forward activations."""
        x = self._tokens(ids)
        seen = mask[:, None, None, :] if not bool(mask.all()) else None
        for layer in range(self.config.layers):
            x = self._layer(x, seen, f"{STEM}{layer}.", inner)
        return x.float()

    def pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors float32 [batch, dimension] of hidden states."""
        if self.pooling == "cls":
            return F.normalize(states[:, 0], dim=-1)
        real = mask.unsqueeze(-1).float()
        return F.normalize((states * real).sum(1) / real.sum(1), dim=-1)

    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors, as numpy has them."""
        return {name: value.detach().float().cpu().numpy() for name, value in self.parameters.items()}

    def _tokens(self, ids: torch.Tensor) -> torch.Tensor:
        w, first = self.parameters, self.config.position_offset
        x = F.embedding(ids, w[WORDS], sparse=True)
        x = x + w["embeddings.position_embeddings.weight"][first : first + ids.shape[1]]
        if "embeddings.token_type_embeddings.weight" in w:
            x = x + w["embeddings.token_type_embeddings.weight"][0]
        return self._norm(x, "embeddings.LayerNorm")

    def _layer(
        self, x: torch.Tensor, seen: torch.Tensor | None, at: str, inner: list[torch.Tensor] | None
    ) -> torch.Tensor:
        batch, width, hidden = x.shape
        parts = (self._dense(x, f"{at}attention.self.{part}") for part in ("query", "key", "value"))
        heads = (part.view(batch, width, self.config.heads, -1).transpose(1, 2) for part in parts)
        mixed = _attend(*heads, seen).transpose(1, 2).reshape(batch, width, hidden)
        x = self._norm(x + self._dense(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        grown = self._dense(x, f"{at}intermediate.dense")
        grown = F.relu(grown) if self.config.activation == "relu" else F.gelu(grown)
        if inner is not None:
            inner.append(grown)
        return self._norm(x + self._dense(grown, f"{at}output.dense"), f"{at}output.LayerNorm")

    def _dense(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        w = self.parameters
        return F.layer_norm(x, (x.shape[-1],), w[f"{name}.weight"], w[f"{name}.bias"], self.config.norm_eps)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Attention; spelt out on a CPU that trains, where torch's own takes a third of a step if texts are short."""
    if not (query.requires_grad and query.device.type == "cpu"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1) @ value


def batch(rows: Sequence[np.ndarray], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids int64 and mask bool [rows, longest]; the padding's id does not matter, it is masked."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def embed_all(encoder: Encoder, rows: Sequence[np.ndarray], size: int = 64, half: bool = False) -> np.ndarray:
    """float32 [rows, dimension] in the order of `rows`, without gradients; `half`: products in bfloat16."""
    vectors = np.empty((len(rows), encoder.config.hidden), np.float32)
    for chosen, states, mask in _in_batches(encoder, rows, size, half):
        vectors[chosen] = encoder.pool(states, mask).cpu().numpy()
    return vectors


def states_of_all(encoder: Encoder, rows: Sequence[np.ndarray], size: int = 64, half: bool = False) -> np.ndarray:
    """Last hidden states float16 [tokens of all rows, width], row after row in the order of `rows`."""
    lengths = np.array([len(row) for row in rows])
    starts, found = np.cumsum(lengths) - lengths, np.empty((lengths.sum(), encoder.config.hidden), np.float16)
    for chosen, states, _ in _in_batches(encoder, rows, size, half):
        for n, state in zip(chosen, states.half().cpu().numpy(), strict=True):
            found[starts[n] : starts[n] + lengths[n]] = state[: lengths[n]]
    return found


def _in_batches(
    encoder: Encoder, rows: Sequence[np.ndarray], size: int, half: bool
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Which rows, their last hidden states and their mask; like lengths together, without gradients."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        ids, mask = batch([rows[n] for n in chosen], encoder.device)
        with torch.no_grad(), torch.autocast(encoder.device, torch.bfloat16, enabled=half):
            states = encoder.states(ids, mask)
        yield chosen, states, mask


def moments(encoder: Encoder, rows: Sequence[np.ndarray], layers: Sequence[int]) -> dict[int, Moments]:
    """Mean and covariance of the feed-forward activations of `layers` over `rows`."""
    width = encoder.config.intermediate
    count, first = 0, {n: np.zeros(width) for n in layers}
    second = {n: np.zeros((width, width)) for n in layers}
    ordered = sorted(rows, key=len)
    with torch.no_grad():
        for start in range(0, len(ordered), 64):
            inner: list[torch.Tensor] = []
            ids, mask = batch(ordered[start : start + 64], encoder.device)
            encoder.states(ids, mask, inner)
            count += int(mask.sum())
            for n in layers:
                real = inner[n][mask].float()
                first[n] += real.sum(0).double().cpu().numpy()
                second[n] += (real.T @ real).double().cpu().numpy()
    means = {n: first[n] / count for n in layers}
    return {n: Moments(means[n], second[n] / count - np.outer(means[n], means[n])) for n in layers}
