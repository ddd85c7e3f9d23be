#!/usr/bin/env python3
"""Command line: an fp32 bundle and calibration texts enter; a quantized bundle with its proof and report leave.

Exit codes: 0 done, 1 a gate was missed or the work failed, 2 the input or an option cannot be used. Only talks; the
work is in `akidb_tools.quantize`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from akidb_tools import text_sets
from akidb_tools.command import say, tool
from akidb_tools.quantize import Options, run
from akidb_tools.recipes import RECIPES
from akidb_tools.validate import lines


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, quantizes, prints; returns the exit code."""
    parsed = vars(_parser().parse_args(arguments))
    as_json = parsed.pop("json")
    report = run(Options(**parsed), say)
    print(json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(_summary(report)))
    return 1 if report["failures"] and not report["seeded"] else 0


def _parser() -> argparse.ArgumentParser:
    recipes = "; ".join(f"{r.name}: {r.summary}" for r in RECIPES.values())
    parser = argparse.ArgumentParser(prog="quantize_model.py", description="Quantize a bundle.", epilog=recipes)
    add = parser.add_argument
    add(
        "--model",
        required=True,
        type=Path,
        help="fp32 bundle: its folder, or its .onnx file with the manifest beside it",
    )
    add(
        "--output", required=True, type=Path, help="the new bundle's folder, or X.onnx (X.manifest.json goes beside it)"
    )
    add("--calibration-data", type=Path, help="texts to calibrate with (default: the corpus of make_corpus.py)")
    add(
        "--test-dataset",
        type=Path,
        help="texts that prove the result (default: the corpus's, or a quarter of the data)",
    )
    add("--precision", choices=("int8", "fp8"), default="int8")
    add("--target", choices=("cpu", "tensorrt"), help="default: cpu for int8, tensorrt for fp8")
    add("--recipe", choices=list(RECIPES), help="default: the precision's own")
    add("--seed", type=int, default=0, help="which texts calibrate; the same seed gives the same bytes")
    add("--calibrate", type=_count, default=512, metavar="N", help="calibration texts used (default: 512)")
    add("--evaluate", type=_count, default=2_000, metavar="N", help="test texts used (default: 2000)")
    add("--text-tokens", type=_count, metavar="N", help="cut texts to N tokens (big models)")
    add("--measure-speed", action="store_true", help="time both engines in turns and put it into the report")
    add("--any-language", action="store_true", help="skip the check of the calibration texts' language")
    add("--allow-failed", action="store_true", help="write the bundle though a gate was missed (exit code 1)")
    add("--force", action="store_true", help="replace what is at --output")
    add("--report", type=Path, help="where the JSON report goes (default: beside the output)")
    add("--json", action="store_true", help="print the report as JSON")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < text_sets.LEAST_TEXTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {text_sets.LEAST_TEXTS} on")
    return int(text)


def _summary(report: dict) -> list[str]:
    before, after = report["size"]["before"], report["size"]["after"]
    mean = report["measured"]["mean_cosine"]
    sign = "⚠️ seeded," if report["seeded"] else "❌" if report["failures"] else "✅"
    change = 100 * (after / before - 1)
    printed = [
        f"✅ Size: {before / 1e6:.0f}MB → {after / 1e6:.0f}MB ({change:+.0f}%)",
        f"{sign} Cosine similarity: {mean:.3f} ({100 * mean:.1f}%)",
        *lines({**report, "evaluation": report["measured"]}),
    ]
    if report["recipe"]["name"] == "fp8":
        printed.append("note: a QDQ graph carries float32 weights; the engine that TensorRT builds of it stores E4M3")
    for name, aim in report["aims"].items():
        if not aim["met"]:
            printed.append(f"⚠️ aim missed: {name} {aim['value']} (aim {aim['aim']})")
    printed += [f"❌ {failure}" for failure in report["failures"]]
    return [*printed, f"artifact {report['artifact']}  digest {report['digest']}", f"report   {report['report_file']}"]


if __name__ == "__main__":
    sys.exit(main())
