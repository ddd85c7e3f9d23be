"""The engines of an artifact, one a profile, and token ids enter; how far texts' vectors differ by their batch leaves.

A text is embedded alone, in small batches and in full ones, in every profile that holds it, as a sidecar may run it:
which engine runs and what is padded follows from the batch, and within one engine TensorRT's kernels, or the order in
which they add, follow from its shape. So vectors are as far apart as the precision rounds: see `LEAST`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import onnxruntime as ort

from .engine_run import rounded, widened
from .parity import padded
from .quality import row_cosines
from .runtime import LEAST_INVARIANCE
from .shape_profiles import Profile

# The least cosine that an engine is written with. Float16 engines of four models measured 0.99997 at least
# (docs/GPU.md). Before a quantized layer a difference of that size becomes a whole step where a value lies near a
# step's edge, so no quantized engine can promise 0.9999, not even with one profile. What it does: two vectors of one
# text, of the worst one, are no further apart than its quality gate lets the mean text be from fp32.
LEAST = {"fp32": 0.9999, "tf32": 0.9999, "fp16": 0.9999, "int8": 0.99, "fp8": 0.99}
TEXTS = 64
SMALL = 8
CPU_ROWS = 64  # a graph without engines has no kernels by shape: one batch of all texts is full enough
CPU_LEAST = LEAST_INVARIANCE  # for the same reason, whatever its precision


@dataclass(frozen=True)
class Part:
    """An engine, the profile that it was built for, and the most texts of a batch tried (None: the profile's)."""

    engine: ort.InferenceSession
    profile: Profile
    most: int | None = None

    def batches(self) -> list[int]:
        """Texts a batch: alone, small, as tuned for, full."""
        least, most = self.profile.least.batch, min(self.profile.most.batch, self.most or self.profile.most.batch)
        wanted = {least, SMALL, self.profile.best.batch, most}
        return sorted({max(least, min(size, most)) for size in wanted})


@dataclass(frozen=True)
class Invariance:
    """`cosine`: the least between two vectors of one text; `between`: which batches gave those two."""

    cosine: float
    texts: int
    between: str | None

    def facts(self) -> dict:
        """For the build report. Rounded down: a missed limit must not look like a kept one."""
        return {"cosine": math.floor(self.cosine * 1e7) / 1e7, "texts": self.texts, "between": self.between}


def measure(parts: Sequence[Part], rows: Sequence[np.ndarray], output: str, seed: int = 0) -> Invariance:
    """Every pair of ways to embed each text is compared; a way in which a text does not fit is left out for it."""
    ways: dict[str, dict[int, np.ndarray]] = {}
    for part in parts:
        fitting = [n for n, row in enumerate(rows) if len(row) <= part.profile.most.tokens]
        for size in part.batches():
            ways[f"{size} in {part.profile}"] = _embed(part, rows, fitting, size, output=output, seed=seed)
    worst, between = 1.0, None
    for (one, a), (other, b) in combinations(ways.items(), 2):
        both = sorted(a.keys() & b.keys())
        if not both:
            continue
        least = float(row_cosines(np.array([a[n] for n in both]), np.array([b[n] for n in both])).min())
        if least < worst:
            worst, between = least, f"batches of {one} and {other}"
    return Invariance(worst, len(rows), between)


def _embed(
    part: Part, rows: Sequence[np.ndarray], fitting: Sequence[int], size: int, *, output: str, seed: int
) -> dict[int, np.ndarray]:
    """Vectors by place of the text, in batches of `size` in random order; the last one is filled up with others."""
    names = [i.name for i in part.engine.get_inputs()]
    order = np.random.RandomState(seed + size).permutation(np.array(fitting, dtype=int))
    vectors: dict[int, np.ndarray] = {}
    for start in range(0, len(order), size):
        chosen = np.resize(np.roll(order, -start), size)
        feed = padded([rows[n] for n in chosen], names)
        feed = widened(feed, rounded(feed["input_ids"].shape[1], part.profile))
        vectors |= dict(zip(chosen.tolist(), part.engine.run([output], feed)[0], strict=True))
    return vectors
