"""Stage `matrix`: engines enter; latency, throughput and quality of every cell leave, measured in turns.

First the candidates of a precision race at a few shapes; the fastest that keeps its quality gate goes through all cells
beside the baseline: the unfused fp32 graph on the CUDA provider, TF32 allowed, device buffers bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import gpu_kernels, gpu_left_out, tensorrt_provider
from .bundle_reader import Bundle
from .engine_run import Bound
from .errors import ToolError
from .gpu_plan import BATCHES, FIVE_BATCHES, FIVE_TOKENS, MINILM, RACE, TOKENS, Subject
from .gpu_runner import Runner, baseline_of, bound_for, engines_of, runners_of
from .gpu_stage import REHEARSED, Stage, Unready
from .gpu_timing import take_turns
from .shape_profiles import Shape, parse

BASELINE = "fp32"
ONE_TEXT = "tensorrt-fp16-tanh"


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
        *gpu_kernels.parts(stage),
        ("left out", lambda: gpu_left_out.mark(stage.results)),
    ]

    def engines(part: str) -> str:
        """A part is done again when its model has other engines."""
        name = next((s.name for s in stage.subjects() if s.name in part), MINILM.name)
        return " ".join(stage.built(name))

    stage.in_order(parts, least=5, of=engines)


def race(stage: Stage, subject: Subject) -> None:
    """All candidates and the baseline at a few shapes."""
    with runners_of(stage, subject, None) as runners:
        for batch, tokens in _small(stage, RACE.get(subject.name, RACE[""])):
            _cell(stage, runners, Shape(batch, tokens), kind="race")


def matrix(stage: Stage, subject: Subject, batches: Sequence[int], tokens: Sequence[int]) -> None:
    """The baseline and the best of each precision, at every shape; the headline shapes first."""
    chosen = best(stage, subject)
    stage.results.put("best", {"model": subject.name, "variants": chosen})
    shapes = [(b, t) for t in tokens for b in batches]
    shapes.sort(key=lambda s: s not in ((256, 32), (512, 128), (64, 128), (1, 16)))
    with runners_of(stage, subject, set(chosen.values())) as runners:
        for batch, length in _small(stage, shapes):
            if stage.left() < 3:
                stage.say(f"no time left at {batch}x{length}; run the stage again")
                return
            if not _finished(stage, runners, batch, length):
                _cell(stage, runners, Shape(batch, length), kind="matrix")


def keeps_its_gate(own: Bundle) -> bool:
    """Whether its build found its vectors near enough to fp32; seeded weights say nothing of quality."""
    return own.model["seeded"] or bool((own.manifest["evaluation"] or {}).get("passed"))


def best(stage: Stage, subject: Subject) -> dict[str, str]:
    """Variant by precision: of those that keep the quality gate, the fastest at the first shape of the race."""
    batch, tokens = _small(stage, RACE.get(subject.name, RACE[""]))[0]
    chosen: dict[str, tuple[float, str]] = {}
    for name, own in stage.built(subject.name).items():
        precision = own.manifest["variant"]["precision"]
        if not keeps_its_gate(own):
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
        raise Unready(f"{ONE_TEXT} of MiniLM is not built: run the stage build first")
    narrow = next((f["path"] for f in own.manifest["files"] if f["path"] == "model.profile0.onnx"), "model.onnx")
    text = (own.manifest["target"]["shape_profile"] or "").split(",")[0]
    profile = parse(text) if text else None
    for tokens in (16,) if stage.rehearse else (16, 32):
        runners = [
            baseline_of(stage, subject),
            Runner(own, stage.provider, [(profile, tensorrt_provider.session(own.folder / narrow, stage.provider))]),
        ]
        named = {"baseline": runners[0], "narrow": runners[1]}
        if not stage.rehearse:
            graph = tensorrt_provider.session(own.folder / narrow, stage.provider, cuda_graph=True)
            named["graph"] = Runner(own, stage.provider, [(profile, graph)])
        bound = {name: bound_for(stage, runner, Shape(1, tokens)) for name, runner in named.items()}
        measured = take_turns(bound, 1, tokens, 0.05 if stage.rehearse else 2.0)
        entry = {"model": subject.name, "tokens": tokens, "measured": measured, "rehearsal": stage.rehearse}
        stage.results.put("one_text", entry)
        first = measured["baseline"]["latency_ms"]["p50"]
        for name, found in measured.items():
            p50 = found["latency_ms"]["p50"]
            stage.say(f"one text of {tokens} tokens, {name}: p50 {p50:.3f} ms ({first / p50:.2f}x lower)")


def graphs(stage: Stage, subject: Subject) -> None:
    """The best of each precision at the headline shapes, replayed as a CUDA graph, beside the baseline."""
    chosen = set(best(stage, subject).values())
    for batch, tokens in _small(stage, RACE[subject.name]):
        shape = Shape(batch, tokens)
        named = {"baseline": baseline_of(stage, subject)}
        for name, own in stage.built(subject.name).items():
            if name not in chosen or stage.left() < 10:
                continue
            try:
                named[name] = Runner(own, stage.provider, engines_of(stage, own, graph_for=shape))
            except ToolError as error:
                stage.say(f"{name} as a graph: {error}")
        fitting = {name: runner for name, runner in named.items() if runner.takes(shape)}
        bound = {name: bound_for(stage, runner, shape) for name, runner in fitting.items()}
        seconds = REHEARSED["seconds"] if stage.rehearse else stage.seconds
        measured = take_turns(bound, batch, tokens, seconds)
        entry = {"model": subject.name, "batch": batch, "tokens": tokens, "measured": measured}
        stage.results.put("graphs", {**entry, "rehearsal": stage.rehearse})
        first = measured["baseline"]["texts_per_second"]
        for name, found in measured.items():
            rate, p50 = found["texts_per_second"], found["latency_ms"]["p50"]
            stage.say(f"{shape} as a graph {name:32s} p50 {p50:8.3f} ms {rate:10,.0f} texts/s {rate / first:5.2f}x")


def _cell(stage: Stage, runners: list[Runner], shape: Shape, kind: str) -> None:
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
            made = bound_for(stage, runner, shape)
            made.run()
            bound[f"{runner.provider}/{runner.variant}"] = made
        except Exception as error:  # noqa: BLE001 - one engine that fails must not stop the others
            stage.results.cell(**runner.facts(), **where, measured=None, not_run=tensorrt_provider.words(error, 300))
    if not bound:
        raise ToolError(f"no engine ran {shape}")
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
