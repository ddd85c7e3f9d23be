#!/usr/bin/env python3
"""Command line: a model's name and a seed enter; a checkpoint of its architecture with random weights leaves.

For speed, size and the whole path from checkpoint to sidecar where no real weights are at hand; everything made from
it is marked seeded. Exit codes: 0 done, 2 an option cannot be used, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from akidb_tools import bundle, checkpoint, five_models, seeded, source
from akidb_tools.command import say, tool
from akidb_tools.errors import BadInput


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, writes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="seed_checkpoint.py", description="Write a checkpoint of seeded weights.")
    add = parser.add_argument
    add("--model", required=True, help=f"one of {', '.join(m.name for m in five_models.MODELS if m.shape)}")
    add("--output", required=True, type=Path, help="the checkpoint's folder")
    add("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    add("--force", action="store_true", help="replace a seeded checkpoint that is there")
    parsed = parser.parse_args(arguments)
    _check(parsed.output, parsed.force)
    tokenizer = source.resolve(five_models.TEACHER).folder / "tokenizer.json"
    model = five_models.find(parsed.model)
    with bundle.replacing(parsed.output.resolve()) as folder:
        seeded.write(folder, model, parsed.seed, tokenizer, say)
    print(f"checkpoint {parsed.output}")
    return 0


def _check(output: Path, force: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not checkpoint.read(output).seeded):
        raise BadInput(f"output {output} is there and not a seeded checkpoint; give another --output")
    if any(output.iterdir()) and not force:
        raise BadInput(f"output {output} exists; give another --output, or --force to replace it")


if __name__ == "__main__":
    sys.exit(main())
