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
from .gpu_matrix import best
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
    model: str
    variants: list[str]

    def move(self, variant: str) -> None:
        """The alias goes to this variant."""
        self.akidb("aliases", "set", self.model, ALIAS, variant)

    @property
    def reference(self) -> str:
        return f"{self.model}@{ALIAS}"


def load(stage: Stage) -> None:
    """Idle: from an alias's move to an artifact that is not loaded, to its first answer; beside its build."""
    precisions = ("tf32", "int8") if stage.rehearse else ("fp16", "fp8", "int8")
    with _plane(stage, "load", precisions) as plane, _sidecar(stage, plane, "load") as running:
        stage.say(f"load: ready after {running.ready_seconds:.2f} s (process start, CUDA, fp32, proof)")
        for variant in plane.variants[1:]:
            if not stage.enough(12):
                return
            _first_answer(stage, plane, running, variant)


def swap(stage: Stage) -> None:
    """Under load: the alias moves from fp32 to FP16 to FP8, and nothing may fail."""
    precisions = ("tf32", "int8") if stage.rehearse else ("fp16", "fp8")
    with _plane(stage, "swap", precisions) as plane, _sidecar(stage, plane, "swap") as running:
        report, moves = _under_load(stage, plane, running)
    variants = plane.variants
    entry = {
        "moves": moves,
        **{key: report[key] for key in ("requests", "succeeded", "failed", "errors")},
        "alias": variants,
        "answered_by": report["variants"],
        "all_answered": set(variants) <= set(report["variants"]),
        "latency_ms": report["latency_ms"],
        "rehearsal": stage.rehearse,
    }
    stage.results.put("swaps", entry)
    stage.say(
        f"swap {' -> '.join(variants)}: {report['requests']} requests, {report['failed']} failed, {report['variants']}"
    )
    missing = [v for v in variants if v not in report["variants"]]
    if missing:
        raise ToolError(f"swap: {', '.join(missing)} gave no answer; states: {[move['states'] for move in moves]}")


@contextlib.contextmanager
def _plane(stage: Stage, name: str, precisions: Sequence[str]) -> Iterator[Plane]:
    """Control plane with fp32 and the best engine of each precision; the alias is at fp32."""
    programs = Path(stage.options["sidecar"]).parent
    for program in ("akidb-control-plane", "akidb"):
        if not (programs / program).is_file():
            raise ToolError(f"{programs / program} is not there: the swap needs it beside the sidecar")
    bundles = [bundle_reader.read(stage.fp32(MINILM)), *_chosen(stage, precisions)]
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
        for own in bundles:
            catalog.add(str(own.folder), own.manifest)
        variants = [own.manifest["variant"]["name"] for own in bundles]
        plane = Plane(akidb, grpc, bundles[0].model["name"], variants)
        plane.move(variants[0])
        yield plane
    finally:
        process.stop()


def _chosen(stage: Stage, precisions: Sequence[str]) -> list[Bundle]:
    """The best of each precision; where a sidecar said that it cannot serve that one, another."""
    built, chosen = stage.built(MINILM.name), best(stage, MINILM)
    refused = {e["digest"] for e in stage.results.entries("refused") if "is failed" in e["reason"]}
    found = []
    for precision in precisions:
        names = [n for n, own in built.items() if own.manifest["variant"]["precision"] == precision]
        names.sort(key=lambda n: (built[n].digest in refused, n != chosen.get(precision)))
        found += [built[n] for n in names[:1]]
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


def _first_answer(stage: Stage, plane: Plane, running: Sidecar, variant: str) -> None:
    before = _states(running).get(variant, "not known to the sidecar")
    started = time.monotonic()
    plane.move(variant)
    moved, status, answer = time.monotonic() - started, 0, {}
    while time.monotonic() - started < LONGEST:
        status, answer = running.embed({"text": "first answer", "model": plane.reference})
        if answer.get("variant") == variant or _states(running).get(variant) == "failed":
            break
        time.sleep(0.01)
    took = time.monotonic() - started
    reports = {e["name"]: e for e in stage.results.entries("builds")}
    build = reports.get(f"{MINILM.name}-{variant}", {}).get("seconds")
    reason = next((r for v, r in _reasons(running).items() if v == variant and r), None)
    answered = answer.get("variant") == variant
    entry = {"variant": variant, "state_before": before, "status": status, "error": answer.get("error") or reason}
    entry |= {"first_answer_seconds": round(took, 3) if answered else None, "move_seconds": round(moved, 3)}
    entry |= {"build_seconds": build, "process_ready_seconds": round(running.ready_seconds, 3)}
    stage.results.put("loads", {**entry, "rehearsal": stage.rehearse})
    shown = f"first answer after {took:.2f} s" if answered else f"no answer in {took:.0f} s: {entry['error']}"
    stage.say(f"load {variant} ({before} before): {shown}; built in {build} s")


def _states(running: Sidecar) -> dict[str, str]:
    return {v["name"]: v["state"] for model in running.models()["models"] for v in model["variants"]}


def _reasons(running: Sidecar) -> dict[str, str]:
    return {v["name"]: v["reason"] for model in running.models()["models"] for v in model["variants"]}


def _under_load(stage: Stage, plane: Plane, running: Sidecar) -> tuple[dict, list[dict]]:
    between = 12.0 if stage.rehearse else BETWEEN  # a CPU loads engines at low priority
    seconds = between * (len(plane.variants) + 1)
    moves: list[dict] = []
    failed: list[Exception] = []

    def move() -> None:
        try:
            for variant in plane.variants[1:]:
                time.sleep(between)
                plane.move(variant)
                at = time.monotonic() - started
                moves.append({"to": variant, "at_seconds": round(at, 3), "states": {}})
            time.sleep(between)
            moves[-1]["states"] = _states(running)
        except Exception as error:  # noqa: BLE001 - told to the caller below
            failed.append(error)

    mover = threading.Thread(target=move)
    started = time.monotonic()
    mover.start()
    clients = "4" if stage.rehearse else "256"
    more = ["--clients", clients, "--distinct", "1024", "--model", plane.reference]
    report = loadtest(Path(stage.options["loadtest"]), running, seconds=seconds, warmup=0, more=more)
    mover.join()
    if failed:
        raise ToolError(f"the alias could not be moved: {failed[0]}")
    return report, moves
