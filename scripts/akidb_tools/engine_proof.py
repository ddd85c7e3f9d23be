"""An engine build's decided job and its finished files enter; the figures of its manifest's `evaluation` leave.

Quality: held-out texts against fp32, by the widest profile's engine. Batch invariance: the engines of all profiles
against each other. Decides nothing: which figure misses its gate is for the caller to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from . import engine_invariance, quality, tensorrt_provider, text_sets
from .engine_compile import names_of
from .engine_invariance import Part
from .engine_options import TEST, TOOL, Job
from .engine_run import embed
from .odd_texts import ODD_TEXTS


def prove(
    job: Job, engine: ort.InferenceSession, folder: Path, gate: Mapping[str, float], say: Callable[[str], None]
) -> tuple[dict, dict]:
    """The `evaluation` without a verdict, and what the build report says of the batches."""
    data = text_sets.read(job.options.test_dataset or TEST)
    texts = data.texts[: job.options.evaluate]
    rows = [job.encoder.ids(text) for text in texts]
    expected = expected_vectors(job, data.digest, rows, say)
    say(f"vectors of {len(rows):,} held-out texts")
    got = embed(engine, rows, job.source.bundle.output, job.profiles[-1])
    agreed = quality.agreement(expected, got)
    say("batch invariance")
    odd = [job.encoder.ids(text) for text in ODD_TEXTS]
    mixed = [*rows[: engine_invariance.TEXTS - len(odd)], *odd]
    found = engine_invariance.measure(_parts(job, engine, folder), mixed, job.source.bundle.output, job.options.seed)
    return {
        "kind": "quality",
        "dataset_digest": data.digest,
        "n": agreed.n,
        "mean_cosine": round(agreed.mean_cosine, 6),
        "min_cosine": round(agreed.min_cosine, 6),
        "recall_at_10": None if agreed.recall_at_10 is None else round(agreed.recall_at_10, 6),
        "batch_invariance": found.facts()["cosine"],
        "gate": dict(gate),
        "tool": TOOL,
    }, found.facts()


def _parts(job: Job, widest: ort.InferenceSession, folder: Path) -> list[Part]:
    """One a profile; of a graph that was not compiled, itself."""
    if job.options.graph_only:
        return [Part(widest, job.profiles[-1], engine_invariance.CPU_ROWS)]
    narrow = names_of(job.profiles)[:-1]
    engines = [tensorrt_provider.session(folder / name, "tensorrt", device=job.options.device) for name in narrow]
    return [Part(engine, profile) for engine, profile in zip([*engines, widest], job.profiles, strict=True)]


def expected_vectors(job: Job, digest: str, rows: Sequence[np.ndarray], say: Callable[[str], None]) -> np.ndarray:
    """fp32 vectors, by CUDA without TF32 where there is a GPU; kept in a file where one is named."""
    fp32, folder = job.source.fp32, job.options.expected_cache
    file = folder / f"{fp32.digest[:16]}-{digest[:16]}-{len(rows)}.npy" if folder else None
    if file is not None and file.is_file():
        return np.load(file)
    provider = "cuda" if job.options.provider == "tensorrt" else "cpu"
    say(f"fp32 vectors of {len(rows):,} held-out texts ({provider})")
    engine = tensorrt_provider.session(fp32.engine, provider, device=job.options.device, tf32=False)
    vectors = embed(engine, rows, fp32.output, job.profiles[-1])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{time.monotonic_ns()}.npy")
        np.save(partial, vectors)
        partial.replace(file)
    return vectors
