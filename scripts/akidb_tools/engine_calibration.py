"""An fp32 graph and calibration texts enter; ranges and channel moves of everything TensorRT may quantize leave.

Calibration is the slow part of an INT8 or FP8 build and the same for every candidate, so it can be kept in a file that
knows which graph and texts it is of. Shapes: per channel float32 [depth]. Never decides what is quantized.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from . import channel_moves
from .activations import Seen, collect
from .errors import BadInput
from .linear_layers import Group, groups

SAMPLE_ROWS, SAMPLE_FLOATS = 2_048, 100_000_000
FORMAT = "akidb.engine-calibration/2"
FIGURES = ("reach", "static", "error", "plain", "plain_error", "form")


@dataclass(frozen=True)
class GroupRange:
    """`reach`: largest absolute value. Of int8, by output error: `static`, the reach after `(x - shift) / scale`.

    `plain` is the reach of int8 without moves, with an error of its own. Errors of seeded weights are None.
    """

    reach: float
    static: float
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    error: float | None = None
    plain: float | None = None
    plain_error: float | None = None
    form: str = ""


@dataclass(frozen=True)
class Calibration:
    """By the tensor a group reads; `heads` holds the reach of each attention input, by the tensor's name."""

    of: str
    groups: Mapping[str, GroupRange]
    heads: Mapping[str, float]


def key(model: ModelProto | bytes, texts_digest: str, seed: int, count: int) -> str:
    """What a calibration depends on."""
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    return hashlib.sha256(
        hashlib.sha256(data).digest() + f"{texts_digest} {seed} {count} {FORMAT}".encode()
    ).hexdigest()


def measure(
    model: ModelProto, of: str, ids: Sequence[np.ndarray], *, seed: int, seeded: bool, say: Callable[[str], None]
) -> Calibration:
    """Runs the texts once. Seeded weights get fixed moves: their errors say nothing."""
    found = groups(model)
    heads = _head_inputs(model, found)
    rows = min(SAMPLE_ROWS, SAMPLE_FLOATS // sum(g.depth for g in found))
    say(f"calibration: {len(ids):,} texts through {len(found)} groups of linear layers")
    seen = collect(model, [*found, *heads], ids, rows_wanted=rows, seed=seed, say=say)
    ranges = {}
    for n, group in enumerate(found):
        ranges[group.input] = _range(group, seen[group.name], seeded)
        say(f"calibration {n + 1}/{len(found)} {group.name}: {ranges[group.input].form}")
    return Calibration(of, ranges, {g.input: _reach(seen[g.name]) for g in heads})


def _range(group: Group, seen: Seen, seeded: bool) -> GroupRange:
    if seeded:
        plan = channel_moves.fixed(group, seen, wide=True).plan
        moved = np.stack([(side - plan.shift) / plan.scale for side in (seen.low, seen.high)])
        return GroupRange(
            _reach(seen),
            float(np.abs(moved).max()),
            plan.shift,
            plan.scale,
            plain=_reach(seen),
            form="0.6 mean, unmeasured",
        )
    choice = channel_moves.best_static(group, seen, wide=True)
    still = channel_moves.best_static(group, seen, move=False)
    static, plain = (float(c.plan.static) * channel_moves.LEVELS for c in (choice, still))
    plan = choice.plan
    errors = {"error": choice.error, "plain_error": still.error}
    return GroupRange(_reach(seen), static, plan.shift, plan.scale, plain=plain, form=choice.form, **errors)


def _reach(seen: Seen) -> float:
    return float(max(-seen.low.min(), seen.high.max(), 1e-9))


def _head_inputs(model: ModelProto, found: Sequence[Group]) -> list[Group]:
    """Results of query, key and value, as groups of nothing: only their ranges are wanted."""
    outputs = [
        (layer.bias_node or layer.node).output[0] for group in found if len(group.layers) == 3 for layer in group.layers
    ]
    return [Group(f"head {name}", name, (), None) for name in outputs]


def save(file: Path, calibration: Calibration) -> None:
    """One .npz file, the same bytes for the same calibration."""
    facts = {
        "format": FORMAT,
        "of": calibration.of,
        "heads": dict(calibration.heads),
        "groups": {name: {key: getattr(r, key) for key in FIGURES} for name, r in calibration.groups.items()},
    }
    arrays = {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    for name, found in calibration.groups.items():
        for part, value in (("shift", found.shift), ("scale", found.scale)):
            if value is not None:
                arrays[f"{name}|{part}"] = value.astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        np.savez(stream, **arrays)


def load(file: Path, of: str | None = None) -> Calibration:
    """Refused where it is of another graph or of other texts."""
    try:
        with np.load(file) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            if facts["format"] != FORMAT:
                raise BadInput(f"{file}: format is {facts['format']!r}, expected {FORMAT!r}")
            ranges = {
                name: GroupRange(
                    **{key: entry[key] for key in FIGURES},
                    shift=arrays.get(f"{name}|shift"),
                    scale=arrays.get(f"{name}|scale"),
                )
                for name, entry in facts["groups"].items()
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is not a calibration file: {error!r}") from error
    if of is not None and facts["of"] != of:
        raise BadInput(f"{file} was measured on another graph or with other texts; delete it, or name another file")
    return Calibration(facts["of"], ranges, facts["heads"])
