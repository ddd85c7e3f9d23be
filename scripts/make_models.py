#!/usr/bin/env python3
"""Command line of `make models`: five models enter by name, their fp32, int8 and fp8 bundles and a table leave.

With --publish the bundles go to S3 and, where AKIDB_SERVER and AKIDB_TOKEN_FILE name a control plane, into its catalog.

What is built already of the same inputs is kept; an interrupted run goes on where it was. Exit codes: 0 everything is
there, 1 a step failed, 2 an option cannot be used, 130 interrupted. Only talks; the work is in `akidb_tools`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

from akidb_tools import catalog, five_models, model_steps, models_report, publish, steps
from akidb_tools.command import tool
from akidb_tools.errors import Stopped

ROOM = 8_000_000_000  # bytes that five models take, with checkpoints


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, builds, prints; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(options)
    except KeyboardInterrupt as error:
        raise Stopped("interrupted: what is finished is kept; `make models` goes on where it was") from error


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    plan = _plan(options)
    listed = model_steps.steps(plan)
    names = ", ".join(f"{m.name} (seeded)" if plan.seeded(m) else m.name for m in plan.models)
    _say(f"models: {names}; {len(listed)} steps")
    _check_room(options.work)
    publisher = publish.Publisher(options.publish, _say) if options.publish else None
    if publisher:
        publisher.check()
    outcomes = steps.Runner(options.work / "steps", _say).run(listed)
    report = models_report.document(plan, outcomes, time.monotonic() - started)
    file = options.work / "models.json"
    models_report.write(file, report)
    failed = [name for name, outcome in outcomes.items() if outcome.state in (steps.FAILED, steps.WAITING)]
    print(json.dumps(report, indent=2) if options.json else "\n".join(models_report.lines(report)), flush=True)
    done = sum(outcome.state == steps.DONE for outcome in outcomes.values())
    if not done and not failed:
        _say(f"nothing to do: all {len(listed)} steps are done with the same inputs")
    _say(f"{file}  ({done} steps done, {len(listed) - done - len(failed)} kept, {len(failed)} not done)")
    if publisher:
        _publish(publisher, [Path(v["bundle"]) for m in report["models"] for v in m["variants"] if "digest" in v])
    return 1 if failed else 0


def _publish(publisher: publish.Publisher, folders: list[Path]) -> None:
    """Uploads, then catalogues or says how."""
    published = []
    for number, folder in enumerate(folders, 1):
        _say(f"[{number}/{len(folders)}] publishing {folder.name}")
        published.append(publisher.publish(folder))
        sent = f"{published[-1].sent / 1e6:.1f} MB sent" if published[-1].sent else "there already"
        _say(f"    {published[-1].uri}: {sent}")
    found = catalog.by_environment()
    if found:
        new = [it.uri for it in published if found.add(it.uri, it.manifest)]
        _say(f"catalogued: {len(published)} bundles, {len(published) - len(new)} were there already")
        return
    _say("no control plane is named (AKIDB_SERVER and AKIDB_TOKEN_FILE). To catalogue them there:")
    for it in published:
        _say(f"  akidb models import {it.uri} --wait")


def _plan(options: argparse.Namespace) -> model_steps.Plan:
    asked = [name for name in (options.models or "all").split(",") if name]
    wanted = [m.name for m in five_models.MODELS] if asked == ["all"] else [five_models.find(n).name for n in asked]
    chosen = tuple(m for m in five_models.MODELS if m.name in wanted)
    return model_steps.Plan(
        models=chosen,
        folders=model_steps.folders(options.models_from, options.checkpoint),
        seed=options.seed,
        bundles=options.work / "bundles",
        checkpoints=options.work / "checkpoints",
        corpus=options.work / "corpus",
        calibration_data=options.calibration_data,
        test_dataset=options.test_dataset,
        epochs=options.epochs,
        any_language=options.any_language,
    )


def _check_room(work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    used = sum(f.stat().st_size for f in work.glob("*/*/model*") if f.is_file())
    if free + used < ROOM:
        _say(f"note: {free / 1e9:.1f} GB are free below {work}; five models take about {ROOM / 1e9:.0f} GB")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _checkpoint(text: str) -> tuple[str, Path]:
    name, sign, folder = text.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make_models.py", description="Build fp32, int8 and fp8 bundles.")
    add = parser.add_argument
    add("--models", metavar="NAMES", help="names with commas between, short ones too (default: all five)")
    add("--checkpoint", type=_checkpoint, action="append", default=[], metavar="NAME=FOLDER", help="real weights")
    add("--models-from", type=Path, metavar="FOLDER", help="a folder with real weights in one subfolder a model")
    add("--seed", type=int, default=0, help="of models without real weights (default: 0)")
    add("--calibration-data", type=Path, help="texts to calibrate with (default: the corpus of make_corpus.py)")
    add("--test-dataset", type=Path, help="texts that prove the result (default: as for quantize_model.py)")
    add("--any-language", action="store_true", help="skip the check of the calibration texts' language")
    add("--epochs", type=int, default=7, help="of the distillation (default: 3)")
    add("--work", type=Path, default=Path("build"), help="where bundles, checkpoints and records go (default: build)")
    add("--publish", metavar="S3_URI", help="upload the bundles below s3://BUCKET/PREFIX and catalogue them")
    add("--json", action="store_true", help="print models.json instead of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
