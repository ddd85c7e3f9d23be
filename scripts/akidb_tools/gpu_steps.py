"""How many GPUs there are enters; the steps of the whole benchmark leave, and which may begin now. Pure.

Steps stand in order of value. A step has its GPUs to itself. Builds take the CPU that clients and server of a load test
are measured on, so builds and load tests are never at work together; engines measured in one process disturb nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from .gpu_plan import LARGE, MINILM

BUILDS, CLIENTS, ENGINE = "builds", "clients", "engine"
# What the first builds are: enough for every target.
FIRST = {
    MINILM.name: ("fp16-tanh", "fp8-ffn-typed", "int8-mid", "tf32", "fp8-all-typed"),
    LARGE.name: ("fp16-tanh", "int8-most", "int8-all", "fp8-ffn-typed", "int8-mid", "int8-most-typed"),
}
# Models measured beside MiniLM, on the second GPU where there is one.
OTHERS = "bert-base,bge-small,distilled"


@dataclass(frozen=True)
class Step:
    """One stage with the parts or engines that `only` names.

    `lane`: whose results and engines it uses; `gpus`: by place among those that may be used; `most`: its seconds;
    `least`: with fewer left it is not begun.
    """

    stage: str
    only: str
    lane: int
    gpus: tuple[int, ...]
    kind: str
    most: float
    least: float = 25.0

    @property
    def name(self) -> str:
        only = self.only if len(self.only) < 60 else f"{self.only[:50]}..."
        return f"{self.stage} {only}".strip()


def steps(gpus: int) -> list[Step]:
    """All of it, the most valuable first; with one GPU everything is on it and `two-gpu` is left out."""
    a, b = (0,), (1,)
    listed = [
        Step("build", first(LARGE.name), 1, b, BUILDS, 220, 60),
        Step("build", first(MINILM.name), 0, a, BUILDS, 180, 60),
        Step("matrix", "race MiniLM", 0, a, ENGINE, 45),
        Step("http", "placement,single,rate,vectors", 0, a, CLIENTS, 140, 40),
        Step("http", "cost,big batches,batching,busy", 0, a, CLIENTS, 130, 40),
        Step("matrix", f"race {LARGE.name},kernels {LARGE.name}", 1, b, ENGINE, 90),
        Step("two-gpu", "", 0, (0, 1), CLIENTS, 110, 50),
        Step("http", "load,swap", 0, a, CLIENTS, 110, 45),
        Step("faults", "", 0, a, ENGINE, 110, 30),
        Step("http", "more clients", 0, a, CLIENTS, 50, 40),
        Step("matrix", f"five models {LARGE.name}", 1, b, ENGINE, 60),
        Step("matrix", "graphs MiniLM,one text,matrix MiniLM", 0, a, ENGINE, 110),
        Step("build", OTHERS, 1, b, BUILDS, 240, 60),
        Step("matrix", ",".join(f"five models {name}" for name in OTHERS.split(",")), 1, b, ENGINE, 90),
        Step("matrix", f"kernels {MINILM.name}", 0, a, ENGINE, 60),
        Step("build", LARGE.name, 1, b, BUILDS, 240, 60),
        Step("build", MINILM.name, 0, a, BUILDS, 240, 60),
        Step("matrix", f"race {LARGE.name},five models {LARGE.name},kernels {LARGE.name}", 1, b, ENGINE, 120),
        Step("matrix", "race MiniLM,graphs MiniLM,matrix MiniLM", 0, a, ENGINE, 110),
    ]
    if gpus > 1:
        return listed
    return [replace(step, gpus=(0,)) for step in listed if len(step.gpus) == 1]


def first(model: str) -> str:
    """`--only` for the first engines of a model."""
    return ",".join(f"{model}-tensorrt-{candidate}$" for candidate in FIRST[model])


def choose(waiting: Sequence[Step], running: Collection[Step], left: float) -> Step | None:
    """The first step that may begin: its GPUs are free, nothing that it disturbs is at work or waits before it.

    What stands behind a build of its lane needs those engines, and waits with it.
    """
    busy = {gpu for step in running for gpu in step.gpus}
    kinds = {step.kind for step in running}
    lanes = {step.lane for step in running}
    clients_wait = False
    for step in waiting:
        if left < step.least:
            continue
        barred = step.lane in lanes or not busy.isdisjoint(step.gpus)
        barred |= step.kind == CLIENTS and BUILDS in kinds
        barred |= step.kind == BUILDS and (CLIENTS in kinds or clients_wait)
        if not barred:
            return step
        clients_wait |= step.kind == CLIENTS
        if step.kind == BUILDS:
            lanes.add(step.lane)
    return None
