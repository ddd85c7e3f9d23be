"""Artifacts of one model enter; an alias moves from one to the next, idle and under load, and times and failures leave.

The control plane, its catalog and `akidb` are real: what a user does is what is measured. At each move the sidecar
fetches the artifact, checks it, loads the engine in a process that has CUDA up, and proves it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import bundle_reader
from .bundle_reader import Bundle
from .catalog import Catalog
from .errors import ToolError
from .gpu_matrix import best, keeps_its_gate
from .gpu_plan import MINILM
from .gpu_services import Process, Sidecar, free_port, loadtest, section
from .gpu_sides import QUEUE, runtime_library
from .gpu_stage import Stage, Unready

ALIAS = "stable"
BETWEEN = 6.0
# An engine that has not answered by then is not waited for any more.
LONGEST = 60.0


@dataclass(frozen=True)
class Plane:
    """A running control plane; `akidb` runs one command against it and returns what it printed."""

    akidb: Callable[..., str]
    grpc: int
    bundles: list[Bundle]

    @property
    def model(self) -> str:
        return self.bundles[0].model["name"]

    @property
    def variants(self) -> list[str]:
        return [own.manifest["variant"]["name"] for own in self.bundles]

    def move(self, variant: str) -> None:
        """The alias goes to this variant."""
        self.akidb("aliases", "set", self.model, ALIAS, variant)

    @property
    def reference(self) -> str:
        return f"{self.model}@{ALIAS}"


def load(stage: Stage) -> None:
    """Idle: from an alias's move to an artifact that is not loaded, to its first answer; beside its build.

    Of each precision one engine has to answer: the next is tried where the sidecar refuses the best.
    """
    precisions = ("tf32", "int8") if stage.rehearse else ("fp16", "fp8", "int8")
    answered: set[str] = set()
    with _plane(stage, "load", precisions, each=2) as plane, _sidecar(stage, plane, "load") as running:
        stage.say(f"load: ready after {running.ready_seconds:.2f} s (process start, CUDA, fp32, proof)")
        for own in plane.bundles[1:]:
            if own.manifest["variant"]["precision"] in answered:
                continue
            if not stage.enough(12):
                return
            if _first_answer(stage, plane, running, own):
                answered.add(own.manifest["variant"]["precision"])


def swap(stage: Stage) -> None:
    """Under load: the alias moves from fp32 to FP16 to FP8, and nothing may fail."""
    precisions = ("tf32", "int8") if stage.rehearse else ("fp16", "fp8")
    with _plane(stage, "swap", precisions) as plane, _sidecar(stage, plane, "swap") as running:
        report, moves, error = _under_load(stage, plane, running)
    variants = plane.variants
    entry = {
        "moves": moves,
        "error": error and str(error),
        **{key: report[key] for key in ("requests", "succeeded", "failed", "errors")},
        "alias": variants,
        "answered_by": report["variants"],
        "all_answered": set(variants) <= set(report["variants"]),
        "latency_ms": report["latency_ms"],
        "rehearsal": stage.rehearse,
    }
    stage.results.put("swaps", entry)
    ready = ", ".join(f"{move['to']} in {move['took']} s" for move in moves)
    said = f"{report['requests']} requests, {report['failed']} failed, {report['variants']}"
    stage.say(f"swap {' -> '.join(variants)}: {said}; ready: {ready}")
    if error:
        raise ToolError(f"the alias could not be moved: {error}")
    missing = [v for v in variants if v not in report["variants"]]
    if missing:
        ended = ", ".join(f"{move['to']} is {move['state'] or 'unknown'} after {move['took']} s" for move in moves)
        raise ToolError(f"{', '.join(missing)} gave no answer: {ended}")


@contextlib.contextmanager
def _plane(stage: Stage, name: str, precisions: Sequence[str], each: int = 1) -> Iterator[Plane]:
    """Control plane with fp32 and the best engines of each precision; the alias is at fp32."""
    programs = Path(stage.options["sidecar"]).parent
    for program in ("akidb-control-plane", "akidb"):
        if not (programs / program).is_file():
            raise ToolError(f"{programs / program} is not there: the swap needs it beside the sidecar")
    bundles = [bundle_reader.read(stage.fp32(MINILM)), *_chosen(stage, precisions, each)]
    folder = stage.work / "http" / name
    shutil.rmtree(folder / "control-plane", ignore_errors=True)
    rest, grpc = free_port(), free_port()
    env = {
        "AKIDB_CP_DATA_DIR": str(folder / "control-plane"),
        "AKIDB_CP_LISTEN_REST": f"127.0.0.1:{rest}",
        "AKIDB_CP_LISTEN_GRPC": f"127.0.0.1:{grpc}",
    }
    process = Process(folder, "akidb-control-plane", [str(programs / "akidb-control-plane"), "serve"], env)
    process.start()
    try:
        process.wait(f"http://127.0.0.1:{rest}/readyz")
        akidb = _command(programs / "akidb", rest, folder)
        catalog = Catalog(akidb)
        taken = [own for own in bundles if _catalogued(stage, catalog, own)]
        if len(taken) < 2 or taken[0] is not bundles[0]:
            raise ToolError("the catalog took none of the engines, or not their fp32: the refusals above say why")
        plane = Plane(akidb, grpc, taken)
        plane.move(plane.variants[0])
        yield plane
    finally:
        process.stop()


def _catalogued(stage: Stage, catalog: Catalog, own: Bundle) -> bool:
    """False: the catalog refused it, which is noted."""
    try:
        catalog.add(str(own.folder), own.manifest)
    except ToolError as error:
        _refused(stage, own, str(error))
        return False
    return True


def _refused(stage: Stage, own: Bundle, reason: str) -> None:
    variant = own.manifest["variant"]["name"]
    stage.say(f"{variant} is refused: {reason}")
    facts = {"variant": variant, "digest": own.digest, "reason": reason[-900:], "instead": None}
    stage.results.put("refused", {**facts, "rehearsal": stage.rehearse})


def _chosen(stage: Stage, precisions: Sequence[str], each: int) -> list[Bundle]:
    """The best of each precision; those that a sidecar said it cannot serve come last."""
    built, chosen = stage.built(MINILM.name), best(stage, MINILM)
    refused = {e["digest"] for e in stage.results.entries("refused") if "is failed" in e["reason"]}
    found = []
    for precision in precisions:
        names = [n for n, own in built.items() if own.manifest["variant"]["precision"] == precision]
        names.sort(key=lambda n: (built[n].digest in refused, not keeps_its_gate(built[n]), n != chosen.get(precision)))
        found += [built[n] for n in names[:each]]
    if not found:
        raise Unready(f"no engine of {' or '.join(precisions)} of {MINILM.name} is built: run the stage build first")
    return found


def _command(program: Path, rest: int, folder: Path) -> Callable[..., str]:
    env = {
        **os.environ,
        "AKIDB_SERVER": f"http://127.0.0.1:{rest}",
        "AKIDB_TOKEN_FILE": str(folder / "control-plane" / "admin-token"),
    }

    def akidb(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolError(f"`akidb {' '.join(arguments)}` failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    return akidb


def _sidecar(stage: Stage, plane: Plane, name: str) -> Sidecar:
    folder = stage.work / "http" / name
    made = json.loads(
        plane.akidb("--json", "tokens", "create", "--name", f"{name}-{time.monotonic_ns()}", "--role", "sidecar")
    )
    token = folder / "token"
    token.write_text(made["token"], "utf-8")
    token.chmod(0o600)
    control = {"address": f"http://127.0.0.1:{plane.grpc}", "token_file": str(token)}
    return Sidecar(
        Path(stage.options["sidecar"]),
        folder,
        [],
        default=plane.reference,
        runtime={"onnxruntime": runtime_library()},
        batching=QUEUE,
        extra="\n" + section("control_plane", control),
    )


def _first_answer(stage: Stage, plane: Plane, running: Sidecar, own: Bundle) -> bool:
    """Whether it answered; one that the sidecar refuses is noted as refused."""
    variant = own.manifest["variant"]["name"]
    before = _states(running).get(variant, "not known to the sidecar")
    started = time.monotonic()
    try:
        plane.move(variant)
    except ToolError as error:
        _refused(stage, own, str(error))
        return False
    moved, status, answer, state = time.monotonic() - started, 0, {}, ""
    while time.monotonic() - started < LONGEST and state != "failed" and answer.get("variant") != variant:
        time.sleep(0.01)
        status, answer = running.embed({"text": "first answer", "model": plane.reference})
        state = _states(running).get(variant, "")
    took, answered = time.monotonic() - started, answer.get("variant") == variant
    reason = _reasons(running).get(variant) or answer.get("error")
    reports = {e["name"]: e for e in stage.results.entries("builds")}
    build = reports.get(f"{MINILM.name}-{variant}", {}).get("seconds")
    entry = {"variant": variant, "state_before": before, "status": status, "error": None if answered else reason}
    entry |= {"first_answer_seconds": round(took, 3) if answered else None, "move_seconds": round(moved, 3)}
    entry |= {"build_seconds": build, "process_ready_seconds": round(running.ready_seconds, 3)}
    if answered or state != "failed":
        stage.results.put("loads", {**entry, "rehearsal": stage.rehearse})
    else:
        _refused(stage, own, f"{variant} is failed: {reason}")
    shown = f"first answer after {took:.2f} s" if answered else f"no answer in {took:.0f} s: {reason}"
    stage.say(f"load {variant} ({before} before): {shown}; built in {build} s")
    return answered


def _states(running: Sidecar) -> dict[str, str]:
    return {v["name"]: v["state"] for model in running.models()["models"] for v in model["variants"]}


def _reasons(running: Sidecar) -> dict[str, str]:
    return {v["name"]: v["reason"] for model in running.models()["models"] for v in model["variants"]}


def _under_load(stage: Stage, plane: Plane, running: Sidecar) -> tuple[dict, list[dict], Exception | None]:
    """The load test's report, each move with when the engine was ready, and what stopped the moves."""
    longest = 150.0 if stage.rehearse else 20.0  # beside others an engine loads at low priority
    moves: list[dict] = []
    failed: list[Exception] = []
    over = threading.Event()

    def move() -> None:
        try:
            time.sleep(BETWEEN)
            for variant in plane.variants[1:]:
                began = time.monotonic()
                plane.move(variant)
                state = ""
                while state not in ("ready", "failed") and time.monotonic() - began < longest:
                    time.sleep(0.05)
                    state = _states(running).get(variant, "")
                took = round(time.monotonic() - began, 3)
                moves.append({"to": variant, "at_seconds": round(began - started, 3), "took": took, "state": state})
                time.sleep(BETWEEN)
        except Exception as error:  # noqa: BLE001 - the caller says it, after what was measured
            failed.append(error)
        finally:
            over.set()

    mover = threading.Thread(target=move)
    started = time.monotonic()
    mover.start()
    clients = "4" if stage.rehearse else "256"
    more = ["--clients", clients, "--distinct", "1024", "--model", plane.reference]
    most = BETWEEN + (longest + BETWEEN) * len(plane.variants)
    report = loadtest(Path(stage.options["loadtest"]), running, seconds=most, warmup=0, more=more, stop=over)
    mover.join()
    return report, moves, failed[0] if failed else None
