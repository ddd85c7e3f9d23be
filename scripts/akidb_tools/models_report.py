"""Outcomes of steps enter; the table of models, variants, sizes and quality, and the same as JSON, leave.

Only shows what the steps reported: a figure that was not measured is a dash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from . import steps
from .five_models import NAMES, VARIANTS, Recipe
from .model_steps import Plan
from .steps import Outcome

SEEDED = "not applicable (seeded)"
HEADER = ("model", "variant", "size", "plan's", "n", "mean cosine", "min cosine", "recall@10", "verdict")


def document(plan: Plan, outcomes: Mapping[str, Outcome], seconds: float) -> dict:
    """What build/models.json holds."""
    models = [_model(plan, model, outcomes) for model in plan.models]
    return {"models": models, "seconds": round(seconds, 1)}


def write(file: Path, report: dict) -> None:
    """Writes models.json; what it said of models that were not asked for this time stays."""
    now = {model["name"]: model for model in report["models"]}
    try:
        before = {model["name"]: model for model in json.loads(file.read_text("utf-8"))["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    every = {**before, **now}
    models = [every[name] for name in NAMES if name in every]
    file.write_text(json.dumps({**report, "models": models}, indent=2) + "\n", "utf-8")


def _model(plan: Plan, model: Recipe, outcomes: Mapping[str, Outcome]) -> dict:
    seeded = plan.seeded(model)
    first = outcomes.get(f"{model.name} checkpoint")
    distilled = first.answer.get("evaluation") if first else None
    rows = [_variant(plan, model, variant, outcomes[f"{model.name} {variant}"], distilled) for variant in VARIANTS]
    return {"name": model.name, "seeded": seeded, "pooling": model.pooling, "variants": rows}


def _variant(plan: Plan, model: Recipe, variant: str, outcome: Outcome, distilled: dict | None) -> dict:
    """`distilled`: a student's figures against its teacher, which stand in the row of its root."""
    row = {
        "variant": variant,
        "bundle": str(plan.bundle(model, variant)),
        "state": outcome.state,
        "expected_size": model.expected.get(variant),
        "seconds": outcome.seconds,
    }
    if outcome.state in (steps.FAILED, steps.WAITING):
        return {**row, "verdict": "not built" if outcome.state == steps.WAITING else "fail", "problem": outcome.problem}
    answer = outcome.answer
    if variant == "fp32":
        size = sum(f["bytes"] for f in answer["files"] if f["role"].startswith("engine"))
        figures = {**answer["parity"], "recall_at_10": None}
        verdict = "pass (parity)"
        if distilled:
            figures = {key: distilled[key] for key in ("n", "mean_cosine", "min_cosine", "recall_at_10")}
            verdict = "pass (against its teacher)" if distilled["passed"] else "fail (against its teacher)"
    else:
        size, measured = answer["size"]["after"], answer["measured"]
        figures = {key: measured[key] for key in ("n", "mean_cosine", "min_cosine", "recall_at_10")}
        figures["batch_invariance"] = answer["batch_invariance"]
        figures["linear_int8"] = answer["kernels"]["linear_int8"]
        verdict = "pass" if not answer["failures"] else "fail"
    verdict = SEEDED if plan.seeded(model) else verdict
    return {**row, "digest": answer["digest"], "bytes": size, "measured": figures, "verdict": verdict}


def lines(report: dict) -> list[str]:
    """The table for people."""
    rows = [HEADER]
    for model in report["models"]:
        for row in model["variants"]:
            rows.append((model["name"], row["variant"], *_cells(row)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(row: dict) -> tuple[str, ...]:
    expected = row["expected_size"] or "-"
    if "measured" not in row:
        return ("-", expected, "-", "-", "-", "-", f"{row['verdict']}: {row['problem']}")
    found = row["measured"]

    def figure(name: str) -> str:
        return "-" if found[name] is None else f"{found[name]:.4f}"

    cosines = (f"{found['n']:,}", figure("mean_cosine"), figure("min_cosine"), figure("recall_at_10"))
    return (f"{row['bytes'] / 1e6:.1f} MB", expected, *cosines, row["verdict"])
