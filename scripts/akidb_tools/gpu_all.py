"""Command `all`: the whole benchmark in one call of a given length, two GPUs side by side; one results.json leaves.

Every step is a process of `gpu_bench.py`, with results of its lane below `work`; they are merged into `out` all the
time, so that a machine that is taken away takes little. What is done is not done again by the next call.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import bundle, gpu_left_out, gpu_nvml
from .gpu_merge import merged
from .gpu_results import FILE, Results
from .gpu_stage import CUT, DONE, FAILED, SKIPPED
from .gpu_steps import FIRST, Step, choose, first, steps

PROGRAM = Path(__file__).resolve().parents[1] / "gpu_bench.py"
# For a step's own ending after its time, before it is ended.
GRACE = 25.0
# For what is left to do after the last step.
LAST = 6.0
MERGE_EVERY = 10.0
NO_GPU = "none"


@dataclass
class All:
    """`shared` are the options that every step gets, `ends` is of the monotonic clock, `say` tells progress.

    `skip`: steps with one of these in their name are left out.
    """

    work: Path
    results: Results
    shared: Sequence[str]
    ends: float
    say: Callable[[str], None]
    devices: Sequence[str]
    skip: Sequence[str] = ()
    _running: dict[Step, tuple[subprocess.Popen, float, float]] = field(default_factory=dict)
    _failed: bool = False

    def run(self) -> bool:
        """Until everything is done or time is up; whether every step that ran did what it was to do."""
        waiting = [s for s in steps(max(1, len(self.devices))) if not self._done(s) and not self._later(s)]
        skipped = [step for step in waiting if any(text in f"{step.stage} {step.only}" for text in self.skip)]
        waiting = [step for step in waiting if step not in skipped]
        for step in skipped:
            self._ended(step, SKIPPED, "left out by --skip")
        at_last_merge = time.monotonic()
        try:
            while waiting or self._running:
                while step := choose(waiting, self._running, self._left()):
                    waiting.remove(step)
                    self._start(step)
                if not self._running:
                    break
                time.sleep(0.2)
                ended = self._collect()
                if ended or time.monotonic() - at_last_merge > MERGE_EVERY:
                    self._merge()
                    at_last_merge = time.monotonic()
        finally:
            self._stop()
        for step in waiting:
            self._ended(step, CUT, "no time left for it; run `all` again with the same --work")
        if len(self.devices) < 2:
            self.results.put("notes", {"part": "all two-gpu", "note": f"{len(self.devices)} GPU may be used here"})
        self._merge()
        gpu_left_out.mark(self.results)
        return not self._failed

    def _left(self) -> float:
        return self.ends - time.monotonic() - LAST

    def _lane(self, step: Step) -> Path:
        return self.work / "lanes" / str(step.lane)

    def _start(self, step: Step) -> None:
        seconds = min(step.most, self._left())
        command = [sys.executable, str(PROGRAM), step.stage, "--out", str(self._lane(step)), "--resume"]
        command += ["--max-seconds", f"{seconds:.0f}", "--only", step.only, *self.shared]
        env = dict(os.environ)
        if NO_GPU not in self.devices:
            env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as NVML counts
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices[gpu] for gpu in step.gpus)
        self.say(f"{step.name}: begins on GPU {env.get('CUDA_VISIBLE_DEVICES', '-')}, {seconds:.0f} s at most")
        running = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
        self._running[step] = running, time.monotonic(), time.monotonic() + seconds + GRACE

    def _collect(self) -> bool:
        """Takes in steps that ended, and ends those that did not in their time."""
        ended = False
        for step, (running, started, latest) in list(self._running.items()):
            code = running.poll()
            if code is None:
                if time.monotonic() > latest:
                    _end(running)
                continue
            del self._running[step]
            ended = True
            took = time.monotonic() - started
            self.say(f"{step.name}: ended after {took:.0f} s with exit code {code}")
            self._failed |= code != 0
            if code not in (0, 1):
                self._ended(step, FAILED, f"ended with exit code {code} after {took:.0f} s; its lines above say why")
            elif self._done(step):
                self._ended(step, DONE)
            else:
                self._ended(step, CUT if code == 0 else FAILED, "not all of it was done; its parts say why")
        return ended

    def _ended(self, step: Step, state: str, note: str | None = None) -> None:
        part = f"all {step.name}"
        self.results.put("parts", {"part": part, "state": state, "seconds": 0.0, "rehearsal": False})
        if note:
            self.results.put("notes", {"part": part, "note": note})
        else:
            self.results.drop("notes", part=part)

    def _done(self, step: Step) -> bool:
        """Whether the lane's results say that the stage left nothing undone."""
        same = [e for e in self._stages(step) if (e["stage"], e.get("only")) == (step.stage, step.only)]
        return any(e["machine"] == self.results.machine["id"] and e.get("unfinished") == 0 for e in same)

    def _later(self, step: Step) -> bool:
        """Whether first builds of an earlier call go on only behind the measurements: some engines are there."""
        for model in FIRST:
            if step.stage == "build" and step.only == first(model):
                tried = any((e["stage"], e.get("only")) == (step.stage, step.only) for e in self._stages(step))
                return tried and any((self.work / "bundles").glob(f"{model}-tensorrt-*/{bundle.MANIFEST}"))
        return False

    def _stages(self, step: Step) -> list[dict]:
        found = _read(self._lane(step) / FILE)
        return found["gpu"].get("stages", []) if found else []

    def _merge(self) -> None:
        lanes = [_read(file) for file in sorted((self.work / "lanes").glob(f"*/{FILE}"))]
        self.results.data = merged([self.results.data, *(lane for lane in lanes if lane)])
        self.results.save()

    def _stop(self) -> None:
        for running, _, _ in self._running.values():
            _end(running)
        self._running.clear()


def devices(rehearse: bool) -> list[str]:
    """The GPUs to use, at most two; a rehearsal does as if it had two."""
    return [NO_GPU, NO_GPU] if rehearse else gpu_nvml.devices()[:2]


def _end(running: subprocess.Popen) -> None:
    """The stage ends its own servers when it is asked to end; builders are asked with it, as of its group."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if running.poll() is not None:
            return
        os.killpg(running.pid, sent)
        try:
            running.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue


def _read(file: Path) -> dict | None:
    """Written in one step, so there is a whole file or none."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else None
