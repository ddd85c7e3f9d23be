"""An ONNX file, token ids and expected vectors enter; how closely they agree leaves.

Rows are run in padded batches of mixed length, so that a graph whose padding leaks into its neighbours fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

BATCH = 4
LEAST_COSINE = 0.9999  # docs/BUNDLE.md, fp32


@dataclass(frozen=True)
class Parity:
    """Cosines between what the engine gives and what is expected; `passed` against `LEAST_COSINE`."""

    n: int
    mean_cosine: float
    min_cosine: float

    @property
    def passed(self) -> bool:
        return bool(self.min_cosine >= LEAST_COSINE)  # False for NaN


def session(model: Path) -> ort.InferenceSession:
    """A CPU session with every graph optimisation on, as the server runs it."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def padded(rows: Sequence[np.ndarray], input_names: Sequence[str], pad_id: int = 0) -> dict[str, np.ndarray]:
    """Rows of ids padded to the longest, with the mask and (if the graph has it) type 0 for every token."""
    width = max(len(row) for row in rows)
    feed = {
        "input_ids": np.array([np.pad(r, (0, width - len(r)), constant_values=pad_id) for r in rows], np.int64),
        "attention_mask": np.array([np.pad(np.ones_like(r), (0, width - len(r))) for r in rows], np.int64),
        "token_type_ids": np.zeros((len(rows), width), np.int64),
    }
    return {name: feed[name] for name in input_names}


def embed(model: Path, rows: Sequence[np.ndarray], output: str, batch: int = BATCH) -> np.ndarray:
    """float32 [rows, dim] from the ONNX file's `output`."""
    engine = session(model)
    names = [i.name for i in engine.get_inputs()]
    parts = [engine.run([output], padded(rows[i : i + batch], names))[0] for i in range(0, len(rows), batch)]
    return np.concatenate(parts)


def compare(got: np.ndarray, expected: np.ndarray) -> Parity:
    """Row by row; a zero or NaN vector counts as cosine 0."""
    cosines = np.array([cosine(a, b) for a, b in zip(got, expected, strict=True)])
    return Parity(n=len(cosines), mean_cosine=float(cosines.mean()), min_cosine=float(cosines.min()))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine in float64; 0 where either vector has no direction."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if np.isfinite(size) and size > 0 else 0.0
