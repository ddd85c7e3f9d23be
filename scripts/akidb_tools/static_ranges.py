"""Absolute values that a tensor took enter; how far a fixed int8 scale should reach leaves, by three calibrators.

`maximum` never clips what calibration saw; `percentile` drops the rarest; `entropy` takes the reach whose 128 levels
keep most of the histogram's information (least Kullback-Leibler divergence, as TensorRT's calibrator does).
"""

from __future__ import annotations

import numpy as np

PERCENTILE = 0.9999
BINS, LEVELS = 2_048, 128


def reaches(values: np.ndarray, maximum: float) -> dict[str, float]:
    """Reach by calibrator; `maximum` is the largest absolute value of the whole calibration, not of the sample."""
    percentile = float(np.quantile(values, PERCENTILE))
    found = {"maximum": maximum, "percentile": percentile, "entropy": _entropy(values)}
    return {name: max(reach, 1e-9) for name, reach in found.items()}


def _entropy(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, BINS)
    counts = counts.astype(np.float64)
    best, reach = np.inf, float(edges[-1])
    for stop in range(LEVELS, BINS + 1, LEVELS // 2):
        clipped = counts[:stop].copy()
        clipped[-1] += counts[stop:].sum()
        owner = np.arange(stop) * LEVELS // stop
        filled = counts[:stop] > 0
        total = np.bincount(owner, counts[:stop], LEVELS)
        share = np.bincount(owner, filled, LEVELS)
        coarse = np.where(filled, (total / np.maximum(share, 1))[owner], 0.0)
        p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1e-30)
        seen = p > 0
        divergence = float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())
        if divergence < best:
            best, reach = divergence, float(edges[stop])
    return reach
