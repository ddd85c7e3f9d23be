#!/usr/bin/env python3
"""Command line: a teacher and a number of layers enter; a trained student's checkpoint folder leaves.

Exit codes: 0 done, 1 a gate was missed or the work failed, 2 the input or an option cannot be used, 130 stopped (the
same command resumes). Only talks; the work is in `akidb_tools.distill`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from akidb_tools.command import say, tool
from akidb_tools.distill import run
from akidb_tools.distill_inputs import CACHE, GATE, Options


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, distils, prints; returns the exit code."""
    parsed = vars(_parser().parse_args(arguments))
    as_json = parsed.pop("json")
    record = run(Options(**parsed), say)
    print(json.dumps(record, indent=2, ensure_ascii=False) if as_json else "\n".join(_summary(record)))
    return 1 if record["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill_model.py", description="Train a smaller student of a teacher.")
    add = parser.add_argument
    add("--teacher", required=True, help="checkpoint folder, hub id, or Python package that carries one")
    add("--student-layers", required=True, type=int, help="layers of the student")
    add("--output", required=True, type=Path, help="the student's checkpoint folder")
    add("--epochs", type=int, default=7, help="times each text is seen (default: 7)")
    add("--student-intermediate", type=int, metavar="M", help="width of the feed-forward (default: the teacher's)")
    add("--layers", metavar="A,B,..", help="teacher layers to start from, from 0 (default: evenly, first to last)")
    add("--corpus", "--calibration-data", type=Path, help="training texts (default: built from the corpus)")
    add("--test-dataset", type=Path, help="held-out texts (default: the corpus's, or an eighth of --corpus)")
    add("--evaluate", type=int, default=2_000, metavar="N", help="held-out texts used (default: 2000)")
    add("--batch", type=int, default=64, help="texts a step (default: 64)")
    add("--learning-rate", type=float, default=7e-4, help="highest learning rate (default: 0.0007)")
    for name, weight in (("cosine", 1.0), ("mse", 1.0), ("similarity", 5.0), ("states", 1.0)):
        add(f"--{name}", type=float, default=weight, metavar="W", help=f"weight of the {name} loss (default: {weight})")
    add("--min-cosine", type=float, default=GATE["mean_cosine"], help="gate: mean cosine to the teacher (%(default)s)")
    add("--min-recall", type=float, default=GATE["recall_at_10"], help="gate: recall@10 (%(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--threads", type=int, help="CPU threads (default: all cores)")
    add("--seed", type=int, default=0, help="order of the texts")
    add("--max-minutes", "--time-limit", type=float, metavar="M", help="be done with training by then, rate and all")
    add("--cache", type=Path, default=CACHE, help="the teacher's hidden states (default: %(default)s)")
    add("--allow-failed", action="store_true", help="write the student though a gate was missed (exit code 1)")
    add("--force", action="store_true", help="replace the student at --output; forget an unfinished run")
    add("--json", action="store_true", help="print the record as JSON")
    return parser


def _summary(record: dict) -> list[str]:
    e, size, trained = record["evaluation"], record["size"], record["training"]
    sign = "❌" if record["failures"] else "✅"
    recall = "not measured (too few texts)" if e["recall_at_10"] is None else f"{e['recall_at_10']:.4f}"
    before, after = size["teacher"], size["student"]
    return [
        f"✅ Size: {before / 1e6:.0f}MB → {after / 1e6:.0f}MB ({after / before:.2f}x)",
        f"✅ Layer cost: {record['layers']['cost']:.2f}x the teacher's",
        f"{sign} Cosine similarity to the teacher: {e['mean_cosine']:.4f} over {e['n']:,} held-out texts "
        f"(min {e['min_cosine']:.4f})",
        f"{sign} Recall@10: {recall}",
        *(f"❌ {failure}" for failure in record["failures"]),
        f"trained {trained['seconds']:.0f} s on {trained['device']} ({trained['products']}), "
        f"{trained['texts_seen']:,} texts seen",
        f"student {record['output']}",
    ]


if __name__ == "__main__":
    sys.exit(main())
