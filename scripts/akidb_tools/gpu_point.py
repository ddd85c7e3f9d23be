"""A running sidecar and a load enter; a point of the `http` stage leaves: latency, rates, the GPU's load, cores, waits.

Latency counts from when a request was due (open loop) or sent (closed); `service` always from when it was sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from .gpu_cores import Spent
from .gpu_nvml import Sampler
from .gpu_services import Sidecar, loadtest
from .gpu_sides import Side
from .gpu_stage import Stage

DISTINCT = 4_096
# NVML's own figure is a mean over up to a second: that long a GPU's load is not yet that of the point.
SETTLE = 0.8


def cores(stage: Stage) -> tuple[Sequence[int] | None, Sequence[int] | None]:
    """The server's cores and the clients', as the part `placement` chose them for lone texts; None is all."""
    chosen = [e for e in stage.results.entries("placement") if e["rehearsal"] == stage.rehearse]
    return (chosen[-1]["server"], chosen[-1]["clients"]) if chosen else (None, None)


def point(
    stage: Stage,
    running: Sidecar,
    part: str,
    side: Side,
    more: list[str],
    *,
    clients_on: Sequence[int] | None = None,
    devices: Sequence[int] = (0,),
    settled: bool = False,
    **facts: object,
) -> dict:
    """One run of the load test; its entry is kept. `settled`: after one more that is not."""
    seconds = 1.0 if stage.rehearse else stage.options["load_seconds"]
    batch = int(facts.get("batch", 1))

    def run() -> dict:
        return loadtest(
            Path(stage.options["loadtest"]),
            running,
            seconds=seconds,
            warmup=10 if stage.rehearse else max(64, 2_000 // batch),
            more=["--distinct", str(16 if stage.rehearse else max(64, DISTINCT // batch)), *more],
            cores=clients_on,
        )

    if settled:
        run()
    samplers = [Sampler(device) for device in devices]
    before = totals(running.metrics())
    with contextlib.ExitStack() as beside:
        spent = beside.enter_context(Spent(running.process.running.pid))
        for sampler in samplers:
            beside.enter_context(sampler)
        report = run()
    gpus = [sampler.means(max(0.3, seconds - SETTLE)) for sampler in samplers]
    latency, service = report["latency_ms"] or {}, report["service_ms"] or {}
    entry = {
        "part": part,
        "side": side.name,
        "variant": side.variant,
        "provider": side.provider,
        **facts,
        "requests_per_second": report["requests_per_second"],
        "texts_per_second": report["texts_per_second"],
        **{f"{name}_ms": latency.get(name) for name in ("p50", "p95", "p99")},
        **{f"service_{name}_ms": service.get(name) for name in ("p50", "p95", "p99")},
        "succeeded": report["succeeded"],
        "failed": report["failed"],
        "errors": report["errors"],
        "started_late": report["started_late"],
        "batch_mean": (report["batches"] or {}).get("mean"),
        "server": growth(before, totals(running.metrics()), report["texts_per_second"]),
        "cores": spent.cores(),
        "gpu": gpus[0],
        "seconds": report["elapsed_seconds"],
        "rehearsal": stage.rehearse,
    }
    if len(gpus) > 1:
        entry["gpus_busy_percent"] = [(it or {}).get("busy_percent") for it in gpus]
    stage.results.put("http", entry)
    say(stage, entry, facts)
    return entry


def say(stage: Stage, entry: dict, facts: dict) -> None:
    """One line about a point."""
    cores_, busy = entry["cores"], (entry["gpu"] or {}).get("busy_percent")
    wait = (entry["server"] or {}).get("batch_wait_ms")
    shown = " ".join(f"{key}={value}" for key, value in facts.items())
    stage.say(
        f"{entry['part']} {entry['side']} {shown}: {entry['requests_per_second']:,.0f} req/s, "
        f"{entry['texts_per_second']:,.0f} texts/s, p50 {entry['p50_ms']} p95 {entry['p95_ms']} ms, "
        f"failed {entry['failed']}, batch {entry['batch_mean']}, waits {wait} ms, GPU {busy} %, "
        f"cores {cores_['server']} + {cores_['clients']} of {cores_['of']}"
    )


def totals(metrics: str) -> dict[str, float]:
    """Sums of the sidecar's series by name, without labels."""
    found: dict[str, float] = {}
    for line in metrics.splitlines():
        name, _, value = line.rpartition(" ")
        if line.startswith("akidb_") and "_bucket{" not in line:
            key = name.partition("{")[0]
            found[key] = found.get(key, 0.0) + float(value)
    return found


def growth(before: dict[str, float], after: dict[str, float], texts_per_second: float) -> dict[str, float] | None:
    """What the server itself says of the time between two looks, warm-up included."""

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    def mean(name: str) -> float | None:
        count = grew(f"{name}_count")
        return round(1e3 * grew(f"{name}_sum") / count, 3) if count else None

    texts, batches = grew("akidb_batch_size_sum"), grew("akidb_batch_size_count")
    if not texts or not batches:
        return None
    engine = grew("akidb_engine_seconds_total")
    return {
        "latency_ms": mean("akidb_embed_latency_seconds"),
        "batch_wait_ms": mean("akidb_batch_wait_time_seconds"),
        "engine_ms_a_batch": round(1e3 * engine / batches, 3),
        "engine_texts_per_second": round(texts / engine) if engine else None,
        "engine_share": round(texts_per_second * engine / texts, 3),
        "cuda_graphs_recorded": round(grew("akidb_engine_cuda_graphs_total")),
        # Of windows that were cut meanwhile: beside the watts of `gpu` it tells whether the ledger's energy is right.
        "energy_joules": round(grew("akidb_engine_energy_joules_total"), 1),
        "lost_observations": round(grew("akidb_telemetry_lost_observations_total")),
        "tokens_per_text": round(grew("akidb_batch_tokens_total") / texts, 2),
        "padded_tokens_per_text": round(grew("akidb_batch_padded_tokens_total") / texts, 2),
    }
