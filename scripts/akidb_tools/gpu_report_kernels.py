"""Profiles of engines enter; GPU time by kind of layer, side by side, and by kernel leave as part of report.md."""

from __future__ import annotations

from .gpu_kernels import KINDS
from .gpu_tables import table
from .gpu_targets import Own

BESIDE = "fp16"
LISTED = 14


def kernels(own: Own) -> list[str]:
    """One table of kinds a model, then each engine's kernels."""
    found = [e for e in own.of("kernels") if e.get("total_us")]
    if not found:
        return []
    lines = ["", "### Kernels", "", EXPLAINED, ""]
    for model in dict.fromkeys(e["model"] for e in found):
        engines = [e for e in found if e["model"] == model]
        lines += ["", *_by_kind(own, model, [e for e in engines if "by_kind" in e])]
        for e in engines:
            lines += _by_kernel(e)
    return lines


EXPLAINED = (
    "Microseconds of one batch on the GPU, as CUPTI saw them; in brackets what a kind costs more (+) or less (-) than "
    "in the first FP16 engine. `gaps` is the median time of a batch less its kernels: launches and waits."
)


def _by_kind(own: Own, model: str, engines: list[dict]) -> list[str]:
    if not engines:
        return []
    beside = next((e for e in engines if e["precision"] == BESIDE), None)
    shape = f"{engines[0]['batch']}x{engines[0]['tokens']}"

    def cell(e: dict, us: float | None, other: float | None) -> str:
        if us is None:
            return "-"
        differs = "" if beside is None or e is beside else f" ({us - (other or 0.0):+,.0f})"
        return f"{us:,.0f}{differs}"

    rows = []
    for kind in KINDS:
        times = [e["by_kind"].get(kind) for e in engines]
        if any(times):
            other = beside and beside["by_kind"].get(kind)
            rows.append([kind, *(cell(e, us, other) for e, us in zip(engines, times, strict=True))])
    other = beside and beside["total_us"]
    rows.append(["**all kernels**", *(cell(e, e["total_us"], other) for e in engines)])
    gaps = [_gap(own, e) for e in engines]
    if any(gap is not None for gap in gaps):
        rows.append(["gaps", *("-" if gap is None else f"{gap:,.0f}" for gap in gaps)])
    told = sorted({e["kinds_by"] for e in engines})
    head = ("kind of layer", *(e["variant"] for e in engines))
    return [f"#### {model}, {shape}: by kind of layer (told by {' or '.join(told)})", "", *table(head, rows)]


def _gap(own: Own, e: dict) -> float | None:
    key = (e["model"], e["variant"], e["batch"], e["tokens"])
    cells = [c for c in own.cells if (c["model"], c["variant"], c["batch"], c["tokens"]) == key and c["measured"]]
    return 1e3 * cells[-1]["measured"]["latency_ms"]["p50"] - e["total_us"] if cells else None


def _by_kernel(e: dict) -> list[str]:
    rows = [
        [k["us"], round(k["calls"], 1), k.get("kind", "-"), f"`{k['kernel'][:120]}`"] for k in e["kernels"][:LISTED]
    ]
    title = f"{e['model']} {e['variant']}, {e['batch']}x{e['tokens']}: {e['total_us']:,.0f} us of kernels a batch"
    return ["", f"#### {title}", "", *table(("us", "calls", "kind", "kernel"), rows)]
