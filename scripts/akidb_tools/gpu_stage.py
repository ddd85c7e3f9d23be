"""What every stage of the GPU benchmark shares: where things are, how much time is left, whether it is a rehearsal.

A rehearsal runs the same code on the CPU with few and tiny cells, so that a typing error costs no minute of a GPU.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import bundle_reader
from .bundle_reader import Bundle
from .errors import BadInput, ToolError
from .gpu_plan import SUBJECTS, Subject
from .gpu_results import Results

REHEARSED = {"batches": (1, 2), "tokens": (16,), "seconds": 0.05}


@dataclass(frozen=True)
class Stage:
    """`given` are fp32 bundles by model name; everything built goes below `work`."""

    work: Path
    results: Results
    given: dict[str, Path]
    calibration: Path
    test: Path
    rehearse: bool
    jobs: int
    seconds: float
    only: str
    say: Callable[[str], None]
    options: dict = field(default_factory=dict)
    ends: float = 0.0

    @property
    def provider(self) -> str:
        return "cpu" if self.rehearse else "tensorrt"

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def left(self) -> float:
        """Seconds until the stage has to be done."""
        return self.ends - time.monotonic()

    def in_order(self, parts: Iterable[tuple[str, Callable[[], None]]], least: float, noted_as: str = "") -> None:
        """The parts that `only` names, while `least` seconds are left; one that fails is noted and the next begins."""
        for name, part in parts:
            if self.only not in name:
                continue
            if self.left() < least:
                self.say(f"{name}: no time left; run the stage again")
                continue
            self.say(f"{name} ({self.left():.0f} s left)")
            try:
                part()
            except ToolError as error:
                self.say(f"{name}: {error}")
                self.results.put("notes", ("part",), {"part": f"{noted_as}{name}", "note": str(error)[:900]})
            gc.collect()  # sessions hold memory of the GPU until they are collected

    def fp32(self, subject: Subject) -> Path:
        """Its fp32 bundle: the one given, or the seeded one below `work`."""
        if subject.name in self.given:
            return self.given[subject.name]
        if subject.shape is None:
            raise BadInput(f"{subject.name} has real weights: give its fp32 bundle with --bundle FOLDER")
        return self.work / "bundles" / f"{subject.name}-fp32"

    def built(self, subject: str) -> dict[str, Bundle]:
        """Finished engines of a model, by variant name."""
        found = {}
        for file in sorted((self.work / "bundles").glob(f"{subject}-tensorrt-*/manifest.json")):
            own = bundle_reader.read(file.parent)
            found[own.manifest["variant"]["name"]] = own
        return found

    def subjects(self) -> list[Subject]:
        return list(SUBJECTS.values())
