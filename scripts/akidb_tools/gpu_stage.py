"""What every stage of the GPU benchmark shares: where things are, how much time is left, whether it is a rehearsal.

A rehearsal runs the same code on the CPU with few and tiny cells, so that a typing error costs no minute of a GPU.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import bundle_reader
from .bundle_reader import Bundle
from .errors import BadInput, ToolError
from .gpu_plan import SUBJECTS, Subject
from .gpu_results import Results

DONE, CUT, FAILED, SKIPPED = "done", "cut", "failed", "skipped"
REHEARSED = {"batches": (1, 2), "tokens": (16,), "seconds": 0.05}


class Unready(ToolError):
    """What a part needs is not there yet: the part is not done, and it did not fail."""


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

    def wants(self, name: str) -> bool:
        """Whether `only` names it: one of its parts, separated by commas, is in the name, or ends it (`$`)."""
        parts = [part.strip() for part in self.only.split(",")]
        return any(name.endswith(part[:-1]) if part.endswith("$") else part in name for part in parts)

    def enough(self, least: float) -> bool:
        """Whether `least` seconds are left; where they are not, the part that asks counts as cut short."""
        if self.left() >= least:
            return True
        self.options["cut"] = True
        return False

    def in_order(
        self,
        parts: Iterable[tuple[str, Callable[[], None]]],
        least: float,
        noted_as: str = "",
        of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """The parts that `only` names, while `least` seconds are left; one that fails is noted and the next begins.

        How each ended is kept under `parts`; with the option `resume` those that are done are not run again, unless
        what they are `of`, told by name, is another now.
        """
        for name, part in parts:
            called = f"{noted_as}{name}"
            if not self.wants(name) or (self.options.get("resume") and self._is_done(called, of(name))):
                continue
            if self.left() < least:
                self.say(f"{name}: no time left; run the stage again")
                self.ended(called, CUT)
                continue
            self.say(f"{name} ({self.left():.0f} s left)")
            started = time.monotonic()
            self.options["cut"] = False
            try:
                part()
            except Exception as error:  # noqa: BLE001 - whatever ends one part must not end the others
                self.failed(called, error)
            else:
                self.results.drop("notes", part=called)
                self.ended(called, CUT if self.options["cut"] else DONE, time.monotonic() - started, of(name))
            gc.collect()  # sessions hold memory of the GPU until they are collected

    def ended(self, part: str, state: str, seconds: float = 0.0, of: str = "") -> None:
        """Keeps how a part ended: `done`, `cut` (run it again) or `failed`; the last two leave the stage unfinished."""
        if state != DONE:
            self.options["unfinished"] = self.options.get("unfinished", 0) + 1
        entry = {"part": part, "state": state, "seconds": round(seconds, 1), "of": of, "rehearsal": self.rehearse}
        self.results.put("parts", entry)

    def failed(self, part: str, error: Exception) -> None:
        """Notes why a part failed; what nobody foresaw keeps its traceback in the log."""
        if not isinstance(error, ToolError):
            self.say("".join(traceback.format_exception(error)))
        why = " ".join(f"{'' if isinstance(error, ToolError) else type(error).__name__ + ': '}{error}".split())
        self.say(f"{part}: {why}")
        self.results.put("notes", {"part": part, "note": why[:900]})
        self.ended(part, CUT if isinstance(error, Unready) else FAILED)

    def _is_done(self, part: str, of: str) -> bool:
        wanted = (part, DONE, of)
        return any((e["part"], e["state"], e.get("of", "")) == wanted for e in self.results.entries("parts"))

    def fp32(self, subject: Subject) -> Path:
        """Its fp32 bundle: the one given, or the seeded one below `work`."""
        if subject.name in self.given:
            return self.given[subject.name]
        if subject.shape is None:
            raise BadInput(f"{subject.name} has real weights: give its fp32 bundle with --bundle FOLDER")
        return self.work / "bundles" / f"{subject.name}-fp32"

    def built(self, subject: str) -> dict[str, Bundle]:
        """Finished engines of a model, by variant name; one that is not whole is told of and left out."""
        found = {}
        known: dict[tuple, Bundle | None] = self.options.setdefault("bundles", {})  # reading hashes every file
        for file in sorted((self.work / "bundles").glob(f"{subject}-tensorrt-*/manifest.json")):
            key = (file, file.stat().st_mtime_ns)
            if key not in known:
                try:
                    known[key] = bundle_reader.read(file.parent)
                except BadInput as error:
                    known[key] = None
                    self.say(f"{file.parent.name} is left out: {error}")
                    self.results.put("notes", {"part": f"bundle {file.parent.name}", "note": str(error)[:900]})
            if known[key] is not None:
                found[known[key].manifest["variant"]["name"]] = known[key]
        return found

    def subjects(self) -> list[Subject]:
        """Those whose weights are here, or can be seeded."""
        return [s for s in SUBJECTS.values() if s.shape is not None or s.name in self.given]
