#!/usr/bin/env python3
"""Command line: benchmark results enter; what `akidb-loadtest report` makes of them leaves, with its exit code.

Finds the program in target/release, else in PATH, and becomes it. Never renders anything itself. Exit code 2: no
program. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

PROGRAM = "akidb-loadtest"


def main(arguments: list[str] | None = None) -> int:
    """Parses and hands over; returns only when there is no program."""
    parser = argparse.ArgumentParser(prog="generate_benchmark_report.py", description="Render benchmark results.")
    parser.add_argument("--input", required=True, help="results of `cargo bench --bench embedding_comprehensive`")
    parser.add_argument("--output", required=True, help="the Markdown page; its plots go beside it")
    options = parser.parse_args(arguments)
    built = Path(__file__).resolve().parent.parent / "target" / "release" / PROGRAM
    program = str(built) if os.access(built, os.X_OK) else shutil.which(PROGRAM)
    if program is None:
        print(
            f"error: {PROGRAM} is neither in target/release nor in PATH: run `cargo build --release -p akidb-loadtest`",
            file=sys.stderr,
        )
        return 2
    os.execv(program, [PROGRAM, "report", "--input", options.input, "--output", options.output])
    return 2


if __name__ == "__main__":
    sys.exit(main())
