#!/usr/bin/env python3
"""Command line: stages of the GPU benchmark, one or all; results.json, report.md and plots leave (docs/GPU.md).

Everything ends within --max-seconds, goes on where an earlier run stopped and adds to the results that are there. Exit
codes: 0 done, 1 something failed, 2 the input, an option or this machine cannot be used.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from akidb_tools import (
    bundle_reader,
    gpu_all,
    gpu_build,
    gpu_faults,
    gpu_http,
    gpu_machine,
    gpu_matrix,
    gpu_report,
    gpu_two,
    tensorrt_provider,
)
from akidb_tools.command import say, tool
from akidb_tools.errors import BadInput
from akidb_tools.gpu_results import FILE, Results
from akidb_tools.gpu_stage import FAILED, Stage

STAGES = {
    "build": gpu_build.run,
    "matrix": gpu_matrix.run,
    "http": gpu_http.run,
    "faults": gpu_faults.run,
    "two-gpu": gpu_two.run,
}


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, runs the stage or all of them; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(arguments)
    started = time.monotonic()
    if parsed.stage == "report":
        print(gpu_report.write(parsed.out / FILE, parsed.price))
        return 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)  # 1,024 clients
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started on the way out
    if not parsed.rehearse:
        tensorrt_provider.check()
    command = " ".join(["scripts/gpu_bench.py", *map(shlex.quote, arguments)])
    results = Results(parsed.out, gpu_machine.machine(), command, parsed.seconds, parsed.mirror)
    unfinished = (_all if parsed.stage == "all" else _stage)(parsed, results, started)
    took = round(time.monotonic() - started, 1)
    entry = {"stage": parsed.stage, "only": parsed.only, "seconds": took, "unfinished": unfinished}
    results.put("stages", {**entry, "rehearsal": parsed.rehearse})
    say(f"{parsed.stage}: {took} s; {gpu_report.write(results.file, parsed.price)}")
    failed = any(e["state"] == FAILED and e["invocation"] == results.invocation for e in results.entries("parts"))
    return int(failed)


def _stage(parsed: argparse.Namespace, results: Results, started: float) -> int:
    """How many parts of the stage are not done."""
    stage = Stage(
        work=parsed.work.resolve(),
        results=results,
        given=_given(parsed.bundle),
        calibration=parsed.texts / "calibration-10k.txt",
        test=parsed.texts / "test-10k.json",
        rehearse=parsed.rehearse,
        jobs=parsed.jobs,
        seconds=parsed.seconds,
        only=parsed.only,
        say=_progress(started),
        options={
            "sidecar": parsed.sidecar.resolve(),
            "loadtest": parsed.loadtest.resolve(),
            "serve": parsed.serve,
            "load_seconds": parsed.load_seconds,
            "price": parsed.price,
            "resume": parsed.resume,
        },
        ends=started + parsed.max_seconds,
    )
    STAGES[parsed.stage](stage)
    return stage.options.get("unfinished", 0)


def _all(parsed: argparse.Namespace, results: Results, started: float) -> int:
    """Whether a step failed."""
    for key in ("sidecar", "loadtest"):
        if not getattr(parsed, key).is_file():
            raise BadInput(f"--{key} {getattr(parsed, key)} is not there: build it, or name it")
    shared = ["--work", str(parsed.work), "--texts", str(parsed.texts)]
    for folder in _given(parsed.bundle).values():
        shared += ["--bundle", str(folder)]
    for key in ("sidecar", "loadtest", "serve", "seconds", "load_seconds", "price", "jobs"):
        if getattr(parsed, key) is not None:
            shared += [f"--{key.replace('_', '-')}", str(getattr(parsed, key))]
    shared += ["--rehearse"] if parsed.rehearse else []
    ends, devices = started + parsed.max_seconds, gpu_all.devices(parsed.rehearse)
    skip = [text.strip() for text in parsed.skip.split(",") if text.strip()]
    return int(not gpu_all.All(parsed.work, results, shared, ends, _progress(started), devices, skip).run())


def _progress(started: float) -> Callable[[str], None]:
    return lambda line: say(f"[{time.monotonic() - started:5.0f}s] {line}")


def _given(folders: list[Path]) -> dict[str, Path]:
    found = {}
    for folder in folders:
        own = bundle_reader.read(folder)
        if own.manifest["variant"]["precision"] != "fp32":
            raise BadInput(f"--bundle {folder} is {own.manifest['variant']['precision']}; give fp32 bundles")
        found[own.model["name"]] = folder.resolve()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_bench.py", description="The GPU benchmark: one stage, or all.")
    add = parser.add_argument
    add(
        "stage",
        choices=[*STAGES, "all", "report"],
        help="all: the stages in the best order, two GPUs side by side; report: only report.md and plots",
    )
    add("--out", type=Path, required=True, help="folder of results.json, report.md and plots")
    add(
        "--work",
        type=Path,
        default=Path("build/gpu"),
        help="folder of engines, checkpoints and logs (default: build/gpu)",
    )
    add("--bundle", type=Path, action="append", default=[], help="an fp32 bundle with real weights; may be repeated")
    add("--texts", type=Path, default=Path("build/corpus"), help="folder of calibration-10k.txt and test-10k.json")
    add("--mirror", type=Path, help="a second folder that gets results.json at every change")
    add("--max-seconds", type=float, default=450, help="the stage, or all of it, ends by then (default: 450)")
    add("--seconds", type=float, default=0.4, help="time of a cell and engine (default: 0.4)")
    add("--jobs", type=int, default=5, help="engines built at a time (default: 5)")
    add(
        "--only",
        default="",
        metavar="TEXT",
        help="only engines or parts with this in their name (at its end: TEXT$); several with commas",
    )
    add("--skip", default="", metavar="TEXT", help="all: no step with this in its name; several with commas")
    add("--resume", action="store_true", help="parts that an earlier run has done are not run again (all: always so)")
    release = Path("target/release")
    add("--sidecar", type=Path, default=release / "akidb-sidecar", help="built with --features tensorrt")
    add("--loadtest", type=Path, default=release / "akidb-loadtest")
    add("--serve", metavar="VARIANT", help="what stage http serves, such as tensorrt-fp16 (default: the fastest)")
    add("--load-seconds", type=float, default=3.0, help="time of a point under load (default: 3)")
    add("--price", type=float, default=2.0, help="USD of a GPU-hour, for the cost of a million tokens (default: 2)")
    add("--rehearse", action="store_true", help="the same code on the CPU with few, tiny cells")
    return parser


if __name__ == "__main__":
    sys.exit(main())
