"""Engines enter; which kernels they run and for which kind of layer leave, by time on the GPU.

torch's profiler (CUPTI) gives kernels by name and order. TensorRT names no layer in them, so the kind is told from the
name, and a product's place in its layer from its place between the attention kernels: output, up, down, then query, key
and value of the next layer. What does not fit that order is called by its name alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .engine_run import Bound
from .errors import ToolError
from .gpu_plan import LARGE, MINILM, Subject
from .gpu_runner import bound_for, runners_of
from .gpu_stage import Stage, Unready
from .shape_profiles import Shape
from .tensorrt_provider import words

SHAPE = Shape(64, 128)
RUNS = 5
LISTED = 40
GEMM = re.compile(r"gemm(?!_mha)|_xmma_|cutlass|nvjet", re.IGNORECASE)
# Kinds of what is no product, the first that fits.
NAMED = (
    ("attention", re.compile(r"mha|fmha|flash|MaxSubExpSum|softmax", re.IGNORECASE)),
    ("memory", re.compile(r"^mem(set|cpy)|copyPacked|transpose|^__myl_(Res|Tra|Mov)+_", re.IGNORECASE)),
    ("embedding", re.compile(r"Gat|gather", re.IGNORECASE)),
    ("norm", re.compile(r"Mea|SqrDiv|layernorm", re.IGNORECASE)),
    ("gelu", re.compile(r"Erf|Tanh|gelu", re.IGNORECASE)),
    ("quantize", re.compile(r"Rou|MinMax|quant", re.IGNORECASE)),
)
# Products of one layer after its attention, in their order; further ones belong to the next layer's input.
ORDER = ("attention output", "up", "down")
QKV = "query, key, value"
KINDS = (QKV, "attention", *ORDER, "gelu", "norm", "quantize", "embedding", "product", "memory", "other")


@dataclass(frozen=True)
class Kernel:
    """One run of a kernel."""

    name: str
    us: float


def parts(stage: Stage) -> list[tuple[str, Callable[[], None]]]:
    """One part for each model that has engines here, the widest first; one that says so where there is none."""
    here = {s.name: s for s in stage.subjects() if stage.built(s.name)}
    order = sorted(here, key=lambda name: (name != LARGE.name, name != MINILM.name))
    return [(f"kernels {name}", lambda name=name: run(stage, here[name])) for name in order] or [("kernels", _none)]


def run(stage: Stage, subject: Subject) -> None:
    """The fastest engine of each precision before the others."""
    profiler = _profiler(stage)
    failed: list[str] = []
    for name in _fastest_first(stage, subject, list(stage.built(subject.name))):
        if not stage.enough(6):
            break
        try:
            _one(stage, subject, name, profiler)
        except Exception as error:  # noqa: BLE001 - one engine that fails must not stop the others
            failed.append(f"{name}: {words(error)}")
            stage.say(failed[-1])
    if failed:
        raise ToolError("; ".join(failed))


def _none() -> None:
    raise Unready("no engine of any model is built in this --work: run the stage build first")


def _fastest_first(stage: Stage, subject: Subject, names: list[str]) -> list[str]:
    def rank(name: str) -> float:
        cell = stage.results.measured(model=subject.name, variant=name, batch=SHAPE.batch, tokens=SHAPE.tokens)
        return -cell["measured"]["texts_per_second"] if cell else 0.0

    ranked = sorted(names, key=rank)
    precision = {name: stage.built(subject.name)[name].manifest["variant"]["precision"] for name in ranked}
    first = [n for n in ranked if n == next(it for it in ranked if precision[it] == precision[n])]
    return [*first, *(n for n in ranked if n not in first)]


def _one(stage: Stage, subject: Subject, name: str, profiler: Callable[[Bound], list[Kernel]]) -> None:
    with runners_of(stage, subject, {name}, baseline=False) as runners:
        runner = runners[0]
        if not runner.takes(SHAPE):
            stage.say(f"kernels: {name} does not take {SHAPE}")
            return
        bound = bound_for(stage, runner, SHAPE)
        for _ in range(5):
            bound.run()
        batches = runs_of(profiler(bound))
        precision = runner.bundle.manifest["variant"]["precision"]
    found = {"model": subject.name, "variant": name, "precision": precision}
    entry = {**found, "batch": SHAPE.batch, "tokens": SHAPE.tokens, **summed(batches), "rehearsal": stage.rehearse}
    stage.results.put("kernels", entry)
    shown = ", ".join(f"{kind} {us:,.0f}" for kind, us in sorted(entry["by_kind"].items(), key=lambda it: -it[1]))
    stage.say(f"kernels {subject.name} {name} {SHAPE}: {entry['total_us']:,.0f} us: {shown}")


def _profiler(stage: Stage) -> Callable[[Bound], list[Kernel]]:
    """A function from a bound batch to its kernels in order; a rehearsal has none to see."""
    try:
        import torch
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        raise ToolError("torch is not installed: no kernels were profiled") from None
    if stage.rehearse or not torch.cuda.is_available():
        raise ToolError("no GPU that torch sees: no kernels were profiled")

    def kernels(bound: Bound) -> list[Kernel]:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(RUNS):
                bound.run()
        events = [e for e in seen.events() if e.device_type != DeviceType.CPU and e.self_device_time_total > 0]
        events.sort(key=lambda e: e.time_range.start)
        return [Kernel(e.name, e.self_device_time_total) for e in events]

    return kernels


def runs_of(kernels: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels of `RUNS` equal batches, one list a batch; of batches that are not equal, all in one list."""
    size, rest = divmod(len(kernels), RUNS)
    parts = [list(kernels[n * size : (n + 1) * size]) for n in range(RUNS)]
    if size and not rest and all([k.name for k in part] == [k.name for k in parts[0]] for part in parts):
        return parts
    return [list(kernels)] if kernels else []


def summed(batches: Sequence[Sequence[Kernel]]) -> dict:
    """`total_us`, `by_kind` and `kernels` of one batch. Where batches were not equal, kinds are by name alone."""
    if not batches:
        raise ToolError("the profiler saw no kernel")
    equal = len(batches) == RUNS
    count = RUNS
    by_kind: dict[str, float] = {}
    by_name: dict[tuple[str, str], list[float]] = {}
    for batch in batches:
        names = [k.name for k in batch]
        for kernel, kind in zip(batch, kinds(names) if equal else map(alone, names), strict=True):
            by_kind[kind] = by_kind.get(kind, 0.0) + kernel.us / count
            by_name.setdefault((kind, kernel.name), []).append(kernel.us)
    rows = [
        {"kernel": name[:180], "kind": kind, "calls": len(times) / count, "us": round(sum(times) / count, 1)}
        for (kind, name), times in by_name.items()
    ]
    rows.sort(key=lambda row: -row["us"])
    total = round(sum(by_kind.values()), 1)
    return {
        "total_us": total,
        "by_kind": {kind: round(by_kind[kind], 1) for kind in KINDS if kind in by_kind},
        "kinds_by": "name and order" if equal else "name alone",
        "kernels": rows[:LISTED],
    }


def alone(name: str) -> str:
    """The kind that a kernel's name says."""
    if GEMM.search(name) and not NAMED[0][1].search(name):
        return "product"
    return next((kind for kind, pattern in NAMED if pattern.search(name)), "other")


def kinds(names: Sequence[str]) -> list[str]:
    """The kind of each kernel of one batch, in order.

    Attention is one fused kernel, or a product, a softmax and a product. Between two attentions stand the first one's
    output, up and down, and what makes the next one's query, key and value.
    """
    found = [alone(name) for name in names]
    marks = [n for n, kind in enumerate(found) if kind == "attention"]
    for mark in marks:
        if "mha" not in names[mark].lower():
            for step in (-1, 1):
                near = next((n for n in _beside(mark, step, len(names)) if found[n] == "product"), None)
                if near is not None:
                    found[near] = "attention"
    edges = [n for n, kind in enumerate(found) if kind == "attention"]
    if not edges:
        return found
    place: int | None = None
    for n, kind in enumerate(found):
        if kind == "attention":
            place = 0
        elif kind == "product":
            found[n] = _role(found, n, place, edges)
            place = None if place is None else place + 1
    return found


def _role(found: Sequence[str], at: int, place: int | None, edges: Sequence[int]) -> str:
    if place is None:
        return QKV
    if place < len(ORDER):
        return ORDER[place]
    return QKV if at < edges[-1] else "product"


def _beside(mark: int, step: int, count: int) -> range:
    return range(mark + step, min(mark + 3, count)) if step > 0 else range(mark - 1, max(mark - 3, -1), -1)
