"""Points of the `http` and `two-gpu` stages enter; their part of report.md and a plot leave."""

from __future__ import annotations

from pathlib import Path

from . import gpu_plot
from .gpu_headlines import headlines
from .gpu_tables import figure, table
from .gpu_targets import Own


def refused(own: Own) -> list[str]:
    """Engines that the sidecar did not take, and what served instead."""
    rows = [[e["variant"], e.get("instead") or "-", shown(e["reason"])] for e in own.of("refused")]
    head = ("engine", "served instead", "why")
    return ["", "### Engines that the sidecar refused", "", *table(head, rows)] if rows else []


def shown(text: str, most: int = 320) -> str:
    """In one cell of a table."""
    return text.replace("|", "/").replace("\n", " ")[-most:]


def http(own: Own, folder: Path, number: int, price: float) -> list[str]:
    """Headlines, every point, and a plot of lone texts."""
    entries = [e for e in own.of("http") if "gpu" in e]
    if not entries:
        return []
    served = ", ".join(dict.fromkeys(e["variant"] for e in entries if e["side"] == "served"))
    rows = [[key, figure(value)] for key, value in headlines(entries, own.raw(), price).items()]
    lines = ["", f"### Through HTTP (served: {served})", "", *table(("figure", "value"), rows)]
    chosen = own.of("placement")
    if chosen:
        lines += [f"Cores of server and clients under lone texts: {chosen[-1]['name']}.", ""]
    return [*lines, *table(HEAD, [_row(e) for e in entries]), *_plot(entries, folder, number)]


HEAD = (
    *("part", "variant", "load", "texts", "req/s", "texts/s", "p50 ms", "p95 ms", "since sent", "failed", "batch"),
    *("wait ms", "engine ms", "engine share", "cores: server, clients", "GPU %", "W"),
)


def _row(e: dict) -> list[object]:
    gpu, server, cores = (e.get(key) or {} for key in ("gpu", "server", "cores"))
    load = f"{e['rate']} req/s" if e.get("rate") else f"{e.get('clients')} clients"
    placed = f", {e['placement']}" if e.get("placement") else ""
    busy = e.get("gpus_busy_percent") or gpu.get("busy_percent", "-")
    return [
        e["part"],
        f"{e['variant']} ({e['provider']})",
        f"{load}{placed}",
        e.get("batch"),
        f"{e['requests_per_second']:,.0f}",
        f"{e['texts_per_second']:,.0f}",
        e["p50_ms"],
        e["p95_ms"],
        e.get("service_p95_ms"),
        e["failed"],
        figure(e["batch_mean"]),
        server.get("batch_wait_ms", "-"),
        server.get("engine_ms_a_batch", "-"),
        server.get("engine_share", "-"),
        f"{cores.get('server')}, {cores.get('clients')} of {cores.get('of')}" if cores else "-",
        busy,
        gpu.get("watts", "-"),
    ]


def _plot(entries: list[dict], folder: Path, number: int) -> list[str]:
    series = {
        side: sorted(
            (e["requests_per_second"], e["p95_ms"])
            for e in entries
            if (e["part"], e["side"]) == ("single", side) and e["p95_ms"]
        )
        for side in ("served", "baseline")
    }
    series = {side: found for side, found in series.items() if found}
    if not series:
        return []
    file = folder / f"http-{number}.svg"
    drawn = gpu_plot.lines("p95 by load, lone 18-word texts", series, "requests/s", "p95 ms")
    file.write_text(drawn, "utf-8")
    return [f"![p95 by load]({file.name})", ""]
