"""A bundle, a precision and profiles enter; a bundle of TensorRT engines, proven against its own fp32, leaves.

In order: source, calibration (INT8 and FP8), the graph that TensorRT gets, one engine a profile, its vectors against
fp32, manifest, `build-report.json` (docs/GPU.md). `graph_only` stops at the graph and proves it on the CPU: a portable
bundle that `akidb-sidecar build-engine` takes, and a way to see what a recipe does to quality without a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from . import (
    bundle,
    engine_bundle,
    engine_calibration,
    engine_graph,
    engine_half,
    engine_invariance,
    engine_proof,
    engine_qdq,
    engine_release,
    engine_smooth,
    engine_source,
    tensorrt_native,
    tensorrt_provider,
    text_sets,
)
from .engine_calibration import Calibration
from .engine_candidates import Candidate, choose
from .engine_compile import compile_all
from .engine_options import CALIBRATION, Job, Options
from .engine_run import embed
from .engine_source import EngineSource
from .errors import BadInput, ToolError
from .shape_profiles import parse_all

LARGE = 1_500_000_000  # bytes of weights from which one file could not hold the engine
GATES = {"fp32": 0.999, "tf32": 0.999, "fp16": 0.999, "int8": 0.99, "fp8": 0.99}


def run(options: Options, say: Callable[[str], None]) -> dict:
    """Builds, proves, writes and, where it was asked for, catalogues; returns the report."""
    job = _prepare(options, say)
    release = engine_release.prepare(job, say)
    graph, done = make_graph(job.candidate, job.source, options, say)
    with bundle.replacing(job.output) as folder:
        engines, layers = compile_all(graph, job.compiler, job.profiles, folder, say)
        del graph
        started = time.monotonic()
        engine = tensorrt_provider.session(folder / bundle.ENGINE, options.provider, device=options.device)
        load_seconds = time.monotonic() - started
        proof, invariance = engine_proof.prove(job, engine, folder, gates(job), say)
        passed = _check(job, proof, invariance)

        def vectors(rows: list[np.ndarray]) -> np.ndarray:
            return embed(engine, rows, job.source.bundle.output, job.profiles[-1])

        manifest = engine_bundle.write(folder, job, vectors, {**proof, "passed": passed}, engine_bundle.facts(job))
        more = {"load_seconds": round(load_seconds, 3), **done, "invariance": invariance, "layers": layers}
        more["layer_outputs"] = tensorrt_native.precisions(layers)
        report = engine_bundle.report(job, manifest, engines, proof, more)
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / engine_bundle.REPORT).write_text(text, "utf-8")
    return {**report, **release.run(manifest)}


def gates(job: Job) -> dict[str, float]:
    """The least mean cosine to fp32, and the least cosine between two vectors of one text."""
    compiled = engine_invariance.LEAST[job.candidate.precision]
    invariance = engine_invariance.CPU_LEAST if job.options.graph_only else compiled
    return {"mean_cosine": GATES[job.candidate.precision], "batch_invariance": invariance}


def _check(job: Job, proof: dict, invariance: dict) -> bool:
    """Whether every gate is kept; a missed one ends the build unless it may be missed."""
    missed = [name for name, least in proof["gate"].items() if not proof[name] >= least]
    if missed and not (job.options.allow_failed or job.seeded):
        figures = ", ".join(f"{name} {proof[name]} (gate {proof['gate'][name]})" for name in missed)
        if "batch_invariance" in missed:
            figures += f": {invariance['between']} differ"
            figures += "; build it with one --profile" if len(job.profiles) > 1 else ""
        raise ToolError(f"{job.candidate.name}: {figures}; nothing was written (--allow-failed writes it all the same)")
    return not missed


def _prepare(options: Options, say: Callable[[str], None]) -> Job:
    candidate = choose(options.precision, options.candidate)
    source = engine_source.find(options.model, options.precision)
    if source.traced:
        say(source.traced)
    profiles = parse_all(options.profile, source.fp32.model["max_tokens"], options.precision)
    output = bundle.check_output(options.output, options.force)
    if options.provider == "tensorrt":
        tensorrt_provider.check()
        if candidate.builder == "tensorrt" and tensorrt_native.module() is None:
            raise BadInput(f"candidate {candidate.name} needs TensorRT's Python module: pip install tensorrt")
    if sum(f["bytes"] for f in source.bundle.manifest["files"] if f["role"].startswith("engine")) > LARGE:
        raise BadInput(
            f"{source.bundle.engine} is over 1.5 GB: one EPContext file cannot hold its engine; not supported"
        )
    return Job(options, output, candidate, source, profiles, source.fp32.encoder())


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
