"""A group's weights and the rows it reads enter; how its input should be moved and scaled before int8 leaves.

SmoothQuant (Xiao et al., 2022) with a shift (Wei et al., 2023): scale of channel j = reach_j^a / weight_j^(1-a), shift
= its mean. Both are exact in real numbers; the candidate with the least output error after rounding wins. Tried only
where the input is narrower than the output: folded into a LayerNorm or not, their cost is small beside the product's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .activations import Seen
from .int8_graph import LEVELS, RowPlan, quantize_columns
from .linear_layers import Group
from .static_ranges import reaches

STRENGTHS = (0.5, 0.6, 0.7, 0.8)
REACH_QUANTILE = 0.999
ROWS = 1_024


@dataclass(frozen=True)
class Choice:
    """A plan and its relative output error: that of rounding, over the variance of the exact output."""

    plan: RowPlan
    error: float
    form: str


def plain(group: Group, seen: Seen) -> Choice:
    """Per-row scales without moving anything."""
    return _measured(group, seen.rows[:ROWS], RowPlan(), "rows")


def best_rows(group: Group, seen: Seen) -> Choice:
    """The best moves under per-row scales."""
    rows = seen.rows[:ROWS]
    moved = [_measured(group, rows, plan, f"rows {how}") for plan, how in _moves(group, seen)]
    return min([plain(group, seen), *moved], key=lambda choice: choice.error)


def best_static(group: Group, seen: Seen, move: bool = True, wide: bool = False) -> Choice:
    """The best moves under one scale for all rows, then the best calibrator for them; `wide` moves wide inputs too."""
    rows = seen.rows[:ROWS]

    def choice(plan: RowPlan, how: str, calibrator: str, reach: float) -> Choice:
        static = RowPlan(plan.shift, plan.scale, float(np.float32(reach / LEVELS)))
        return _measured(group, rows, static, f"static {calibrator} {how}".strip())

    def maximum(plan: RowPlan) -> float:
        return float(np.abs(_apply(plan, np.stack([seen.low, seen.high]))).max())

    candidates = [(RowPlan(), ""), *(_moves(group, seen, wide) if move else [])]
    measured = [(choice(plan, how, "maximum", maximum(plan)), plan, how) for plan, how in candidates]
    best, plan, how = min(measured, key=lambda item: item[0].error)
    others = reaches(np.abs(_apply(plan, rows)), maximum(plan))
    return min([best, *(choice(plan, how, name, reach) for name, reach in others.items())], key=lambda c: c.error)


def fixed(group: Group, seen: Seen, strength: float = 0.6, wide: bool = False) -> Choice:
    """Moves of one strength, unmeasured: for seeded weights, whose errors say nothing."""
    if not (wide or _narrow(group)):
        return Choice(RowPlan(), float("nan"), "rows, unmeasured")
    shift = seen.rows.mean(axis=0)
    plan = RowPlan(shift, _scale(_reach(seen.rows - shift), group, strength))
    return Choice(plan, float("nan"), f"rows {strength} mean, unmeasured")


def _narrow(group: Group) -> bool:
    return group.depth < group.weights.shape[1]


def _moves(group: Group, seen: Seen, wide: bool = False) -> Iterator[tuple[RowPlan, str]]:
    if not (wide or _narrow(group)):
        return
    rows = seen.rows[:ROWS]
    for name, shift in (("", None), ("mean", seen.rows.mean(axis=0))):
        reach = _reach(rows if shift is None else rows - shift)
        for strength in STRENGTHS:
            yield RowPlan(shift, _scale(reach, group, strength)), f"{strength} {name}".strip()


def _reach(rows: np.ndarray) -> np.ndarray:
    return np.maximum(np.quantile(np.abs(rows), REACH_QUANTILE, axis=0), 1e-5)


def _scale(reach: np.ndarray, group: Group, strength: float) -> np.ndarray:
    weight = np.maximum(np.abs(group.weights).max(axis=1), 1e-5)
    scale = reach**strength / weight ** (1 - strength)
    return (scale / np.exp(np.log(scale).mean())).astype(np.float32)


def _apply(plan: RowPlan, rows: np.ndarray) -> np.ndarray:
    moved = rows if plan.shift is None else rows - plan.shift
    return moved if plan.scale is None else moved / plan.scale


def _measured(group: Group, rows: np.ndarray, plan: RowPlan, form: str) -> Choice:
    weights = group.weights
    exact = rows @ weights
    moved = _apply(plan, rows)
    step = np.maximum(np.abs(moved).max(axis=1, keepdims=True), 1e-12) / LEVELS if plan.static is None else plan.static
    rounded = np.clip(np.rint(moved / step), -LEVELS - 1, LEVELS) * step
    whole, scale = quantize_columns(weights if plan.scale is None else weights * plan.scale[:, None])
    got = rounded @ (whole * scale)
    if plan.shift is not None:
        got += plan.shift @ weights
    error = np.square(got - exact).sum() / max(float(np.square(exact - exact.mean(axis=0)).sum()), 1e-30)
    return Choice(plan, float(error), form)
