"""Artifacts of one model enter; an alias moves from one to the next under load, and what failed leaves."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from . import bundle_reader
from .catalog import Catalog
from .errors import ToolError
from .gpu_services import Process, Sidecar, free_port, loadtest, section
from .gpu_stage import Stage

ALIAS = "stable"
BETWEEN = 6.0


def swap(stage: Stage, bundles: Sequence[Path]) -> None:
    """Control plane, catalog, sidecar; then the alias moves while clients send."""
    programs = Path(stage.options["sidecar"]).parent
    for name in ("akidb-control-plane", "akidb"):
        if not (programs / name).is_file():
            raise ToolError(f"{programs / name} is not there: the swap needs it beside the sidecar")
    folder = stage.work / "http" / "swap"
    rest, grpc = free_port(), free_port()
    env = {
        "AKIDB_CP_DATA_DIR": str(folder / "control-plane"),
        "AKIDB_CP_LISTEN_REST": f"127.0.0.1:{rest}",
        "AKIDB_CP_LISTEN_GRPC": f"127.0.0.1:{grpc}",
    }
    plane = Process(folder, "akidb-control-plane", [str(programs / "akidb-control-plane"), "serve"], env)
    plane.start()
    try:
        plane.wait(f"http://127.0.0.1:{rest}/readyz")
        _swap(stage, bundles, folder, _command(programs / "akidb", rest, folder), grpc)
    finally:
        plane.stop()


def _command(program: Path, rest: int, folder: Path) -> object:
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


def _swap(stage: Stage, bundles: Sequence[Path], folder: Path, akidb: object, grpc: int) -> None:
    from .gpu_http import QUEUE, runtime_library

    manifests = [bundle_reader.read(path).manifest for path in bundles]
    catalog = Catalog(akidb)
    for path, manifest in zip(bundles, manifests, strict=True):
        catalog.add(str(path), manifest)
    model, variants = manifests[0]["model"]["name"], [m["variant"]["name"] for m in manifests]
    akidb("aliases", "set", model, ALIAS, variants[0])
    made = json.loads(akidb("--json", "tokens", "create", "--name", f"swap-{time.monotonic_ns()}", "--role", "sidecar"))
    token = folder / "token"
    token.write_text(made["token"], "utf-8")
    token.chmod(0o600)
    extra = "\n" + section("control_plane", {"address": f"http://127.0.0.1:{grpc}", "token_file": str(token)})
    reference = f"{model}@{ALIAS}"
    runtime = {"onnxruntime": runtime_library()}
    program = Path(stage.options["sidecar"])
    with Sidecar(program, folder, [], default=reference, runtime=runtime, batching=QUEUE, extra=extra) as running:
        report, moves = _under_load(stage, running, akidb, model, variants)
    entry = {
        "moves": moves,
        **{key: report[key] for key in ("requests", "succeeded", "failed", "errors")},
        "alias": variants,
        "answered_by": report["variants"],
        "all_answered": set(variants) <= set(report["variants"]),
        "latency_ms": report["latency_ms"],
        "rehearsal": stage.rehearse,
    }
    stage.results.put("swaps", ("alias",), entry)
    stage.say(
        f"swap {' -> '.join(variants)}: {report['requests']} requests, {report['failed']} failed, {report['variants']}"
    )


def _under_load(
    stage: Stage, running: Sidecar, akidb: object, model: str, variants: list[str]
) -> tuple[dict, list[dict]]:
    between = 12.0 if stage.rehearse else BETWEEN  # a CPU loads engines at low priority
    seconds = between * (len(variants) + 1)
    moves: list[dict] = []
    failed: list[Exception] = []

    def move() -> None:
        try:
            for variant in variants[1:]:
                time.sleep(between)
                akidb("aliases", "set", model, ALIAS, variant)
                moves.append({"to": variant, "at_seconds": round(time.monotonic() - started, 3)})
        except Exception as error:  # noqa: BLE001 - told to the caller below
            failed.append(error)

    mover = threading.Thread(target=move)
    started = time.monotonic()
    mover.start()
    clients = "4" if stage.rehearse else "256"
    more = ["--clients", clients, "--distinct", "1024", "--model", f"{model}@{ALIAS}"]
    report = loadtest(Path(stage.options["loadtest"]), running, seconds=seconds, warmup=0, more=more)
    mover.join()
    if failed:
        raise ToolError(f"the alias could not be moved: {failed[0]}")
    return report, moves
