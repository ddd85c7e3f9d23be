"""Vectors of an fp32 engine and of another one enter; how much of the neighbourhood survived leaves. Only numpy.

Shapes: `[texts, dimension]`, float32, same texts in the same order. A zero or NaN vector counts as cosine 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 10
CHUNK = 1024


@dataclass(frozen=True)
class Agreement:
    """Cosines text by text, and the share of the fp32 engine's 10 nearest neighbours that the other one finds."""

    n: int
    mean_cosine: float
    min_cosine: float
    p1_cosine: float
    recall_at_10: float | None


def agreement(expected: np.ndarray, got: np.ndarray) -> Agreement:
    """Both sets are searched within themselves, each text leaving itself out."""
    cosines = row_cosines(expected, got)
    recall = recall_at_10(expected, got) if len(expected) > 2 * NEIGHBOURS else None
    return Agreement(
        n=len(cosines),
        mean_cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        p1_cosine=float(np.quantile(cosines, 0.01)),
        recall_at_10=recall,
    )


def row_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`, float64 [rows]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    usable = np.isfinite(size) & (size > 0)
    return np.where(usable, (a * b).sum(axis=1) / np.where(usable, size, 1), 0.0)


def recall_at_10(expected: np.ndarray, got: np.ndarray) -> float:
    """Mean share of common members of both top-10 lists."""
    a, b = _unit(expected), _unit(got)
    shared = 0
    for start in range(0, len(a), CHUNK):
        top_a, top_b = _nearest(a, start), _nearest(b, start)
        shared += sum(len(np.intersect1d(x, y, assume_unique=True)) for x, y in zip(top_a, top_b, strict=True))
    return shared / (NEIGHBOURS * len(a))


def spearman(vectors: dict[str, np.ndarray], pairs: Sequence[tuple[str, str, float]]) -> float:
    """Rank correlation of the pairs' cosines with their grades (ties get their mean rank)."""
    cosines = row_cosines(np.array([vectors[a] for a, _, _ in pairs]), np.array([vectors[b] for _, b, _ in pairs]))
    ranks = [_ranks(cosines), _ranks(np.array([grade for _, _, grade in pairs]))]
    return float(np.corrcoef(ranks)[0, 1])


def _nearest(units: np.ndarray, start: int) -> np.ndarray:
    scores = units[start : start + CHUNK] @ units.T
    rows = np.arange(len(scores))
    scores[rows, start + rows] = -2
    return np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.nan_to_num(vectors.astype(np.float32))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
