"""A session and token ids enter; vectors, or the time of batches, leave. Shapes stay inside the engine's profile.

Lengths are rounded up, so that an engine meets few shapes: a new one costs TensorRT milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from .parity import padded
from .shape_profiles import Profile

BATCH = 64
STEP = 16


def embed(engine: ort.InferenceSession, rows: Sequence[np.ndarray], output: str, profile: Profile) -> np.ndarray:
    """float32 [rows, dimension] in the order of `rows`, in batches of like length."""
    names = [i.name for i in engine.get_inputs()]
    order = sorted(range(len(rows)), key=lambda n: (len(rows[n]), n))
    batch = min(BATCH, profile.most.batch)
    vectors: list[np.ndarray | None] = [None] * len(rows)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        feed = padded([rows[n] for n in chosen], names)
        feed = widened(feed, rounded(feed["input_ids"].shape[1], profile))
        for n, vector in zip(chosen, engine.run([output], feed)[0], strict=True):
            vectors[n] = vector
    return np.array(vectors)


def rounded(tokens: int, profile: Profile) -> int:
    """The next multiple of `STEP`, inside the profile."""
    return max(profile.least.tokens, min(-(-tokens // STEP) * STEP, profile.most.tokens))


def widened(feed: Mapping[str, np.ndarray], tokens: int) -> dict[str, np.ndarray]:
    """The same batch with padding up to `tokens`."""
    return {n: np.pad(value, ((0, 0), (0, max(0, tokens - value.shape[1])))) for n, value in feed.items()}


class Bound:
    """One batch whose inputs and output stay on the device (or in place, on a CPU)."""

    def __init__(
        self, engine: ort.InferenceSession, feed: Mapping[str, np.ndarray], output: tuple[str, int], device: str
    ) -> None:
        """`output` is its name and dimension."""
        self._engine = engine
        self._binding = engine.io_binding()
        self._kept = []
        for info in engine.get_inputs():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(feed[info.name]), device, 0)
            self._kept.append(value)
            self._binding.bind_ortvalue_input(info.name, value)
        batch = len(next(iter(feed.values())))
        self.output = ort.OrtValue.ortvalue_from_shape_and_type((batch, output[1]), np.float32, device, 0)
        self._binding.bind_ortvalue_output(output[0], self.output)

    def run(self) -> float:
        """Seconds of one batch, to its end on the device."""
        started = time.perf_counter()
        self._engine.run_with_iobinding(self._binding)
        return time.perf_counter() - started
