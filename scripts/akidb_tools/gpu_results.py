"""Measurements enter one at a time; one results.json that always holds all of them so far leaves.

The form is that of docs/BENCHMARKS.md, so `akidb-loadtest report` reads it; what only a GPU run has is under `gpu`. A
stage that is cut off loses nothing that it had measured, and what is there already is not measured again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

FORMAT = "akidb.benchmark/1"
FILE = "results.json"
# What makes two cells, or two entries under `gpu`, the same one, measured again.
CELL = ("provider", "model", "variant", "batch", "tokens")
KEYS = {
    "best": ("model",),
    "builds": ("name",),
    "costs": (),
    "faults": ("case",),
    "graphs": ("model", "batch", "tokens"),
    "http": ("part", "side", "variant", "clients", "batch", "rate", "base64", "placement", "contexts"),
    "kernels": ("model", "variant"),
    "loads": ("variant",),
    "notes": ("part",),
    "one_text": ("model", "tokens"),
    "parts": ("part",),
    "placement": (),
    "raw": ("variant", "batch", "tokens"),
    "refused": ("variant",),
    "stages": ("stage", "only"),
    "swaps": ("alias",),
    "two_gpu": ("contexts",),
    "vectors": ("variant",),
}


def now() -> str:
    """RFC 3339, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Results:
    """`put` replaces what is about the same thing; every change is on disk when it returns."""

    def __init__(self, folder: Path, machine: dict, command: str, seconds: float, mirror: Path | None = None) -> None:
        self.file, self._mirror, self.machine = folder / FILE, mirror, machine
        self.data = {"format": FORMAT, "machines": [], "invocations": [], "cells": [], "gpu": {}}
        if self.file.is_file():
            self.data |= json.loads(self.file.read_text("utf-8"))
        if all(known["id"] != machine["id"] for known in self.data["machines"]):
            self.data["machines"].append(machine)
        self.data["invocations"].append(
            {
                "command": command,
                "started_at": now(),
                "revision": revision(),
                "machine": machine["id"],
                "seconds_per_cell": seconds,
            }
        )
        self.invocation = len(self.data["invocations"]) - 1
        self.save()

    def cell(self, **facts: object) -> None:
        """A cell of the matrix, in the place of an older one of the same engine and shape on this machine."""
        cell = {"machine": self.machine["id"], "invocation": self.invocation, **facts}
        kept = [
            c
            for c in self.data["cells"]
            if c["machine"] != cell["machine"] or any(c.get(key) != cell.get(key) for key in CELL)
        ]
        self.data["cells"] = [*kept, cell]

    def measured(self, **wanted: object) -> dict | None:
        """A cell of this machine that was measured, by some of its keys."""
        for cell in self.data["cells"]:
            ours = cell["machine"] == self.machine["id"] and cell["measured"]
            if ours and all(cell.get(key) == value for key, value in wanted.items()):
                return cell
        return None

    def put(self, kind: str, entry: dict) -> None:
        """An entry under `gpu`, in the place of an older one about the same thing on this machine."""
        keys = KEYS[kind]
        entry = {"machine": self.machine["id"], "invocation": self.invocation, "at": now(), **entry}
        listed = self.data["gpu"].setdefault(kind, [])
        kept = [e for e in listed if any(e.get(key) != entry.get(key) for key in ("machine", *keys))]
        self.data["gpu"][kind] = [*kept, entry]
        self.save()

    def drop(self, kind: str, **wanted: object) -> None:
        """Takes away what this machine has under `gpu` with these keys."""
        listed = self.data["gpu"].get(kind, [])
        wanted = {"machine": self.machine["id"], **wanted}
        kept = [e for e in listed if any(e.get(key) != value for key, value in wanted.items())]
        if len(kept) != len(listed):
            self.data["gpu"][kind] = kept
            self.save()

    def entries(self, kind: str) -> list[dict]:
        """What this machine has under `gpu`."""
        return [e for e in self.data["gpu"].get(kind, []) if e["machine"] == self.machine["id"]]

    def save(self) -> None:
        """In one step, and beside it into the mirror."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".part")
        partial.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.replace(self.file)
        if self._mirror is not None:
            self._mirror.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file, self._mirror / FILE)


def revision() -> str | None:
    """Of git, or what the variable AKIDB_REVISION says where the code travelled without its history."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("AKIDB_REVISION")
