"""Several results.json enter, such as those of two GPUs that worked side by side; one leaves, the newest of each thing.

The same parts merged again give the same: what was merged before may be among them.
"""

from __future__ import annotations

from collections.abc import Iterable

from .gpu_results import CELL, FORMAT, KEYS
from .gpu_stage import DONE


def merged(parts: Iterable[dict]) -> dict:
    """A measured cell stands before one that was not run, and of two of a kind the newer one stands."""
    machines: dict[str, dict] = {}
    invocations: dict[tuple, dict] = {}
    cells: dict[tuple, dict] = {}
    gpu: dict[str, dict[tuple, dict]] = {}
    for part in parts:
        machines |= {m["id"]: m for m in part["machines"]}
        places = []
        for invocation in part["invocations"]:
            key = (invocation["machine"], invocation["started_at"], invocation["command"])
            invocations.setdefault(key, invocation)
            places.append(list(invocations).index(key))
        for cell in part["cells"]:
            cell = {**cell, "invocation": places[cell["invocation"]]}  # noqa: PLW2901
            key = (cell["machine"], *(cell.get(name) for name in CELL))
            cells[key] = max(cells.get(key, cell), cell, key=_age)
        for kind, entries in part["gpu"].items():
            for entry in entries:
                entry = {**entry, "invocation": places[entry["invocation"]]}  # noqa: PLW2901
                key = (entry["machine"], *(_hashable(entry.get(name)) for name in KEYS[kind]))
                known = gpu.setdefault(kind, {})
                known[key] = max(known.get(key, entry), entry, key=lambda it: it["at"])
    listed = {kind: list(entries.values()) for kind, entries in gpu.items()}
    if "notes" in listed:
        listed["notes"] = [note for note in listed["notes"] if not _settled(note, listed.get("parts", []))]
    return {
        "format": FORMAT,
        "machines": list(machines.values()),
        "invocations": list(invocations.values()),
        "cells": list(cells.values()),
        "gpu": listed,
    }


def _age(cell: dict) -> tuple[bool, str]:
    return cell["measured"] is not None, cell["measured"]["turns"] if cell["measured"] else ""


def _settled(note: dict, parts: list[dict]) -> bool:
    """Whether the part that a note is about has been done since."""
    return any(
        (p["machine"], p["part"], p["state"]) == (note["machine"], note["part"], DONE) and p["at"] >= note["at"]
        for p in parts
    )


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
