#!/usr/bin/env python3
"""Command line: a checkpoint (or a feature-extraction ONNX file) enters, a bundle leaves. See docs/BUNDLE.md.

Exit codes: 0 done, 2 the input or an option cannot be used, 1 anything else. Only talks; the work is in `akidb_tools`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from akidb_tools.command import say, tool
from akidb_tools.export import Options, export
from akidb_tools.pooling import POOLINGS


@tool
def main(arguments: list[str] | None = None) -> int:
    """Parses, exports, prints; returns the exit code."""
    parsed = vars(_parser().parse_args(arguments))
    as_json = parsed.pop("json")
    parsed["prompts"] = dict(parsed.pop("prompt"))
    summary = export(Options(**parsed), say)
    print(json.dumps(summary, indent=2) if as_json else _table(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export_onnx.py", description="Write a bundle from a checkpoint.")
    add = parser.add_argument
    add("--model", required=True, help="checkpoint folder, hub id, Python package that carries one, or FILE.onnx")
    add("--output", required=True, type=Path, help="the bundle's folder")
    add("--name", help="model name (default: the last part of the id, or the folder's name)")
    add("--pooling", choices=POOLINGS, help="default: what 1_Pooling/config.json says")
    add("--max-tokens", type=int, help="tokens kept of a text (default: what the checkpoint says)")
    add("--license", help="SPDX id (default: the model card's)")
    add("--embedding-space", help="default: NAME@sha256:DIGEST of the weights")
    add("--prompt", type=_prompt, action="append", default=[], metavar="NAME=TEXT", help="unless the checkpoint has it")
    add("--force", action="store_true", help="replace an existing bundle")
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


def _prompt(text: str) -> tuple[str, str]:
    name, sign, prompt = text.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TEXT")
    return name, prompt


def _table(summary: dict) -> str:
    lines = [f"{f['bytes']:>12,}  {f['sha256'][:16]}  {f['path']}" for f in summary["files"]]
    agreed = summary["parity"]
    return "\n".join(
        [
            f"bundle  {summary['bundle']}",
            f"digest  {summary['digest']}",
            f"space   {summary['embedding_space']}",
            *lines,
            f"parity  min cosine {agreed['min_cosine']:.7f}, mean {agreed['mean_cosine']:.7f} over {agreed['n']} texts",
            *(["seeded  random weights: for speed and size only"] if summary["seeded"] else []),
            f"took    {summary['seconds']} s",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
