"""Commands with what they read and write enter; each is run once, and again only where its inputs changed.

A finished step leaves a record with the digest of its inputs and of its result. A step that fails is named, holds up
only those that need it, and is tried again by the next run; so is one that was interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import bundle
from .errors import BadInput
from .step_inputs import Digests, environment

# What a step comes to.
DONE, KEPT, FAILED, WAITING = "done", "kept", "failed", "waiting"


@dataclass(frozen=True)
class Step:
    """One command (a script and its arguments). `inputs` is asked when everything in `needs` is there; `outputs` are
    bundles, other folders or files. `adopt` answers for a result that was made by hand, if that will do; `clear` is put
    aside while the command runs again for other inputs, and back if that comes to nothing."""

    name: str
    command: Sequence[str]
    outputs: Sequence[Path]
    inputs: Callable[[Digests], dict]
    needs: tuple[str, ...] = ()
    advice: str = "run `make models` again: it goes on with this step"
    adopt: Callable[[], dict | None] = lambda: None
    clear: Sequence[Path] = ()


@dataclass
class Outcome:
    """What became of a step; `answer` is what its command printed as JSON, `problem` why it failed."""

    state: str
    seconds: float = 0.0
    answer: dict = field(default_factory=dict)
    problem: str = ""


class Runner:
    """Runs steps in order; `records` is the folder of what it remembers."""

    def __init__(self, records: Path, say: Callable[[str], None]) -> None:
        self._records, self._say = records, say
        self._digests = Digests(records / "files.json")
        self._started = time.monotonic()
        self.outcomes: dict[str, Outcome] = {}

    def run(self, steps: Sequence[Step]) -> dict[str, Outcome]:
        """Every step's outcome by name."""
        with _alone(self._records):
            for number, step in enumerate(steps, 1):
                missing = [n for n in step.needs if self.outcomes[n].state in (FAILED, WAITING)]
                if missing:
                    self.outcomes[step.name] = Outcome(WAITING, problem=f"needs {', '.join(missing)}")
                    continue
                self.outcomes[step.name] = self._one(step, f"[{number}/{len(steps)}] {step.name}")
        return self.outcomes

    def _one(self, step: Step, title: str) -> Outcome:
        record = self._records / f"{step.name.replace(' ', '-')}.json"
        try:
            inputs = {"packages": environment(), "command": list(step.command), **step.inputs(self._digests)}
        except (BadInput, OSError) as error:
            return self._failed(step, title, str(error))
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        known = _read(record)
        if known.get("key") == key and known["results"] == self._results(step) and None not in known["results"]:
            return Outcome(KEPT, known["seconds"], known["answer"])
        adopted = None if known else step.adopt()
        if adopted is not None and None not in self._results(step):
            self._say(f"{title}: made by hand, kept")
            return self._done(step, record, {"key": key, "inputs": inputs}, Outcome(KEPT, 0.0, adopted))
        cleared = _put_aside(step.clear) if known else []
        self._say(f"{title}  ({_clock(time.monotonic() - self._started)} so far)")
        started = time.monotonic()
        code, printed, last = self._call(step)
        seconds = round(time.monotonic() - started, 1)
        if code or None in self._results(step):
            _put_back(cleared)
            return self._failed(step, title, last or f"exit code {code}", seconds)
        for _, aside in cleared:
            shutil.rmtree(aside)
        try:
            answer = json.loads(printed)
        except ValueError:
            answer = {}
        return self._done(step, record, {"key": key, "inputs": inputs}, Outcome(DONE, seconds, answer))

    def _done(self, step: Step, record: Path, of: dict, outcome: Outcome) -> Outcome:
        """Remembers it."""
        record.parent.mkdir(parents=True, exist_ok=True)
        kept = {**of, "results": self._results(step), "seconds": outcome.seconds, "answer": outcome.answer}
        record.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
        return outcome

    def _failed(self, step: Step, title: str, problem: str, seconds: float = 0.0) -> Outcome:
        problem = problem.removeprefix("error: ")
        command = shlex.join([".venv/bin/python", *step.command])
        self._say(f"{title} FAILED: {problem}\n    what to do: {step.advice}\n    command: {command}")
        return Outcome(FAILED, seconds, problem=problem)

    def _call(self, step: Step) -> tuple[int, str, str]:
        """Exit code, what it printed, its last line of progress. Progress is passed on as it comes."""
        for output in step.outputs:
            _sweep(output)
        started, last = time.monotonic(), ""
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            process = subprocess.Popen(
                [sys.executable, *step.command],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
                process_group=0,  # Ctrl-C reaches us alone, and we end it
            )
            try:
                for line in process.stderr or ():
                    last = line.strip() or last
                    self._say(f"    {_clock(time.monotonic() - started)} {line.rstrip()}")
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
            printed.seek(0)
            if code < 0:
                killed = signal.Signals(-code).name
                last = f"ended by {killed}" + (" (out of memory?)" if killed == "SIGKILL" else "")
            return code, printed.read(), last

    def _results(self, step: Step) -> list[str | None]:
        return [self._result(output) for output in step.outputs]

    def _result(self, output: Path) -> str | None:
        """What is there: a bundle by its digest (files by size), anything else by the digest of its files."""
        manifest = output / bundle.MANIFEST
        if output.is_file():
            return self._digests.file(output)
        if not manifest.is_file():
            return self._digests.folder(output) if output.is_dir() else None
        files = _read(manifest).get("files") or []
        sizes = {f.name: f.stat().st_size for f in output.iterdir()}
        whole = files and all(sizes.get(f["path"]) == f["bytes"] for f in files)
        return bundle.artifact_digest(files) if whole else None


def _put_aside(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Where each was and where it lies now. One that lies there already (a run that was killed) is the older one."""
    pairs = [(path, path.with_name(f"{path.name}.before")) for path in paths]
    for path, aside in pairs:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    return [pair for pair in pairs if pair[1].exists()]


def _put_back(pairs: Sequence[tuple[Path, Path]]) -> None:
    for path, aside in pairs:
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


def _read(file: Path) -> dict:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sweep(output: Path) -> None:
    """Removes what an interrupted run left half-written beside its output."""
    for left in output.parent.glob(f".{output.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs at a time would build the same things."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BadInput(f"another `make models` is running here ({folder / 'lock'} is held): wait for it") from error
    finally:
        os.close(descriptor)
