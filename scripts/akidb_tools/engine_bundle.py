"""Compiled engines in a folder and their proof enter; the bundle's other files, its manifest and the report leave.

Knows no GPU but by the facts that it is given. Compiles and proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import bundle, bundle_reader, gpu_machine, tensorrt_provider, text_sets
from .engine_options import CALIBRATION, TOOL, Job
from .shape_profiles import join

REPORT = "build-report.json"


@dataclass(frozen=True)
class Facts:
    """The machine that engines were compiled on, as far as they are tied to it."""

    compute_capability: str
    tensorrt: str


def facts(job: Job) -> Facts | None:
    """Of this machine; None where nothing was compiled."""
    if job.options.graph_only:
        return None
    return Facts(gpu_machine.gpus()[job.options.device]["compute_capability"], str(tensorrt_provider.version()))


def write(
    folder: Path, job: Job, embed: Callable[[Sequence[np.ndarray]], np.ndarray], evaluation: dict, made: Facts | None
) -> dict:
    """Completes the folder around its engines; returns the manifest. `embed` gives the new engine's own vectors."""
    source, options = job.source, job.options
    (folder / bundle.TOKENIZER).write_bytes(source.fp32.file("tokenizer").read_bytes())
    sentences, _ = bundle_reader.reference_rows(source.bundle)
    vectors = embed([job.encoder.ids(text) for text in sentences])
    (folder / bundle.REFERENCE).write_bytes(bundle.reference_json(sentences, vectors))
    wanted = bundle.Model.__dataclass_fields__
    card = bundle.Model(**{key: value for key, value in source.fp32.model.items() if key in wanted})
    variant = bundle.Variant(
        name=options.variant or _variant(job),
        precision=job.candidate.precision,
        inputs=job.inputs,
        output=source.bundle.output,
        provider="tensorrt" if made else "portable",
        compute_capability=made.compute_capability if made else None,
        tensorrt_version=made.tensorrt if made else None,
        shape_profile=join(job.profiles) if made else None,
    )
    own = source.bundle.manifest["lineage"]["calibration_digest"]
    calibrated = job.candidate.placement is not None and not source.is_qdq
    lineage = bundle.Lineage(
        recipe=f"{TOOL} --candidate {job.candidate.name} --seed {options.seed}: {job.candidate.summary}",
        source_files=[(source.bundle.engine.name, bundle.sha256(source.bundle.engine))],
        parent_digest=source.bundle.digest,
        calibration_digest=text_sets.read(options.calibration_data or CALIBRATION).digest if calibrated else own,
    )
    if job.seeded:
        evaluation = {"kind": "not_applicable", "passed": False, "reason": "seeded"}
    return bundle.write_manifest(folder, card, variant, lineage, evaluation)


def _variant(job: Job) -> str:
    if job.options.graph_only and job.candidate.placement is not None:
        return f"{job.candidate.precision}-qdq"
    return job.candidate.precision if job.options.graph_only else f"tensorrt-{job.candidate.precision}"


def report(job: Job, manifest: dict, engines: list[dict], proof: dict, more: dict) -> dict:
    """What `build-report.json` holds."""
    machine = gpu_machine.machine()
    return {
        "seconds": round(sum(engine["seconds"] for engine in engines), 2),
        "engines": engines,
        "bytes": sum(engine["bytes"] for engine in engines),
        "precision": job.candidate.precision,
        "candidate": job.candidate.name,
        "summary": job.candidate.summary,
        "builder": job.candidate.builder if job.options.provider == "tensorrt" else "none (graph only)",
        "typing": job.candidate.typing,
        "parent": job.source.bundle.digest,
        "fp32": job.source.fp32.digest,
        "traced": job.source.traced,
        "artifact": manifest["digest"],
        "seeded": job.seeded,
        "gpu": machine["gpu"],
        "compute_capability": machine["compute_capability"],
        "driver": machine["driver"],
        "cuda_driver": machine["cuda"],
        "tensorrt": machine["tensorrt"],
        "onnxruntime": machine["onnxruntime"],
        "timing_cache": None if job.options.timing_cache is None else str(job.options.timing_cache),
        **{key: proof[key] for key in ("n", "mean_cosine", "min_cosine", "recall_at_10", "batch_invariance", "gate")},
        "tool": TOOL,
        **more,
    }
