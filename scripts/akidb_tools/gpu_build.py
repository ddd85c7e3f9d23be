"""Stage `build`: fp32 bundles enter; engines of every wanted candidate leave, several built at a time.

Each engine is one process of `build_tensorrt_engine.py`, as a user would run it; its report goes into results.json
when it ends. Finished engines are not built again. Builders share one GPU: seconds are those of a busy machine, and the
entry says how many were built at a time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

from . import bundle, export, five_models, gpu_nvml, seeded
from .engine_candidates import CANDIDATES
from .errors import BadInput, ToolError
from .five_models import Shape
from .gpu_plan import MINILM, SUBJECTS, WANTED, Subject, Wanted, folder
from .gpu_stage import Stage

TOOL = Path(__file__).resolve().parents[1] / "build_tensorrt_engine.py"
REPORT = "build-report.json"
TINY = Shape(2, 64, 128, 4, 128)
# A build that could not end in this many seconds is not begun.
LEAST_SECONDS = 45
UNFINISHED = "not finished when the stage's time was up"
UNBEGUN = "no time left in this run of the stage; run it again"


def run(stage: Stage) -> None:
    """Builds what is missing, the most valuable first, until time is up."""
    here = {subject.name for subject in stage.subjects()}
    named = [w for w in WANTED if stage.wants(folder(*w[:2], w[3])) and w[0] in here]
    wanted = [w for w in named if _rehearsed(w) or not stage.rehearse]
    waiting = [w for w in wanted if not _done(stage, w)]
    for done in (w for w in wanted if w not in waiting):
        _adopt(stage, done)
    if stage.options.get("resume"):
        waiting = [w for w in waiting if not _failed_before(stage, w)]
    running: dict[Future, Wanted] = {}
    seeds: dict[str, Future] = {}
    with ThreadPoolExecutor(stage.jobs) as pool:
        for name in dict.fromkeys(w[0] for w in waiting):
            subject = SUBJECTS[name]
            if subject.shape is not None and not (stage.fp32(subject) / bundle.MANIFEST).is_file():
                seeds[name] = pool.submit(seed, stage, subject)
        while waiting or running:
            for name in [n for n, made in seeds.items() if made.done() and made.exception()]:
                waiting = _without(stage, waiting, name, seeds.pop(name).exception())
            ready = [w for w in waiting if w[0] not in seeds or seeds[w[0]].done()]
            while ready and len(running) + sum(not s.done() for s in seeds.values()) < stage.jobs:
                if stage.left() < LEAST_SECONDS:
                    break
                chosen = ready.pop(0)
                waiting.remove(chosen)
                running[pool.submit(_build, stage, chosen)] = chosen
            if stage.left() < LEAST_SECONDS and not running:
                break
            open_ones = [*running, *(s for s in seeds.values() if not s.done())]
            if open_ones:
                wait(open_ones, timeout=1, return_when=FIRST_COMPLETED)
            for future in [f for f in running if f.done()]:
                _note(stage, running.pop(future), future)
    for item in waiting:
        _put(stage, item, {"not_built": UNBEGUN})
    undone = [w for w in wanted if not _done(stage, w) and not _failed_before(stage, w)]
    stage.options["unfinished"] = len(undone)


def _without(stage: Stage, waiting: list[Wanted], name: str, error: BaseException) -> list[Wanted]:
    """What still can be built when a model's weights could not be made."""
    stage.say(f"{name}: no weights: {error}")
    for wanted in (w for w in waiting if w[0] == name):
        _put(stage, wanted, {"not_built": f"no weights: {error}"[:900]})
    return [w for w in waiting if w[0] != name]


def seed(stage: Stage, subject: Subject) -> None:
    """Seeded weights of the subject's shape, as an fp32 bundle below `work`."""
    if MINILM.name not in stage.given:
        raise BadInput(f"{subject.name} takes {MINILM.name}'s tokenizer: give that model's fp32 bundle with --bundle")
    like = five_models.find(subject.like)
    shape = TINY if stage.rehearse else subject.shape
    model = replace(like, name=subject.name, shape=shape)
    checkpoint = stage.work / "checkpoints" / subject.name
    tokenizer = next(f for f in stage.given[MINILM.name].glob("*tokenizer.json"))
    checkpoint.mkdir(parents=True, exist_ok=True)
    seeded.write(checkpoint, model, 0, tokenizer, stage.say)
    output = stage.work / "bundles" / f"{subject.name}-fp32"
    export.export(export.Options(model=str(checkpoint), output=output, name=subject.name, force=True), stage.say)


def _rehearsed(wanted: Wanted) -> bool:
    return wanted[0] in ("all-MiniLM-L6-v2", "bert-base-uncased") and wanted[1] in (
        "tf32",
        "fp16-tanh",
        "int8-mid",
        "fp8-ffn-typed",
    )


def _done(stage: Stage, wanted: Wanted) -> bool:
    return (_output(stage, wanted) / bundle.MANIFEST).is_file()


def _adopt(stage: Stage, wanted: Wanted) -> None:
    """An engine that is there and that these results do not know: its own report."""
    file = _output(stage, wanted) / REPORT
    known = any(e["name"] == file.parent.name and not e.get("not_built") for e in stage.results.entries("builds"))
    if file.is_file() and not known:
        report = json.loads(file.read_text("utf-8"))
        _put(stage, wanted, {"not_built": None, "built_at_a_time": "?", **{**report, "layers": None}})


def _failed_before(stage: Stage, wanted: Wanted) -> bool:
    """Whether its build ended by itself and failed: it would again."""
    name = folder(wanted[0], wanted[1], wanted[3])
    entry = next((e for e in stage.results.entries("builds") if e["name"] == name), None)
    return entry is not None and entry.get("not_built") not in (None, UNFINISHED, UNBEGUN)


def _output(stage: Stage, wanted: Wanted) -> Path:
    return stage.work / "bundles" / folder(wanted[0], wanted[1], wanted[3])


def _build(stage: Stage, wanted: Wanted) -> dict:
    subject, candidate = SUBJECTS[wanted[0]], CANDIDATES[wanted[1]]
    output = _output(stage, wanted)
    real = subject.shape is None
    calibration = stage.work / "calibration" / f"{subject.name}.npz"
    profiles = wanted[2] or subject.profiles
    if stage.rehearse and not real:
        profiles = (f"1x16:8x16:8x{TINY.positions}",)
    command = [
        *(sys.executable, str(TOOL), "--json", "--allow-failed", "--force"),
        *("--model", str(stage.fp32(subject)), "--output", str(output), "--precision", candidate.precision),
        *("--candidate", candidate.name, *(["--graph-only"] if stage.rehearse else [])),
        *("--variant", output.name.removeprefix(f"{subject.name}-")),
        *("--calibration-data", str(stage.calibration), "--test-dataset", str(stage.test)),
        *("--calibrate", "512" if real else "64", "--evaluate", "2000" if real and not stage.rehearse else "256"),
        *("--expected-cache", str(stage.work / "expected")),
        *(part for profile in profiles for part in ("--profile", profile)),
    ]
    if candidate.placement is not None:
        command += ["--calibration-cache", str(calibration)]
    log = stage.work / "logs" / f"{output.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        limit = max(10, stage.left())
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=stream, text=True, timeout=limit, check=False, env=_device(wanted)
        )
    if done.returncode != 0:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        reasons = [line for line in lines if line.startswith(("error:", "TensorRT:"))] or lines
        raise ToolError(" | ".join(reasons[-3:])[:900] or f"exit code {done.returncode}")
    return {**json.loads(done.stdout), "process_seconds": round(time.monotonic() - started, 1)}


def _device(wanted: Wanted) -> dict[str, str]:
    """Engines are spread over the GPUs that may be used: a process sees one of them."""
    found = gpu_nvml.devices()
    chosen = {"CUDA_VISIBLE_DEVICES": found[WANTED.index(wanted) % len(found)]} if found else {}
    return {**os.environ, **chosen}


def _note(stage: Stage, wanted: Wanted, future: Future) -> None:
    name = folder(wanted[0], wanted[1], wanted[3])
    try:
        report = future.result()
    except subprocess.TimeoutExpired:
        stage.say(f"{name}: {UNFINISHED}")
        _put(stage, wanted, {"not_built": UNFINISHED})
        return
    except (ToolError, ValueError) as error:
        stage.say(f"{name}: not built: {error}")
        _put(stage, wanted, {"not_built": str(error)[:900]})
        return
    layers = report.pop("layers")
    if layers:
        (stage.work / "logs" / f"{name}.layers.json").write_text(json.dumps(layers, indent=1) + "\n", "utf-8")
    stage.say(
        f"{name}: {report['seconds']} s, {report['bytes'] / 1e6:.1f} MB, mean cosine {report['mean_cosine']}, "
        f"min {report['min_cosine']}, recall {report['recall_at_10']}"
    )
    _put(stage, wanted, {"not_built": None, "built_at_a_time": stage.jobs, **report})


def _put(stage: Stage, wanted: Wanted, facts: dict) -> None:
    name = folder(wanted[0], wanted[1], wanted[3])
    entry = {"model": wanted[0], "candidate": wanted[1], "mark": wanted[3], "name": name, "rehearsal": stage.rehearse}
    stage.results.put("builds", {**entry, **facts})
