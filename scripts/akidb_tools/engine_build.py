"""A bundle, a precision and profiles enter; a bundle of TensorRT engines, proven against its own fp32, leaves.

In order: source, calibration (INT8 and FP8), the graph that TensorRT gets, one engine a profile, its vectors against
fp32, manifest, `build-report.json` (docs/GPU.md). `graph_only` stops at the graph and proves it on the CPU: a portable
bundle that `akidb-sidecar build-engine` takes, and a way to see what a recipe does to quality without a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from . import (
    __version__,
    bundle,
    bundle_reader,
    engine_calibration,
    engine_graph,
    engine_half,
    engine_qdq,
    engine_smooth,
    engine_source,
    gpu_machine,
    quality,
    tensorrt_native,
    tensorrt_provider,
    text_sets,
)
from .engine_calibration import Calibration
from .engine_candidates import Candidate, choose
from .engine_compile import Compiler, compile_all
from .engine_run import embed
from .engine_source import EngineSource
from .errors import BadInput, ToolError
from .shape_profiles import Profile, join, parse_all
from .tokenizer import Encoder

TOOL = f"build_tensorrt_engine {__version__}"
REPORT = "build-report.json"
LARGE = 1_500_000_000  # bytes of weights from which one file could not hold the engine
GATES = {"fp32": 0.999, "tf32": 0.999, "fp16": 0.999, "int8": 0.99, "fp8": 0.99}
CALIBRATION, TEST = Path("build/corpus/calibration-10k.txt"), Path("build/corpus/test-10k.json")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    model: Path
    output: Path
    precision: str
    calibration_data: Path | None = None
    test_dataset: Path | None = None
    profile: Sequence[str] = ()
    candidate: str | None = None
    variant: str | None = None
    calibration_cache: Path | None = None
    expected_cache: Path | None = None
    timing_cache: Path | None = None
    optimization_level: int = 3
    device: int = 0
    graph_only: bool = False
    calibrate: int = 512
    evaluate: int = 2_000
    seed: int = 0
    any_language: bool = False
    allow_failed: bool = False
    force: bool = False

    @property
    def provider(self) -> str:
        """What runs the result here."""
        return "cpu" if self.graph_only else "tensorrt"


@dataclass(frozen=True)
class _Job:
    """Everything decided before the heavy work."""

    options: Options
    output: Path
    candidate: Candidate
    source: EngineSource
    profiles: tuple[Profile, ...]
    encoder: Encoder

    @property
    def seeded(self) -> bool:
        return self.source.fp32.model["seeded"]

    @property
    def compiler(self) -> Compiler:
        candidate, options = self.candidate, self.options
        return Compiler(
            precision=candidate.precision,
            typing=candidate.typing,
            builder=candidate.builder,
            provider=options.provider,
            inputs=tuple(self.inputs),
            timing_cache=options.timing_cache,
            level=options.optimization_level,
            device=options.device,
        )

    @property
    def inputs(self) -> list[str]:
        return self.source.bundle.manifest["graph"]["inputs"]


def run(options: Options, say: Callable[[str], None]) -> dict:
    """Builds, proves, writes; returns the report."""
    job = _prepare(options, say)
    graph, facts = make_graph(job.candidate, job.source, options, say)
    with bundle.replacing(job.output) as folder:
        engines, layers = compile_all(graph, job.compiler, job.profiles, folder, say)
        del graph
        started = time.monotonic()
        engine = tensorrt_provider.session(folder / bundle.ENGINE, options.provider, device=options.device)
        load_seconds = time.monotonic() - started
        proof = _prove(job, engine, say)
        missed = [name for name, least in proof["gate"].items() if not proof[name] >= least]
        if missed and not (options.allow_failed or job.seeded):
            figures = ", ".join(f"{name} {proof[name]} (gate {proof['gate'][name]})" for name in missed)
            raise ToolError(
                f"{job.candidate.name}: {figures}; nothing was written (--allow-failed writes it all the same)"
            )
        manifest = _write(folder, job, engine, {**proof, "passed": not missed})
        facts = {"load_seconds": round(load_seconds, 3), **facts, "layers": layers}
        facts["layer_outputs"] = tensorrt_native.precisions(layers)
        report = _report(job, manifest, engines, proof, facts)
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return report


def _prepare(options: Options, say: Callable[[str], None]) -> _Job:
    candidate = choose(options.precision, options.candidate)
    source = engine_source.find(options.model, options.precision)
    if source.traced:
        say(source.traced)
    profiles = parse_all(options.profile, source.fp32.model["max_tokens"])
    output = bundle.check_output(options.output, options.force)
    if options.provider == "tensorrt":
        tensorrt_provider.check()
        if candidate.builder == "tensorrt" and tensorrt_native.module() is None:
            raise BadInput(f"candidate {candidate.name} needs TensorRT's Python module: pip install tensorrt")
    if sum(f["bytes"] for f in source.bundle.manifest["files"] if f["role"].startswith("engine")) > LARGE:
        raise BadInput(
            f"{source.bundle.engine} is over 1.5 GB: one EPContext file cannot hold its engine; not supported"
        )
    return _Job(options, output, candidate, source, profiles, source.fp32.encoder())


def make_graph(
    candidate: Candidate, source: EngineSource, options: Options, say: Callable[[str], None]
) -> tuple[ModelProto, dict]:
    """What TensorRT gets, and what was done to get it."""
    model = source.bundle.load()
    if source.is_qdq:
        say(f"the QDQ pairs are those of {source.bundle.folder.name}")
        return model, {"pairs": engine_qdq.count(model), "calibration_digest": None}
    calibration, digest = None, None
    if candidate.placement is not None:
        calibration, digest = _calibration(source, model, options, say)
    graph, found = candidate_graph(model, candidate, calibration)
    return graph, {"rewrites": found, "pairs": engine_qdq.count(graph), "calibration_digest": digest}


def candidate_graph(
    model: ModelProto, candidate: Candidate, calibration: Calibration | None
) -> tuple[ModelProto, dict[str, int]]:
    """Smoothing, rewrites, pairs, types, in this order: each looks for the pattern that the one before leaves."""
    placement, reaches, heads = candidate.placement, {}, None
    if placement is not None:
        names = engine_qdq.chosen(model, calibration, placement)
        ranges = {name: calibration.groups[name] for name in names}
        if candidate.precision == "fp8":
            reaches = {name: found.reach for name, found in ranges.items()}
        elif placement.smooth:
            model, reaches = engine_smooth.apply(model, calibration, names)
        else:
            reaches = {name: found.plain for name, found in ranges.items()}
        heads = calibration.heads if engine_qdq.ATTENTION in placement.roles else None
    graph, found = engine_graph.apply(model, candidate.rewrites)
    if placement is not None:
        graph = engine_qdq.build(graph, reaches, candidate.precision, heads)
    return (engine_half.to_half(graph) if candidate.typing == "strong" else graph), found


def _calibration(source: EngineSource, model: ModelProto, options: Options, say: Callable) -> tuple:
    texts = text_sets.read(options.calibration_data or CALIBRATION)
    weights = bundle.sha256(source.fp32.engine).encode()
    of = engine_calibration.key(weights, texts.digest, options.seed, options.calibrate)
    cache = options.calibration_cache
    if cache is not None and cache.is_file():
        try:
            return engine_calibration.load(cache, of), texts.digest
        except BadInput as error:
            say(f"{error}: calibrating again")
    encoder = source.fp32.encoder()
    if not options.any_language:
        text_sets.check_language(texts, encoder)
    order = np.random.RandomState(options.seed).permutation(len(texts.texts))[: options.calibrate]
    ids = [encoder.ids(texts.texts[n]) for n in order]
    measured = engine_calibration.measure(
        model, of, ids, seed=options.seed, seeded=source.fp32.model["seeded"], say=say
    )
    if cache is not None:
        engine_calibration.save(cache, measured)
    return measured, texts.digest


def _prove(job: _Job, engine: ort.InferenceSession, say: Callable[[str], None]) -> dict:
    """The `evaluation` of the manifest: this engine against its own fp32 over held-out texts."""
    data = text_sets.read(job.options.test_dataset or TEST)
    texts = data.texts[: job.options.evaluate]
    rows = [job.encoder.ids(text) for text in texts]
    expected = expected_vectors(job, data.digest, rows, say)
    say(f"vectors of {len(rows):,} held-out texts")
    got = embed(engine, rows, job.source.bundle.output, job.profiles[-1])
    agreed = quality.agreement(expected, got)
    return {
        "kind": "quality",
        "dataset_digest": data.digest,
        "n": agreed.n,
        "mean_cosine": round(agreed.mean_cosine, 6),
        "min_cosine": round(agreed.min_cosine, 6),
        "recall_at_10": None if agreed.recall_at_10 is None else round(agreed.recall_at_10, 6),
        "gate": {"mean_cosine": GATES[job.candidate.precision]},
        "tool": TOOL,
    }


def expected_vectors(job: _Job, digest: str, rows: Sequence[np.ndarray], say: Callable[[str], None]) -> np.ndarray:
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


def _write(folder: Path, job: _Job, engine: ort.InferenceSession, evaluation: dict) -> dict:
    source, options = job.source, job.options
    (folder / bundle.TOKENIZER).write_bytes(source.fp32.file("tokenizer").read_bytes())
    sentences, _ = bundle_reader.reference_rows(source.bundle)
    rows = [job.encoder.ids(text) for text in sentences]
    vectors = embed(engine, rows, source.bundle.output, job.profiles[-1])
    (folder / bundle.REFERENCE).write_bytes(bundle.reference_json(sentences, vectors))
    wanted = bundle.Model.__dataclass_fields__
    card = bundle.Model(**{key: value for key, value in source.fp32.model.items() if key in wanted})
    compiled = options.provider == "tensorrt"
    gpu = gpu_machine.gpus()[options.device] if compiled else {}
    variant = bundle.Variant(
        name=options.variant or _variant(job),
        precision=job.candidate.precision,
        inputs=job.inputs,
        output=source.bundle.output,
        provider="tensorrt" if compiled else "portable",
        compute_capability=gpu.get("compute_capability"),
        tensorrt_version=tensorrt_provider.version() if compiled else None,
        shape_profile=join(job.profiles) if compiled else None,
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


def _variant(job: _Job) -> str:
    if job.options.graph_only and job.candidate.placement is not None:
        return f"{job.candidate.precision}-qdq"
    return job.candidate.precision if job.options.graph_only else f"tensorrt-{job.candidate.precision}"


def _report(job: _Job, manifest: dict, engines: list[dict], proof: dict, facts: dict) -> dict:
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
        **{key: proof[key] for key in ("n", "mean_cosine", "min_cosine", "recall_at_10", "gate")},
        "tool": TOOL,
        **facts,
    }
