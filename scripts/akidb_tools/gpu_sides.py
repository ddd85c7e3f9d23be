"""Bundles enter; the engine that a sidecar serves and the fp32 baseline beside it leave, with what was refused and why.

The fastest engine is tried first. One that the sidecar refuses is noted with its reason, and the next one serves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from . import bundle_reader
from .bundle_reader import Bundle
from .errors import BadInput, ToolError
from .gpu_matrix import keeps_its_gate
from .gpu_plan import MINILM, RACE
from .gpu_services import Entry, Sidecar
from .gpu_stage import REHEARSED, Stage

# Seconds until a sidecar has to be ready: a GPU's is in a few.
PATIENCE, SLOW = 45.0, 120.0
QUEUE = {"max_queued_texts": 65_536, "max_queued_ms": 20_000}
# The best first, where no race has told.
SERVED = ("fp16", "fp8", "int8", "tf32")


@dataclass(frozen=True)
class Side:
    """What is served: `name` in the results, the bundle, and the provider demanded."""

    name: str
    path: Path
    provider: str
    variant: str
    precision: str
    digest: str

    @property
    def entry(self) -> Entry:
        return Entry(
            self.path, {"pinned": True, "fallback": False} if self.provider == "tensorrt" else {"pinned": True}
        )

    @property
    def reference(self) -> str:
        return f"{MINILM.name}@{self.variant}"


class Lineup:
    """The sides that may serve, the fastest first."""

    def __init__(self, stage: Stage, sides: Sequence[Side]) -> None:
        self._stage, self._sides, self._refused = stage, list(sides), []

    def __len__(self) -> int:
        return len(self._sides)

    @property
    def first(self) -> Side:
        if not self._sides:
            raise ToolError(f"no engine is served: {'; '.join(self._refused)}")
        return self._sides[0]

    def refuse(self, side: Side, reason: str) -> None:
        """Takes a side out; others of its precision go to the end, since what refused one mostly refuses them."""
        self._sides.remove(side)
        self._sides.sort(key=lambda it: it.precision == side.precision)
        self._refused.append(f"{side.variant}: {reason}"[:400])
        entry = {"variant": side.variant, "digest": side.digest, "reason": reason[-900:]}
        next_one = self._sides[0].variant if self._sides else None
        self._stage.results.put("refused", {**entry, "instead": next_one, "rehearsal": self._stage.rehearse})
        self._stage.say(f"{side.variant} is refused, {next_one or 'nothing'} serves instead: {reason[:300]}")


def programs(stage: Stage) -> None:
    """Refuses where a program is missing."""
    for key in ("sidecar", "loadtest"):
        if not Path(stage.options[key]).is_file():
            raise BadInput(f"--{key} {stage.options[key]} is not there: build it, or name it")


def lineup(stage: Stage) -> Lineup:
    """Engines of MiniLM that keep their quality gate: the one named, then by texts a second at the race's first shape.

    One that a sidecar said it cannot serve in an earlier run is left out while its files are the same.
    """
    built, named = stage.built(MINILM.name), stage.options.get("serve")
    if named and named not in built:
        raise BadInput(f"{named} of {MINILM.name} is not built (there are {', '.join(built) or 'none'}): run build")
    known = {e["digest"] for e in stage.results.entries("refused") if "is failed" in e["reason"]}
    sides = [side_of("served", own, stage.provider) for own in built.values() if keeps_its_gate(own)]
    if stage.rehearse:  # a CPU loads graphs of one file only, and emulates FP8 too slowly to be waited for
        sides = [side for side in sides if side.precision in ("tf32", "fp16", "int8")]
    batch, tokens = (REHEARSED["batches"][0], REHEARSED["tokens"][0]) if stage.rehearse else RACE[MINILM.name][0]

    def rank(side: Side) -> tuple[bool, float, int]:
        cell = stage.results.measured(model=MINILM.name, variant=side.variant, batch=batch, tokens=tokens)
        speed = cell["measured"]["texts_per_second"] if cell else 0.0
        return side.variant != named, -speed, SERVED.index(side.precision)

    fitting = sorted((s for s in sides if s.precision in SERVED and s.digest not in known), key=rank)
    if not fitting:
        raise BadInput(f"no engine of {MINILM.name} that a sidecar would serve is built: run the stage build first")
    return Lineup(stage, fitting)


def baseline(stage: Stage) -> Lineup:
    """The fp32 bundle on CUDA."""
    own = bundle_reader.read(stage.fp32(MINILM))
    return Lineup(stage, [side_of("baseline", own, "cpu" if stage.rehearse else "cuda")])


def side_of(name: str, own: Bundle, provider: str) -> Side:
    """A bundle as a side."""
    variant = own.manifest["variant"]
    return Side(name, own.folder, provider, variant["name"], variant["precision"], own.digest)


@contextlib.contextmanager
def serving(
    stage: Stage,
    name: str,
    from_: Lineup,
    batching: dict | None = None,
    cores: Sequence[int] | None = None,
    **settings: object,
) -> Iterator[tuple[Sidecar, Side]]:
    """A sidecar with the fastest side that it accepts; each runs in a folder of its own."""
    while True:
        side = from_.first
        runtime = {"onnxruntime": runtime_library(), "provider": side.provider, **settings}
        running = Sidecar(
            Path(stage.options["sidecar"]),
            stage.work / "http" / f"{name}-{side.variant}",
            [side.entry],
            default=side.reference,
            runtime=runtime,
            batching={**QUEUE, **(batching or {})},
            cores=cores,
            patience=SLOW if stage.rehearse else PATIENCE,
        )
        try:
            running.__enter__()
        except ToolError as error:
            from_.refuse(side, str(error))
            continue
        try:
            yield running, side
        finally:
            running.__exit__(None, None, None)
        return


def runtime_library() -> str:
    """The shared library of the ONNX Runtime that Python uses."""
    found = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so*"))
    if not found:
        raise BadInput(f"no libonnxruntime.so beside {ort.__file__}")
    return str(found[-1])
