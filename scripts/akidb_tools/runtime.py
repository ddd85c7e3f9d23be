"""An ONNX model and token ids enter; vectors, speeds, and the kernels that really ran leave.

Sessions share their cores (no spinning) and pad only within a batch of like lengths. Never changes a model.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto

from .parity import padded

THREADS = int(os.environ.get("AKIDB_TOOL_THREADS", "2"))
BATCH = 16
LARGE = 256_000_000  # bytes of a graph that is not kept in memory twice
LEAST_INVARIANCE = 0.9999
INT8_KERNELS = (
    "MatMulIntegerToFloat",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
    "MatMulNBits",
)


def session(
    model: ModelProto | Path, *, fp8: bool = False, profile: Path | None = None, optimized: Path | None = None
) -> ort.InferenceSession:
    """A CPU session with every optimisation on; `profile` and `optimized` say where to write those.

    `fp8`: emulate. ONNX Runtime would fuse float8 QDQ pairs into integer products, which then refuse the type.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if fp8:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if optimized:
        options.optimized_model_filepath = str(optimized)
    if not isinstance(model, ModelProto):
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if model.ByteSize() < LARGE:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # By way of a file: the bytes would stay in memory beside the graph and the session while that is made.
    with tempfile.TemporaryDirectory() as folder:
        onnx.save_model(model, Path(folder, "model.onnx"))
        return ort.InferenceSession(Path(folder, "model.onnx"), options, providers=["CPUExecutionProvider"])


def embed(engine: ort.InferenceSession, rows: Sequence[np.ndarray], output: str, batch: int = BATCH) -> np.ndarray:
    """float32 [rows, dimension] in the order of `rows`, run in batches of like length."""
    names = [i.name for i in engine.get_inputs()]
    order = sorted(range(len(rows)), key=lambda n: (len(rows[n]), n))
    vectors: list[np.ndarray | None] = [None] * len(rows)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for n, vector in zip(chosen, engine.run([output], padded([rows[n] for n in chosen], names))[0], strict=True):
            vectors[n] = vector
    return np.array(vectors)


def batch_invariance(engine: ort.InferenceSession, rows: Sequence[np.ndarray], output: str, seed: int) -> float:
    """Least cosine of a text embedded alone to the same text among 15 others of any length."""
    names = [i.name for i in engine.get_inputs()]
    order = np.random.RandomState(seed).permutation(len(rows))
    worst = 1.0
    for start in range(0, len(order), BATCH):
        chosen = [rows[n] for n in order[start : start + BATCH]]
        together = engine.run([output], padded(chosen, names))[0].astype(np.float64)
        for row, vector in zip(chosen, together, strict=True):
            alone = engine.run([output], padded([row], names))[0][0].astype(np.float64)
            size = np.linalg.norm(alone) * np.linalg.norm(vector)
            worst = min(worst, float(alone @ vector / size) if size > 0 else 0.0)
    return worst


@dataclass(frozen=True)
class Kernels:
    """Kernels run by one batch, by name; how many linear layers ran as int8 and how many as float."""

    counts: dict[str, int]
    linear_int8: int
    linear_float: int


def kernels(model: ModelProto | Path, rows: Sequence[np.ndarray], output: str, fp8: bool = False) -> Kernels:
    """From a profile of a real run, with the float linear layers counted in the optimised graph."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        engine = session(model, fp8=fp8, profile=Path(folder, "run"), optimized=optimized)
        engine.run([output], padded(rows[:2], [i.name for i in engine.get_inputs()]))
        events = json.loads(Path(engine.end_profiling()).read_text("utf-8"))
        del engine  # a large model does not fit twice
        graph = onnx.load(optimized).graph
    ran = Counter(e["args"]["op_name"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
    constants = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    linear = [n for n in graph.node if n.op_type in ("MatMul", "FusedMatMul", "Gemm") and n.input[1] in constants]
    return Kernels(dict(sorted(ran.items())), sum(ran[name] for name in INT8_KERNELS), len(linear))


def throughput(
    engines: Mapping[str, ort.InferenceSession], output: str, rows: Sequence[np.ndarray], runs: int
) -> dict[str, dict]:
    """Median time of one batch, the engines taking turns in one process; texts a second and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(runs + 1):
        for name, engine in engines.items():
            feed = padded(rows, [i.name for i in engine.get_inputs()])
            started = time.perf_counter()
            engine.run([output], feed)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: float(np.median(taken[1:])) for name, taken in seconds.items()}
    first = next(iter(medians.values()))
    return {
        name: {"median_ms": round(1e3 * s, 3), "texts_per_s": round(len(rows) / s, 1), "speedup": round(first / s, 3)}
        for name, s in medians.items()
    }
