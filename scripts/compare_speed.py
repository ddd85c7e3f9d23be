#!/usr/bin/env python3
"""Command line: bundles of one model enter; their speeds, measured in turns in one process, leave as a table.

The first bundle is the baseline. Engines take turns batch by batch, so that a busy machine slows all of them alike, and
the ratio of medians is what counts. Exit codes: 0 done, 2 a bundle cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from akidb_tools import bundle_reader, runtime
from akidb_tools.command import tool

SHAPES = {"32x32": (32, 32), "8x128": (8, 128), "1x16": (1, 16)}


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare_speed.py", description="Compare the speed of bundles.")
    parser.add_argument("bundles", nargs="+", type=Path, help="folders or .onnx files; the first is the baseline")
    parser.add_argument("--runs", type=int, default=31, help="batches of each shape and engine (default: 31)")
    options = parser.parse_args(arguments)
    found = [bundle_reader.read(path) for path in options.bundles]
    words = found[0].encoder().vocabulary_size()
    engines = {
        f"{it.model['name']}@{it.manifest['variant']['name']}": runtime.session(
            it.engine, fp8=it.manifest["variant"]["precision"] == "fp8"
        )
        for it in found
    }
    random = np.random.RandomState(0)
    columns = {}
    for shape, (batch, tokens) in SHAPES.items():
        rows = [random.randint(words // 2, words, min(tokens, found[0].model["max_tokens"])) for _ in range(batch)]
        columns[shape] = runtime.throughput(engines, found[0].output, rows, options.runs)
    print(f"| engine | {' | '.join(f'{shape} texts/s | ratio' for shape in SHAPES)} |")
    print(f"|---|{'---:|---:|' * len(SHAPES)}")
    for name in engines:
        cells = [
            f"{columns[shape][name]['texts_per_s']:.0f} | {columns[shape][name]['speedup']:.2f}" for shape in SHAPES
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
