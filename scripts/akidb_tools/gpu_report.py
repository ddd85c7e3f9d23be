"""results.json of a GPU benchmark enters; report.md and SVG plots beside it leave, machine by machine.

Ratios are of medians or rates of cells that took turns. What was not run is listed with its reason; a rehearsal is
marked as one. Computes, never measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import gpu_plot

P95_MS = 8.0


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
    own = _Own(data, machine["id"])
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
        lambda: _builds(own),
        lambda: _speeds(own, folder, number),
        lambda: _one_text(own),
        lambda: _graphs(own),
        lambda: _http(own, folder, number, price),
        lambda: _loads(own),
        lambda: _swaps(own),
        lambda: _faults(own),
        lambda: _two(own),
        lambda: _kernels(own),
        lambda: _not_run(own),
    ]
    for section in sections:
        lines += section()
    return lines


class _Own:
    """What one machine measured."""

    def __init__(self, data: dict, machine: str) -> None:
        self.cells = [c for c in data["cells"] if c["machine"] == machine]
        self.gpu = {k: [e for e in v if e["machine"] == machine] for k, v in data["gpu"].items()}

    def of(self, kind: str) -> list[dict]:
        return self.gpu.get(kind, [])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Markdown; nothing where there are no rows."""
    if not rows:
        return []
    body = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""]


def _builds(own: _Own) -> list[str]:
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


def _speeds(own: _Own, folder: Path, number: int) -> list[str]:
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


def _one_text(own: _Own) -> list[str]:
    rows = []
    for e in own.of("one_text"):
        first = e["measured"]["baseline"]["latency_ms"]["p50"]
        for name, m in e["measured"].items():
            p50 = m["latency_ms"]["p50"]
            rows.append([e["tokens"], name, f"{p50:.3f}", _ms(m["latency_ms"]["p95"]), f"{first / p50:.2f}"])
    head = ("tokens", "engine", "p50 ms", "p95 ms", "times lower")
    return ["", "### One text", "", *table(head, rows)] if rows else []


def _graphs(own: _Own) -> list[str]:
    rows = []
    for e in own.of("graphs"):
        first = e["measured"]["baseline"]["texts_per_second"]
        for name, m in e["measured"].items():
            rate, shape = m["texts_per_second"], f"{e['batch']}x{e['tokens']}"
            rows.append([e["model"], shape, name, _ms(m["latency_ms"]["p50"]), f"{rate:,.0f}", f"{rate / first:.2f}"])
    head = ("model", "shape", "engine", "p50 ms", "texts/s", "x baseline")
    return ["", "### CUDA graphs (the baseline without one)", "", *table(head, rows)] if rows else []


def headlines(entries: Sequence[Mapping], raw: float | None, price: float) -> dict[str, object]:
    """The figures that the http stage is asked for; None where a part was not run."""

    def of(part: str, side: str) -> list[Mapping]:
        return [e for e in entries if e.get("part") == part and e.get("side") == side and not e["failed"]]

    def most(part: str, side: str, key: str, within: float | None = None) -> Mapping | None:
        found = [e for e in of(part, side) if within is None or (e["p95_ms"] or 1e9) <= within]
        return max(found, key=lambda e: e[key], default=None)

    def ratio(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    served, baseline = (most("single", side, "requests_per_second", P95_MS) for side in ("served", "baseline"))
    rates = {side: (of("rate", side) or [None])[-1] for side in ("served", "baseline")}
    dear, cheap = (most("cost", side, "texts_per_second", P95_MS) for side in ("baseline", "served"))
    big = most("big", "served", "texts_per_second")
    on, off = (of(f"batching {name}", "served") for name in ("on", "off"))
    busy = [e for e in of("single", "served") if 80 <= ((e["gpu"] or {}).get("busy_percent") or 0) <= 90]
    tokens = 20  # 18 common words and two special tokens

    def per_million(entry: Mapping | None) -> float | None:
        return price / (entry["texts_per_second"] * tokens * 3600) * 1e6 if entry else None

    return {
        "single-text requests/s at p95 <= 8 ms": served and served["requests_per_second"],
        "the baseline's": baseline and baseline["requests_per_second"],
        "p95 ms at 70 % of the baseline's most, baseline": rates["baseline"] and rates["baseline"]["p95_ms"],
        "p95 ms there, served": rates["served"] and rates["served"]["p95_ms"],
        "p95 times lower": ratio(
            rates["baseline"] and rates["baseline"]["p95_ms"], rates["served"] and rates["served"]["p95_ms"]
        ),
        f"USD a million tokens at ${price:.2f} a GPU-hour, baseline": per_million(dear),
        "the same, served": per_million(cheap),
        "cost ratio": ratio(per_million(cheap), per_million(dear)),
        "texts/s of client batches of 256": big and big["texts_per_second"],
        "part of the raw engine's": ratio(big and big["texts_per_second"], raw),
        "batching on against off at 256 clients": ratio(
            on and on[-1]["requests_per_second"], off and off[-1]["requests_per_second"]
        ),
        "requests/s at which the GPU is 80-90 % busy": busy and [round(e["requests_per_second"]) for e in busy],
    }


def _http(own: _Own, folder: Path, number: int, price: float) -> list[str]:
    entries = [e for e in own.of("http") if "gpu" in e]
    if not entries:
        return []
    served = next((e["variant"] for e in entries if e["side"] == "served"), None)
    raw = [c for c in own.cells if c["variant"] == served and (c["batch"], c["tokens"]) == (256, 32) and c["measured"]]
    found = headlines(entries, raw[-1]["measured"]["texts_per_second"] if raw else None, price)
    rows = [[key, _figure(value)] for key, value in found.items()]
    lines = ["", f"### Through HTTP (served: {served})", "", *table(("figure", "value"), rows)]
    points = []
    for e in entries:
        gpu = e["gpu"] or {}
        load = e.get("rate") or e.get("clients")
        points.append(
            [
                e["part"],
                e["side"],
                f"{load}{' req/s' if e.get('rate') else ' clients'}",
                e.get("batch"),
                f"{e['requests_per_second']:,.0f}",
                f"{e['texts_per_second']:,.0f}",
                e["p50_ms"],
                e["p95_ms"],
                e["failed"],
                _figure(e["batch_mean"]),
                gpu.get("busy_percent", "-"),
                gpu.get("watts", "-"),
            ]
        )
    head = ("part", "side", "load", "texts", "req/s", "texts/s", "p50 ms", "p95 ms", "failed", "batch", "GPU %", "W")
    lines += table(head, points)
    series = {
        side: sorted(
            (e["requests_per_second"], e["p95_ms"])
            for e in entries
            if (e["part"], e["side"]) == ("single", side) and e["p95_ms"]
        )
        for side in ("served", "baseline")
    }
    if any(series.values()):
        file = folder / f"http-{number}.svg"
        drawn = gpu_plot.lines(
            "p95 by load, lone 18-word texts", {k: v for k, v in series.items() if v}, "requests/s", "p95 ms"
        )
        file.write_text(drawn, "utf-8")
        lines += [f"![p95 by load]({file.name})", ""]
    return lines


def _loads(own: _Own) -> list[str]:
    keys = ("variant", "state_before", "first_answer_seconds", "build_seconds", "process_ready_seconds", "status")
    rows = [[e[key] for key in keys] for e in own.of("loads")]
    head = ("variant", "state before", "first answer s", "its build s", "process ready s", "status")
    return ["", "### From the artifact to the first answer", "", *table(head, rows)] if rows else []


def _swaps(own: _Own) -> list[str]:
    rows = [
        [" -> ".join(e["alias"]), e["requests"], e["failed"], json.dumps(e["answered_by"])] for e in own.of("swaps")
    ]
    return (
        ["", "### Swap under load", "", *table(("variants", "requests", "failed", "answered by"), rows)] if rows else []
    )


def _faults(own: _Own) -> list[str]:
    rows = []
    for e in own.of("faults"):
        after = e.get("with_fallback") or {}
        reason = str(e.get("reason", "")).replace("|", "/").replace("\n", " ")[-320:]
        rows.append([e["case"], "yes" if e["ok"] else "**no**", e["what"], reason, after.get("what", "-")])
    head = ("case", "as expected", "demanded", "reason", "with a fallback allowed")
    return ["", "### Faults", "", *table(head, rows)] if rows else []


def _two(own: _Own) -> list[str]:
    rows = [[f"{e['texts_per_second']}", f"{e['ratio']:.2f}"] for e in own.of("two_gpu")]
    return ["", "### Two GPUs", "", *table(("texts/s by GPUs", "ratio"), rows)] if rows else []


def _kernels(own: _Own) -> list[str]:
    lines: list[str] = []
    for e in own.of("kernels"):
        rows = [[k["us"], round(k["calls"], 1), f"`{k['kernel'][:110]}`"] for k in e["kernels"][:10]]
        title = f"{e['model']} {e['variant']}, {e['batch']}x{e['tokens']}: {e['total_us']:,.0f} us of kernels a batch"
        lines += ["", f"#### {title}", "", *table(("us", "calls", "kernel"), rows)]
    return ["", "### Kernels", *lines] if lines else []


def _not_run(own: _Own) -> list[str]:
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


def _figure(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)
