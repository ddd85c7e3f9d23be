"""Bundles enter; engines ready to run in this process leave: the fp32 baseline, and each engine by its profiles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import bundle_reader, tensorrt_provider, text_sets
from .bundle_reader import Bundle
from .engine_run import Bound
from .errors import ToolError
from .gpu_plan import Subject
from .gpu_stage import Stage, Unready
from .gpu_timing import batch_of
from .shape_profiles import Profile, Shape, parse

PRECISIONS = ("tf32", "fp16", "int8", "fp8")
IDS = 20_000  # token ids that batches are cut from


@dataclass
class Runner:
    """One engine in this process, and what its cells say of it."""

    bundle: Bundle
    provider: str
    engines: list[tuple[Profile | None, object]]

    @property
    def variant(self) -> str:
        return self.bundle.manifest["variant"]["name"]

    def facts(self) -> dict:
        manifest = self.bundle.manifest
        return {
            "provider": self.provider,
            "model": manifest["model"]["name"],
            "variant": self.variant,
            "precision": manifest["variant"]["precision"],
            "seeded": manifest["model"]["seeded"],
            "digest": self.bundle.digest,
            "engine_bytes": sum(f["bytes"] for f in manifest["files"] if f["role"].startswith("engine")),
        }

    def takes(self, shape: Shape) -> bool:
        return self.session(shape) is not None

    def session(self, shape: Shape) -> object | None:
        """The first engine, narrow ones first, whose profile holds the shape."""
        return next((session for profile, session in self.engines if profile is None or profile.holds(shape)), None)


@contextlib.contextmanager
def runners_of(stage: Stage, subject: Subject, only: set[str] | None, baseline: bool = True) -> Iterator[list[Runner]]:
    """The baseline first, then the engines named (or all), by precision."""
    built = stage.built(subject.name)
    wanted = [name for name in built if only is None or name in only]
    if not wanted:
        raise Unready(f"no engine of {subject.name} is built: run the stage build first")
    wanted.sort(key=lambda name: (PRECISIONS.index(built[name].manifest["variant"]["precision"]), name))
    made = [baseline_of(stage, subject)] if baseline else []
    refused: list[str] = []
    for name in wanted:
        try:
            made.append(Runner(built[name], stage.provider, engines_of(stage, built[name])))
        except ToolError as error:
            refused.append(f"{name}: {error}")
            stage.say(refused[-1])
            stage.results.put("notes", {"part": f"load {subject.name} {name}", "note": str(error)[:900]})
    if len(made) <= int(baseline):
        raise ToolError(f"no engine of {subject.name} could be loaded: {'; '.join(refused)}")
    try:
        yield made
    finally:
        made.clear()


def engines_of(stage: Stage, own: Bundle, graph_for: Shape | None = None) -> list[tuple[Profile | None, object]]:
    """All engines of an artifact, in the order of its profiles; a rehearsal's bundle names none and has one graph.

    A CUDA graph is of one shape, so with `graph_for` only the engine of that shape is made ready, as a graph.
    """
    texts = (own.manifest["target"]["shape_profile"] or "").split(",")
    files = [*(f"model.profile{n}.onnx" for n in range(len(texts) - 1)), "model.onnx"]
    listed = [(parse(text) if text else None, file) for text, file in zip(texts, files, strict=True)]
    if graph_for is not None:
        listed = [(profile, file) for profile, file in listed if profile is None or profile.holds(graph_for)][:1]
    graph = graph_for is not None and not stage.rehearse
    return [
        (profile, tensorrt_provider.session(own.folder / file, stage.provider, cuda_graph=graph))
        for profile, file in listed
    ]


def baseline_of(stage: Stage, subject: Subject) -> Runner:
    """The fp32 bundle on the CUDA provider, TF32 allowed."""
    own = bundle_reader.read(stage.fp32(subject))
    provider = "cpu" if stage.rehearse else "cuda"
    return Runner(own, provider, [(None, tensorrt_provider.session(own.engine, provider, tf32=True))])


def bound_for(stage: Stage, runner: Runner, shape: Shape) -> Bound:
    """A batch of real token ids, without padding, on the device."""
    inputs = runner.bundle.manifest["graph"]["inputs"]
    feed = batch_of(_ids(stage, runner.bundle), shape.batch, shape.tokens, inputs)
    output = runner.bundle.output, runner.bundle.model["dimension"]
    return Bound(runner.session(shape), feed, output, stage.device)


def _ids(stage: Stage, own: Bundle) -> np.ndarray:
    cache: dict[str, np.ndarray] = stage.options.setdefault("ids", {})
    key = own.model["tokenizer_sha256"]
    if key not in cache:
        encoder, texts = own.encoder(), text_sets.read(stage.test).texts
        found: list[np.ndarray] = []
        while sum(map(len, found)) < IDS and len(found) < len(texts):
            found.append(encoder.ids(texts[len(found)]))
        cache[key] = np.concatenate(found)
    return cache[key]
