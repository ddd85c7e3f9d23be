#!/usr/bin/env python3
"""Command line: an fp32 bundle, a quantized one and test texts enter; figures, a verdict and a JSON report leave.

Exit codes: 0 past the gates, 1 a gate was missed or the work failed, 2 the input or an option cannot be used. Only
talks; the work is in `akidb_tools.validate`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from akidb_tools import bundle_reader, text_sets, validate
from akidb_tools.command import say, tool
from akidb_tools.recipes import GATE


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, validates, prints; returns the exit code."""
    options = _parser().parse_args(arguments)
    report = _report(options)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        note = " (seeded weights: the figures say nothing about a real model)" if report["seeded"] else ""
        verdict = [f"❌ {failure}" for failure in report["failures"]] or ["✅ every gate passed"]
        print("\n".join([f"{report['quantized']['artifact']}{note}", *validate.lines(report), *verdict]))
    return 1 if report["failures"] else 0


def _report(options: argparse.Namespace) -> dict:
    child = bundle_reader.read(options.quantized or options.model)
    parent = bundle_reader.read(options.fp32) if options.fp32 else bundle_reader.parent_of(child)
    validate.check_same_model(parent, child)
    dataset = text_sets.read(options.test_dataset)
    texts = dataset.texts[: options.limit] if options.limit else dataset.texts
    encoder, precision = parent.encoder(), child.manifest["variant"]["precision"]
    engines = validate.Engines(parent.engine, child.engine, child.output, encoder, precision)
    gate = {**GATE, **dict(options.gate)}

    report = validate.measure(engines, dataset, texts, seed=options.seed, gate=gate, say=say)
    if options.measure_speed:
        report["speed"] = validate.speed(engines, texts, runs=15)
    seeded = parent.model["seeded"]
    if seeded:
        report["evaluation"] = {**report["evaluation"], "kind": "not_applicable", "passed": False, "reason": "seeded"}
    return {
        "seeded": seeded,
        "fp32": {"artifact": str(parent.manifest_file), "digest": parent.digest},
        "quantized": {"artifact": str(child.manifest_file), "digest": child.digest},
        **report,
    }


def _gate(text: str) -> tuple[str, float]:
    metric, _, value = text.partition("=")
    if metric not in validate.GATED:
        raise argparse.ArgumentTypeError(f"{metric!r} is not one of {', '.join(validate.GATED)}")
    return metric, float(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="validate_quantization.py", description="Prove a quantized bundle.")
    add = parser.add_argument
    add("--fp32", type=Path, help="fp32 bundle (default: the parent, found by digest beside the quantized one)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--quantized", type=Path, help="quantized bundle: a folder, or X.onnx")
    which.add_argument("--model", type=Path, help="the same, where the parent is to be found by lineage")
    add("--test-dataset", required=True, type=Path, help="test-10k.json, or texts one a line")
    add("--limit", type=int, metavar="N", help="only the first N texts")
    add("--gate", type=_gate, action="append", default=[], metavar="METRIC=LEAST", help="a gate, or a stricter one")
    add("--measure-speed", action="store_true", help="time both engines in turns")
    add("--seed", type=int, default=0, help="which batch mates test the invariance")
    add("--output", type=Path, help="where the JSON report goes; its `evaluation` fits the catalog")
    add("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
