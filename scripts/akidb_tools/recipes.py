"""Names enter, recipes leave: what is done to a model, and what it aims at. Data only.

`static_limit`: a group gets one fixed scale where its measured error is at most this many times that of per-row
scales (0: never; infinite: always). MiniLM's ratios: query+key+value 1.5-2, up 2-3, attention out 2.4-4, down 5-15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .errors import BadInput

# Below the first an artifact is refused; the aims are reported, and drive which layers are left alone.
GATE = {"mean_cosine": 0.99}


@dataclass(frozen=True)
class Recipe:
    """`leave`: "measured" (as many sensitive groups as the aims need), "wide" (inputs wider than outputs) or "none"."""

    name: str
    precision: str
    summary: str
    static_limit: float = 0.0
    smooth: bool = True
    leave: str = "none"
    positions: bool = False
    most_size: float | None = None
    aims: dict[str, float] = field(default_factory=dict)


_INT8_AIMS = {"mean_cosine": 0.995, "min_cosine": 0.98, "recall_at_10": 0.95, "odd_min_cosine": 0.95}
_ALL = [
    Recipe(
        "int8",
        "int8",
        "shifted and smoothed, fixed scales where they cost little, per-row scales elsewhere",
        static_limit=2.0,
        leave="measured",
        most_size=0.38,
        aims=_INT8_AIMS,
    ),
    Recipe(
        "int8-small",
        "int8",
        "as int8, fixed scales for all but the widest inputs, position table int8 too",
        static_limit=5.0,
        positions=True,
        most_size=0.265,
        aims={"mean_cosine": 0.99},
    ),
    Recipe("int8-rows", "int8", "shifted and smoothed, per-row scales everywhere", aims=_INT8_AIMS),
    Recipe(
        "int8-precise",
        "int8",
        "as int8-rows, feed-forward outputs left in fp32",
        leave="wide",
        most_size=0.38,
        aims=_INT8_AIMS,
    ),
    Recipe("int8-rows-plain", "int8", "per-row scales, nothing moved", smooth=False),
    Recipe("int8-static-plain", "int8", "fixed scales everywhere, nothing moved", math.inf, smooth=False),
    Recipe("fp8", "fp8", "E4M3 QDQ on every linear layer, for TensorRT", aims={"mean_cosine": 0.99}),
]
RECIPES = {recipe.name: recipe for recipe in _ALL}


def choose(name: str | None, precision: str, target: str | None) -> Recipe:
    """The recipe of a command line; what does not go together is refused."""
    recipe = RECIPES[name or precision]
    if name and recipe.precision != precision:
        raise BadInput(f"--recipe {name} makes {recipe.precision}, not --precision {precision}")
    fits = "tensorrt" if recipe.precision == "fp8" else "cpu"
    if target and target != fits:
        raise BadInput(
            f"--precision {precision} with --target {target}: these INT8 graphs are made for cpu, FP8 for tensorrt; "
            f"use --target {fits}. INT8 for TensorRT is made by build_tensorrt_engine.py (--graph-only: without a GPU)"
        )
    return recipe
