"""Stage `matrix`: engines enter; latency, throughput and quality of every cell leave, measured in turns.

First the candidates of a precision race at a few shapes; the fastest that keeps its quality gate goes through all cells
beside the baseline: the unfused fp32 graph on the CUDA provider, TF32 allowed, device buffers bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import bundle_reader, tensorrt_provider, text_sets
from .bundle_reader import Bundle
from .engine_build import GATES
from .engine_run import Bound
from .errors import ToolError
from .gpu_plan import BATCHES, FIVE_BATCHES, FIVE_TOKENS, LEFT_OUT, MINILM, RACE, TOKENS, Subject
from .gpu_stage import REHEARSED, Stage
from .gpu_timing import batch_of, take_turns
from .shape_profiles import Profile, Shape, parse

BASELINE = "fp32"
PRECISIONS = ("tf32", "fp16", "int8", "fp8")
ONE_TEXT = "tensorrt-fp16-tanh"
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


def run(stage: Stage) -> None:
    """The parts in order of value, each until time is up."""
    parts = [
        ("race MiniLM", lambda: race(stage, MINILM)),
        ("one text", lambda: one_text(stage)),
        ("graphs MiniLM", lambda: graphs(stage, MINILM)),
        ("matrix MiniLM", lambda: matrix(stage, MINILM, BATCHES, TOKENS)),
        *((f"race {s.name}", lambda s=s: race(stage, s)) for s in stage.subjects() if s is not MINILM),
        *(
            (f"five models {s.name}", lambda s=s: matrix(stage, s, FIVE_BATCHES, (FIVE_TOKENS,)))
            for s in stage.subjects()
            if s is not MINILM
        ),
        ("kernels", lambda: kernels(stage)),
        ("left out", lambda: left_out(stage)),
    ]
    stage.in_order(parts, least=5)


def race(stage: Stage, subject: Subject) -> None:
    """All candidates and the baseline at a few shapes."""
    with _runners(stage, subject, None) as runners:
        for batch, tokens in _small(stage, RACE.get(subject.name, RACE[""])):
            _cell(stage, subject, runners, Shape(batch, tokens), kind="race")


def matrix(stage: Stage, subject: Subject, batches: Sequence[int], tokens: Sequence[int]) -> None:
    """The baseline and the best of each precision, at every shape; the headline shapes first."""
    chosen = best(stage, subject)
    stage.results.put("best", ("model",), {"model": subject.name, "variants": chosen})
    shapes = [(b, t) for t in tokens for b in batches]
    shapes.sort(key=lambda s: s not in ((256, 32), (512, 128), (64, 128), (1, 16)))
    with _runners(stage, subject, set(chosen.values())) as runners:
        for batch, length in _small(stage, shapes):
            if stage.left() < 3:
                stage.say(f"no time left at {batch}x{length}; run the stage again")
                return
            if not _finished(stage, runners, batch, length):
                _cell(stage, subject, runners, Shape(batch, length), kind="matrix")


def best(stage: Stage, subject: Subject) -> dict[str, str]:
    """Variant by precision: of those that keep the quality gate, the fastest at the first shape of the race."""
    batch, tokens = _small(stage, RACE.get(subject.name, RACE[""]))[0]
    quality = {e["name"]: e for e in stage.results.entries("builds") if not e.get("not_built")}
    chosen: dict[str, tuple[float, str]] = {}
    for name, own in stage.built(subject.name).items():
        facts = quality.get(f"{subject.name}-{name}")
        precision = own.manifest["variant"]["precision"]
        if facts is None or not (facts["seeded"] or facts["mean_cosine"] >= GATES[precision]):
            continue
        cell = stage.results.measured(model=subject.name, variant=name, batch=batch, tokens=tokens)
        speed = cell["measured"]["texts_per_second"] if cell else 0.0
        chosen[precision] = max(chosen.get(precision, (-1.0, "")), (speed, name))
    return {precision: name for precision, (_, name) in chosen.items()}


def one_text(stage: Stage) -> None:
    """Batch 1 on the narrow engine with and without a CUDA graph, beside the baseline."""
    subject = MINILM
    own = stage.built(subject.name).get(ONE_TEXT)
    if own is None:
        raise ToolError(f"{ONE_TEXT} of MiniLM is not built: run the stage build first")
    narrow = next((f["path"] for f in own.manifest["files"] if f["path"] == "model.profile0.onnx"), "model.onnx")
    text = (own.manifest["target"]["shape_profile"] or "").split(",")[0]
    profile = parse(text) if text else None
    for tokens in (16,) if stage.rehearse else (16, 32):
        runners = [
            _baseline(stage, subject),
            Runner(own, stage.provider, [(profile, tensorrt_provider.session(own.folder / narrow, stage.provider))]),
        ]
        named = {"baseline": runners[0], "narrow": runners[1]}
        if not stage.rehearse:
            graph = tensorrt_provider.session(own.folder / narrow, stage.provider, cuda_graph=True)
            named["graph"] = Runner(own, stage.provider, [(profile, graph)])
        bound = {name: _bound(stage, subject, runner, Shape(1, tokens)) for name, runner in named.items()}
        measured = take_turns(bound, 1, tokens, 0.05 if stage.rehearse else 2.0)
        entry = {"model": subject.name, "tokens": tokens, "measured": measured, "rehearsal": stage.rehearse}
        stage.results.put("one_text", ("model", "tokens"), entry)
        first = measured["baseline"]["latency_ms"]["p50"]
        for name, found in measured.items():
            p50 = found["latency_ms"]["p50"]
            stage.say(f"one text of {tokens} tokens, {name}: p50 {p50:.3f} ms ({first / p50:.2f}x lower)")


def graphs(stage: Stage, subject: Subject) -> None:
    """The best of each precision at the headline shapes, replayed as a CUDA graph, beside the baseline."""
    chosen = set(best(stage, subject).values())
    for batch, tokens in _small(stage, RACE[subject.name]):
        shape = Shape(batch, tokens)
        named = {"baseline": _baseline(stage, subject)}
        for name, own in stage.built(subject.name).items():
            if name in chosen and stage.left() > 10:
                named[name] = Runner(own, stage.provider, _engines(stage, own, graph_for=shape))
        bound = {name: _bound(stage, subject, runner, shape) for name, runner in named.items() if runner.takes(shape)}
        seconds = REHEARSED["seconds"] if stage.rehearse else stage.seconds
        measured = take_turns(bound, batch, tokens, seconds)
        entry = {"model": subject.name, "batch": batch, "tokens": tokens, "measured": measured}
        stage.results.put("graphs", ("model", "batch", "tokens"), {**entry, "rehearsal": stage.rehearse})
        first = measured["baseline"]["texts_per_second"]
        for name, found in measured.items():
            rate, p50 = found["texts_per_second"], found["latency_ms"]["p50"]
            stage.say(f"{shape} as a graph {name:32s} p50 {p50:8.3f} ms {rate:10,.0f} texts/s {rate / first:5.2f}x")


def left_out(stage: Stage) -> None:
    """Cells of the five models that nothing here runs, with the reason."""
    for model, reason in LEFT_OUT.items():
        for precision in (BASELINE, "int8", "fp8"):
            for batch in FIVE_BATCHES:
                stage.results.cell(
                    provider="cuda" if precision == BASELINE else "tensorrt",
                    model=model,
                    variant=precision if precision == BASELINE else f"tensorrt-{precision}",
                    precision=precision,
                    seeded=model != "distilled-MiniLM-L3-v2",
                    digest=None,
                    engine_bytes=None,
                    batch=batch,
                    tokens=FIVE_TOKENS,
                    measured=None,
                    not_run=reason,
                )
    stage.results.save()


def kernels(stage: Stage) -> None:
    """Which kernels run, by time, as CUPTI sees them through torch: what stops a precision is in its own lines."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        raise ToolError("torch is not installed: no kernels were profiled") from None
    if stage.rehearse or not torch.cuda.is_available():
        raise ToolError("no GPU that torch sees: no kernels were profiled")
    for subject in stage.subjects()[:2]:
        batch, tokens = RACE.get(subject.name, RACE[""])[-1 if subject is MINILM else 0]
        with _runners(stage, subject, None, baseline=False) as runners:
            for runner in runners:
                if stage.left() < 5:
                    return
                bound = _bound(stage, subject, runner, Shape(batch, tokens))
                for _ in range(5):
                    bound.run()
                with profile(activities=[ProfilerActivity.CUDA]) as seen:
                    for _ in range(5):
                        bound.run()
                rows = [(e.key, e.count / 5, e.self_device_time_total / 5) for e in seen.key_averages()]
                rows.sort(key=lambda row: -row[2])
                top = [{"kernel": k[:180], "calls": c, "us": round(us, 1)} for k, c, us in rows[:24] if us > 0]
                entry = {"model": subject.name, "variant": runner.variant, "batch": batch, "tokens": tokens}
                total = round(sum(row[2] for row in rows), 1)
                stage.results.put("kernels", ("model", "variant"), {**entry, "total_us": total, "kernels": top})


def _cell(stage: Stage, subject: Subject, runners: list[Runner], shape: Shape, kind: str) -> None:
    """All engines that take the shape, in turns; the others are marked with why."""
    seconds = REHEARSED["seconds"] if stage.rehearse else stage.seconds
    bound: dict[str, Bound] = {}
    for runner in runners:
        where = {"batch": shape.batch, "tokens": shape.tokens, "kind": kind}
        if not runner.takes(shape):
            stage.results.cell(
                **runner.facts(),
                **where,
                measured=None,
                not_run=f"outside its profile {runner.bundle.manifest['target']['shape_profile']}",
            )
            continue
        try:
            bound[f"{runner.provider}/{runner.variant}"] = _bound(stage, subject, runner, shape)
        except Exception as error:  # noqa: BLE001 - one engine that fails must not stop the others
            stage.results.cell(**runner.facts(), **where, measured=None, not_run=str(error).splitlines()[0][:300])
    taken = take_turns(bound, shape.batch, shape.tokens, seconds)
    first = next(iter(taken.values()))["texts_per_second"]
    for runner in runners:
        found = taken.get(f"{runner.provider}/{runner.variant}")
        if found:
            where = {"batch": shape.batch, "tokens": shape.tokens, "kind": kind}
            stage.results.cell(**runner.facts(), **where, measured=found, not_run=None)
            rate, p50 = found["texts_per_second"], found["latency_ms"]["p50"]
            stage.say(f"{shape} {runner.variant:32s} p50 {p50:8.3f} ms {rate:10,.0f} texts/s {rate / first:5.2f}x")
    stage.results.save()


def _finished(stage: Stage, runners: Sequence[Runner], batch: int, tokens: int) -> bool:
    cells = [
        stage.results.measured(
            model=r.facts()["model"], variant=r.variant, digest=r.bundle.digest, batch=batch, tokens=tokens
        )
        for r in runners
        if r.takes(Shape(batch, tokens))
    ]
    return all(cells) and len({c["measured"]["turns"] for c in cells}) == 1


@contextlib.contextmanager
def _runners(stage: Stage, subject: Subject, only: set[str] | None, baseline: bool = True) -> Iterator[list[Runner]]:
    """The baseline first, then the engines named (or all), by precision."""
    made = [_baseline(stage, subject)] if baseline else []
    built = stage.built(subject.name)
    for name, own in sorted(
        built.items(), key=lambda item: (PRECISIONS.index(item[1].manifest["variant"]["precision"]), item[0])
    ):
        if only is not None and name not in only:
            continue
        try:
            made.append(Runner(own, stage.provider, _engines(stage, own)))
        except ToolError as error:
            stage.say(f"{name}: {error}")
            stage.results.put("notes", ("part",), {"part": f"load {subject.name} {name}", "note": str(error)[:900]})
    if len(made) <= int(baseline):
        raise ToolError(f"no engine of {subject.name} is built: run the stage build first")
    try:
        yield made
    finally:
        made.clear()


def _engines(stage: Stage, own: Bundle, graph_for: Shape | None = None) -> list[tuple[Profile | None, object]]:
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


def _baseline(stage: Stage, subject: Subject) -> Runner:
    own = bundle_reader.read(stage.fp32(subject))
    provider = "cpu" if stage.rehearse else "cuda"
    return Runner(own, provider, [(None, tensorrt_provider.session(own.engine, provider, tf32=True))])


def _bound(stage: Stage, subject: Subject, runner: Runner, shape: Shape) -> Bound:
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


def _small(stage: Stage, shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if not stage.rehearse:
        return list(shapes)
    return [(b, t) for t in REHEARSED["tokens"] for b in REHEARSED["batches"]][: len(shapes)]


def speeds(cells: Sequence[Mapping], model: str, batch: int, tokens: int) -> dict[str, float]:
    """Texts a second by variant at one shape, of cells that took turns with the newest baseline."""
    here = [c for c in cells if (c["model"], c["batch"], c["tokens"]) == (model, batch, tokens) and c["measured"]]
    base = [c for c in here if c["variant"] == BASELINE]
    turns = base[-1]["measured"]["turns"] if base else None
    return {c["variant"]: c["measured"]["texts_per_second"] for c in here if c["measured"]["turns"] == turns}
