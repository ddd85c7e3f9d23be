"""A model, its recipe and calibration texts enter; a quantized graph, and why each layer has its form, leave.

Layers are measured twice: the rounding error of a group's own output, and what quantizing that group alone does to the
embeddings of texts kept out of calibration. Where the aims are missed the most harmful groups stay fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from . import channel_moves, fp8_graph, runtime
from .activations import Seen, collect
from .channel_moves import Choice
from .int8_graph import Int8Graph
from .linear_layers import Group, groups
from .quality import row_cosines
from .recipes import Recipe

# Floats of sampled activations kept in memory, and rows of a group at most.
SAMPLE_FLOATS, SAMPLE_ROWS = 100_000_000, 2_048
# Multiply-adds of one pass over the texts that judge a single group: smaller models are judged on more texts.
JUDGE_WEIGHTS, MOST_JUDGES, LEAST_JUDGES = 2_000_000_000, 192, 24


@dataclass(frozen=True)
class Quantized:
    """The graph, and one report entry a group."""

    model: ModelProto
    layers: list[dict]
    tables: list[str]


@dataclass(frozen=True)
class Work:
    """What every step needs: the fp32 model, calibration and judging ids, and where progress goes."""

    model: ModelProto
    output: str
    calibration: Sequence[np.ndarray]
    judges: Sequence[np.ndarray]
    seed: int
    measure: bool
    say: Callable[[str], None]


def quantize(work: Work, recipe: Recipe) -> Quantized:
    """Runs the recipe."""
    found = groups(work.model)
    rows = min(SAMPLE_ROWS, SAMPLE_FLOATS // sum(g.depth for g in found))
    work.say(f"calibration: {len(work.calibration):,} texts through {len(found)} groups of linear layers")
    seen = collect(work.model, found, work.calibration, rows_wanted=rows, seed=work.seed, say=work.say)
    if recipe.precision == "fp8":
        reach = {name: float(max(-part.low.min(), part.high.max())) for name, part in seen.items()}
        layers = [_entry(g, "e4m3", reach=reach[g.name]) for g in found]
        return Quantized(fp8_graph.build(work.model, found, reach), layers, [])
    choices = {}
    for n, group in enumerate(found):
        choices[group.name] = _choose(group, seen[group.name], recipe, work.measure)
        if work.measure or n + 1 == len(found):
            work.say(f"layer {n + 1}/{len(found)} {group.name}: {choices[group.name].form}")
    return _int8(work, recipe, found, seen, choices)


def _choose(group: Group, seen: Seen, recipe: Recipe, measure: bool) -> Choice | None:
    if recipe.leave == "wide" and group.depth > group.weights.shape[1]:
        return Choice(None, 0.0, "fp32")
    if not measure:
        return channel_moves.fixed(group, seen)
    rows = channel_moves.best_rows(group, seen) if recipe.smooth else channel_moves.plain(group, seen)
    if not recipe.static_limit:
        return rows
    static = channel_moves.best_static(group, seen, recipe.smooth)
    return static if static.error <= recipe.static_limit * rows.error else rows


def _int8(
    work: Work, recipe: Recipe, found: list[Group], seen: dict[str, Seen], choices: dict[str, Choice]
) -> Quantized:
    def build(kept: set[str], tables: bool = True) -> tuple[ModelProto, list[str]]:
        graph = Int8Graph(work.model)
        for group in found:
            if group.name in kept and choices[group.name].plan is not None:
                graph.quantize(group, choices[group.name].plan)
        shrunk = graph.shrink_embeddings(recipe.positions) if tables else []
        return graph.finish(), shrunk

    every = {g.name for g in found}
    search = recipe.leave == "measured" and work.measure
    harm = _harm(work, found, choices, lambda name: build({name}, tables=False)[0]) if search else {}
    left: list[str] = []
    model, tables = build(every)
    if search:
        expected = _embed(work, work.model, work.judges)
        for name in sorted(harm, key=lambda n: -harm[n]):
            cosines = row_cosines(expected, _embed(work, model, work.judges))
            if cosines.mean() >= recipe.aims["mean_cosine"] and cosines.min() >= recipe.aims["min_cosine"]:
                break
            wider, wider_tables = build(every - {*left, name})
            if wider.ByteSize() > recipe.most_size * work.model.ByteSize():
                work.say(f"{name} would be next to stay fp32, but the size limit {recipe.most_size:.1%} is reached")
                break
            left.append(name)
            work.say(f"aims missed (mean {cosines.mean():.4f}, min {cosines.min():.4f}): {name} stays fp32")
            model, tables = wider, wider_tables
    layers = [
        _entry(
            g,
            "fp32" if g.name in left else choices[g.name].form,
            output_error=_figure(choices[g.name].error),
            output_error_plain=_figure(channel_moves.plain(g, seen[g.name]).error) if work.measure else None,
            cosine_loss=_figure(harm.get(g.name)),
        )
        for g in found
    ]
    return Quantized(model, layers, tables)


def _harm(
    work: Work, found: list[Group], choices: dict[str, Choice], alone: Callable[[str], ModelProto]
) -> dict[str, float]:
    """1 - mean cosine with only that group quantized."""
    size = sum(g.weights.size for g in found)
    judges = work.judges[: int(np.clip(JUDGE_WEIGHTS // size, LEAST_JUDGES, MOST_JUDGES))]
    expected = _embed(work, work.model, judges)
    harm = {}
    for n, group in enumerate(found):
        if choices[group.name].plan is None:
            continue
        harm[group.name] = float(1 - row_cosines(expected, _embed(work, alone(group.name), judges)).mean())
        work.say(f"sensitivity {n + 1}/{len(found)} {group.name}: cosine loss {harm[group.name]:.2e}")
    return harm


def _embed(work: Work, model: ModelProto, rows: Sequence[np.ndarray]) -> np.ndarray:
    return runtime.embed(runtime.session(model), rows, work.output)


def _entry(group: Group, form: str, **figures: object) -> dict:
    shape = [group.depth, group.weights.shape[1]]
    return {"group": group.name, "layers": len(group.layers), "shape": shape, "form": form, **figures}


def _figure(value: float | None) -> float | None:
    """Four significant digits; None where it was not measured."""
    return None if value is None or np.isnan(value) else float(f"{value:.4g}")
