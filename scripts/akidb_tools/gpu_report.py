"""results.json of a GPU benchmark enters; report.md and SVG plots beside it leave, machine by machine.

Ratios are of medians or rates of cells that took turns. What was not run is listed with its reason; a rehearsal is
marked as one. Computes, never measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from . import gpu_plot
from .gpu_report_http import http, refused
from .gpu_report_kernels import kernels
from .gpu_tables import figure, table
from .gpu_targets import Own, counts, targets


def write(file: Path, price: float) -> Path:
    """report.md beside `file`; returns its path."""
    data = json.loads(file.read_text("utf-8"))
    lines = [
        "# GPU benchmark",
        "",
        "Made by `scripts/gpu_bench.py` from `results.json`; how to read it is in docs/GPU.md.",
    ]
    for number, machine in enumerate(data["machines"]):
        lines += _machine(data, machine, file.parent, number, price)
    page = file.with_name("report.md")
    page.write_text("\n".join(lines) + "\n", "utf-8")
    return page


def _machine(data: dict, machine: dict, folder: Path, number: int, price: float) -> list[str]:
    own = Own(data, machine["id"])
    head = f"{machine['gpu'] or 'no GPU'} (machine {machine['id']})"
    facts = {
        "GPUs": f"{machine.get('gpus', 0)} x {machine['gpu']}, compute capability {machine['compute_capability']}",
        "driver": f"{machine['driver']}, CUDA {machine.get('cuda')}",
        "TensorRT, ONNX Runtime": f"{machine['tensorrt']}, {machine['onnxruntime']}",
        "CPU": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB",
    }
    lines = ["", f"## {head}", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    if any(e.get("rehearsal") for kind in own.gpu.values() for e in kind):
        lines += ["**Rehearsal**: parts of this were run on a CPU with tiny cells; they say nothing about speed.", ""]
    commands = [i for i in data["invocations"] if i["machine"] == machine["id"]]
    lines += ["```sh", *dict.fromkeys(i["command"] for i in commands), "```"]
    sections: list[Callable[[], list[str]]] = [
        lambda: _targets(own, price),
        lambda: _builds(own),
        lambda: _speeds(own, folder, number),
        lambda: _one_text(own),
        lambda: _graphs(own),
        lambda: refused(own),
        lambda: http(own, folder, number, price),
        lambda: _loads(own),
        lambda: _swaps(own),
        lambda: _faults(own),
        lambda: _two(own),
        lambda: kernels(own),
        lambda: _not_run(own),
    ]
    for section in sections:
        lines += section()
    return lines


def _targets(own: Own, price: float) -> list[str]:
    rows = targets(own, price)
    said = f"{counts(rows)}."
    if any(e.get("rehearsal") for entries in own.gpu.values() for e in entries):
        rows = [replace(row, holds=None) for row in rows]
        said = "A rehearsal: nothing of it holds or misses a target."
    listed = [[row.target, row.seen, row.verdict] for row in rows]
    return ["", "### Targets", "", said, "", *table(("target", "seen", "holds"), listed)]


def _builds(own: Own) -> list[str]:
    rows = []
    for e in own.of("builds"):
        if e.get("not_built"):
            rows.append([e["name"], "-", "-", "-", "-", "-", f"not built: {e['not_built'][:160]}"])
            continue
        recall = "-" if e["recall_at_10"] is None else f"{e['recall_at_10']:.4f}"
        quality = f"{e['mean_cosine']:.6f} / {e['min_cosine']:.6f}{' (seeded)' if e['seeded'] else ''}"
        beside = f"{e['built_at_a_time']} at a time, {e['builder']}"
        rows.append([e["name"], e["seconds"], f"{e['bytes'] / 1e6:.1f}", e["load_seconds"], quality, recall, beside])
    head = ("engine", "build s", "MB", "load s", "mean / min cosine", "recall@10", "")
    return ["", "### Engines", "", *table(head, rows)] if rows else []


def _speeds(own: Own, folder: Path, number: int) -> list[str]:
    lines: list[str] = []
    for model in dict.fromkeys(c["model"] for c in own.cells if c["measured"]):
        cells = [c for c in own.cells if c["model"] == model and c["measured"]]
        rows = []
        for batch, tokens in sorted({(c["batch"], c["tokens"]) for c in cells}, key=lambda s: (s[1], s[0])):
            here = [c for c in cells if (c["batch"], c["tokens"]) == (batch, tokens)]
            rows += _shape_rows(here, f"{batch}x{tokens}")
        head = ("shape", "variant", "p50 ms", "p95 ms", "texts/s", "x baseline")
        seeded = " (seeded weights: speed only)" if cells[0]["seeded"] else ""
        lines += ["", f"### {model}{seeded}", "", *table(head, rows)]
        lines += _speed_plot(cells, model, folder, number)
    return lines


def _shape_rows(here: list[dict], shape: str) -> list[list[object]]:
    base = {c["measured"]["turns"]: c["measured"]["texts_per_second"] for c in here if c["variant"] == "fp32"}
    rows = []
    for c in sorted(here, key=lambda c: -c["measured"]["texts_per_second"]):
        m = c["measured"]
        first = base.get(m["turns"])
        ratio = f"{m['texts_per_second'] / first:.2f}" if first else "-"
        p95 = _ms(m["latency_ms"]["p95"])
        variant = f"{c['variant']} ({c['provider']})"
        rows.append([shape, variant, f"{m['latency_ms']['p50']:.3f}", p95, f"{m['texts_per_second']:,.0f}", ratio])
    return rows


def _speed_plot(cells: list[dict], model: str, folder: Path, number: int) -> list[str]:
    shapes = [
        s for s in ((256, 32), (512, 128), (64, 128), (64, 32)) if any((c["batch"], c["tokens"]) == s for c in cells)
    ]
    lines = []
    for batch, tokens in shapes[:2]:
        here = [c for c in cells if (c["batch"], c["tokens"]) == (batch, tokens)]
        here.sort(key=lambda c: -c["measured"]["texts_per_second"])
        figures = {f"{c['variant']} ({c['provider']})": c["measured"]["texts_per_second"] for c in here}
        file = folder / f"speed-{number}-{model}-{batch}x{tokens}.svg"
        file.write_text(gpu_plot.bars(f"{model}, {batch} texts of {tokens} tokens", figures, "texts/s"), "utf-8")
        lines += [f"![{model} {batch}x{tokens}]({file.name})", ""]
    return lines


def _one_text(own: Own) -> list[str]:
    rows = []
    for e in own.of("one_text"):
        first = e["measured"]["baseline"]["latency_ms"]["p50"]
        for name, m in e["measured"].items():
            p50 = m["latency_ms"]["p50"]
            rows.append([e["tokens"], name, f"{p50:.3f}", _ms(m["latency_ms"]["p95"]), f"{first / p50:.2f}"])
    head = ("tokens", "engine", "p50 ms", "p95 ms", "times lower")
    return ["", "### One text", "", *table(head, rows)] if rows else []


def _graphs(own: Own) -> list[str]:
    rows = []
    for e in own.of("graphs"):
        first = e["measured"]["baseline"]["texts_per_second"]
        for name, m in e["measured"].items():
            rate, shape = m["texts_per_second"], f"{e['batch']}x{e['tokens']}"
            rows.append([e["model"], shape, name, _ms(m["latency_ms"]["p50"]), f"{rate:,.0f}", f"{rate / first:.2f}"])
    head = ("model", "shape", "engine", "p50 ms", "texts/s", "x baseline")
    return ["", "### CUDA graphs (the baseline without one)", "", *table(head, rows)] if rows else []


def _loads(own: Own) -> list[str]:
    seconds = ("first_answer_seconds", "build_seconds", "process_ready_seconds")
    keys = ("variant", "state_before", *seconds, "status", "error")
    rows = [[figure(e.get(key)) for key in keys] for e in own.of("loads")]
    head = ("variant", "state before", "first answer s", "its build s", "process ready s", "status", "error")
    return ["", "### From the artifact to the first answer", "", *table(head, rows)] if rows else []


def _swaps(own: Own) -> list[str]:
    rows = [
        [" -> ".join(e["alias"]), e["requests"], e["failed"], json.dumps(e["answered_by"])] for e in own.of("swaps")
    ]
    return (
        ["", "### Swap under load", "", *table(("variants", "requests", "failed", "answered by"), rows)] if rows else []
    )


def _faults(own: Own) -> list[str]:
    rows = []
    for e in own.of("faults"):
        after = e.get("with_fallback") or {}
        reason = str(e.get("reason", "")).replace("|", "/").replace("\n", " ")[-320:]
        rows.append([e["case"], "yes" if e["ok"] else "**no**", e["what"], reason, after.get("what", "-")])
    head = ("case", "as expected", "demanded", "reason", "with a fallback allowed")
    return ["", "### Faults", "", *table(head, rows)] if rows else []


def _two(own: Own) -> list[str]:
    rows = [
        [e.get("variant", "-"), str(e.get("contexts", 2)), f"{e['texts_per_second']}", f"{e['ratio']:.2f}"]
        for e in own.of("two_gpu")
    ]
    head = ("variant", "contexts a GPU", "texts/s by GPUs", "ratio")
    return ["", "### Two GPUs", "", *table(head, rows)] if rows else []


def _not_run(own: Own) -> list[str]:
    reasons: dict[tuple[str, str], int] = {}
    for c in own.cells:
        if c["not_run"]:
            key = (f"{c['model']} {c['variant']}", c["not_run"])
            reasons[key] = reasons.get(key, 0) + 1
    rows = [[what, count, why] for (what, why), count in reasons.items()]
    rows += [[e["part"], "-", e["note"].replace("|", "/")] for e in own.of("notes")]
    return ["", "### Not run", "", *table(("what", "cells", "why"), rows)] if rows else []


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
