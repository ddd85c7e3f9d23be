#!/usr/bin/env python3
"""Command line: a bundle (or its .onnx file) enters; a bundle of TensorRT engines with its build report leaves.

With --publish or --register it is catalogued by the control plane that AKIDB_SERVER and AKIDB_TOKEN_FILE name. Exit
codes: 0 done, 1 a gate was missed, the build failed or the catalog refused, 2 the input, an option or this machine
cannot be used. Only talks; the work is in `akidb_tools.engine_build`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from akidb_tools import text_sets
from akidb_tools.command import say, tool
from akidb_tools.engine_build import run
from akidb_tools.engine_bundle import REPORT
from akidb_tools.engine_candidates import CANDIDATES, PRECISIONS
from akidb_tools.engine_options import IN_PLACE, UPLOAD, Options


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, builds, prints; returns the exit code."""
    parsed = vars(parser().parse_args(arguments))
    as_json = parsed.pop("json")
    report = run(Options(**parsed), say)
    print(
        json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(_summary(report, parsed["output"]))
    )
    return 0


def parser() -> argparse.ArgumentParser:
    """All options; docs/GPU.md explains them."""
    candidates = "; ".join(f"{c.name}: {c.summary}" for c in CANDIDATES.values())
    made = argparse.ArgumentParser(
        prog="build_tensorrt_engine.py", description="Build TensorRT engines from a bundle.", epilog=candidates
    )
    add = made.add_argument
    add("--model", required=True, type=Path, help="the fp32 bundle, or a quantized one of it, or its .onnx file")
    add("--output", required=True, type=Path, help="the new bundle's folder, such as models/all-MiniLM-L6-v2-FP8.trt")
    add("--precision", required=True, choices=PRECISIONS)
    add("--profile", action="append", default=[], metavar="MIN:OPT:MAX", help="each BATCHxTOKENS; may be repeated")
    add("--calibration-data", type=Path, help="texts to calibrate int8 and fp8 with (default: make_corpus.py's)")
    add("--test-dataset", type=Path, help="held-out texts that prove the engine (default: make_corpus.py's)")
    add("--candidate", choices=list(CANDIDATES), metavar="NAME", help="how to build it (default: the precision's own)")
    add("--variant", help="the variant's name (default: tensorrt-PRECISION)")
    add("--calibrate", type=_count, default=512, metavar="N", help="calibration texts used (default: 512)")
    add("--evaluate", type=_count, default=2_000, metavar="N", help="test texts used (default: 2000)")
    add("--seed", type=int, default=0, help="which texts calibrate")
    add("--timing-cache", type=Path, metavar="FOLDER", help="kernel times of earlier builds on this machine")
    add("--calibration-cache", type=Path, metavar="FILE", help="keep the calibration here, and take it from here")
    add("--expected-cache", type=Path, metavar="FOLDER", help="keep the fp32 vectors of the test texts here")
    add("--optimization-level", type=int, choices=range(6), default=3)
    add("--publish", metavar="S3_URI", help="upload it below s3://BUCKET/PREFIX and catalogue it there")
    ways = {"nargs": "?", "const": UPLOAD, "choices": (UPLOAD, IN_PLACE)}
    add("--register", **ways, help=f"catalogue it: files are uploaded, or with {IN_PLACE} read by the server (file://)")
    add("--device", type=int, default=0)
    add("--graph-only", action="store_true", help="write the graph that TensorRT would get, proven on the CPU")
    add("--any-language", action="store_true", help="skip the check of the calibration texts' language")
    add("--allow-failed", action="store_true", help="write the bundle though a gate was missed")
    add("--force", action="store_true", help="replace what is at --output")
    add("--json", action="store_true", help="print the report as JSON")
    return made


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < text_sets.LEAST_TEXTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {text_sets.LEAST_TEXTS} on")
    return int(text)


def _summary(report: dict, output: Path) -> list[str]:
    recall = "not measured" if report["recall_at_10"] is None else f"{report['recall_at_10']:.4f}"
    return [
        *(f"{e['bytes']:>12,}  {e['seconds']:>7.1f} s  {e['profile']}  {e['file']}" for e in report["engines"]),
        f"candidate {report['candidate']}: {report['summary']}",
        f"machine   {report['gpu']}, TensorRT {report['tensorrt']}, ONNX Runtime {report['onnxruntime']}",
        f"quality   mean cosine {report['mean_cosine']:.6f}, min {report['min_cosine']:.6f}, recall@10 {recall} "
        f"over {report['n']:,} texts{' (seeded: says nothing)' if report['seeded'] else ''}",
        f"batches   least cosine of one text in any two batches {report['batch_invariance']:.7f} "
        f"(gate {report['gate']['batch_invariance']})",
        f"load      {report['load_seconds']} s",
        f"artifact  {output}  digest {report['artifact']}",
        f"report    {output / REPORT}",
        *([f"catalog   version {report['catalogued']}"] if report["catalogued"] else []),
    ]


if __name__ == "__main__":
    sys.exit(main())
