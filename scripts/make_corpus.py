#!/usr/bin/env python3
"""Command line: Debian packages' texts or request logs enter; calibration-10k.txt and test-10k.json leave.

Exit codes: 0 done, 2 a source or an option cannot be used, 1 anything else. Only talks; the work is in `akidb_tools`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from akidb_tools.command import say, tool
from akidb_tools.corpus import Options, build
from akidb_tools.corpus_sources import DEFAULT_SOURCES, SOURCES


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, builds, prints the digests; returns the exit code."""
    parsed = vars(_parser().parse_args(arguments))
    parsed["sources"] = tuple(parsed["sources"])
    output = parsed["output"]
    report = build(Options(**parsed), say)
    for part in ("calibration", "test"):
        print(f"{report[part]['sha256']}  {output / report[part]['file']}  {report[part]['n']:,} texts")
    if report["test"]["pairs"]:
        print(f"graded pairs in the test set: {report['test']['pairs']:,}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make_corpus.py", description="Build the calibration and test texts.")
    add = parser.add_argument
    add("--output", type=Path, default=Path("build/corpus"), help="folder (default: build/corpus)")
    add("--sources", nargs="+", choices=list(SOURCES), default=DEFAULT_SOURCES, help="default: %(default)s")
    add("--from-logs", metavar="FILE", help="take the texts from a request log instead; - for standard input")
    add("--calibration", type=int, default=10_000, help="calibration texts (default: 10000)")
    add("--test", type=int, default=10_000, help="test texts (default: 10000)")
    add("--pairs", type=int, default=1_000, help="graded pairs in the test set (default: 1000)")
    add("--seed", type=int, default=0, help="another seed chooses other texts; the split stays")
    add("--no-download", dest="download", action="store_false", help="use installed packages only")
    add("--allow-missing", action="store_true", help="use the sources that are here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
