"""Stage `http`: the served engine against the fp32 baseline served the same way, through HTTP on this machine.

18-word texts, made beforehand, over a Unix socket from `akidb-loadtest`. Every point says the GPU's load, the batch
sizes and what failed. Capacity cost is the price of a GPU-hour over the most tokens an hour at p95 <= 8 ms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from .bundle_reader import Bundle
from .errors import BadInput, ToolError
from .gpu_matrix import best
from .gpu_nvml import Sampler
from .gpu_plan import MINILM, RACE
from .gpu_services import Entry, Sidecar, loadtest
from .gpu_stage import Stage
from .gpu_swap import swap

QUEUE = {"max_queued_texts": 65_536, "max_queued_ms": 20_000}
CLIENTS = (64, 256, 512, 768, 1024, 384, 128, 1536)
BATCH_CLIENTS = (2, 4, 8, 16, 24, 32)
BIG_CLIENTS = (4, 8, 16, 32)
DISTINCT = 4_096


@dataclass(frozen=True)
class Side:
    """What is served: `name` in the results, the bundle, and the provider demanded."""

    name: str
    path: Path
    provider: str
    variant: str
    precision: str

    @property
    def entry(self) -> Entry:
        return Entry(
            self.path, {"pinned": True, "fallback": False} if self.provider == "tensorrt" else {"pinned": True}
        )

    @property
    def reference(self) -> str:
        return f"{MINILM.name}@{self.variant}"


def run(stage: Stage) -> None:
    """The parts in order of value; each ends by itself when time is up."""
    programs(stage)
    served, baseline = sides(stage)
    parts: list[tuple[str, Callable[[], None]]] = [
        ("single", lambda: single(stage, served, baseline)),
        ("cost", lambda: cost(stage, served, baseline)),
        ("big batches", lambda: big_batches(stage, served)),
        ("batching", lambda: batching(stage, served)),
        ("load", lambda: load(stage, served)),
        ("swap", lambda: swap(stage, [baseline.path, *_others(stage, served)])),
    ]
    stage.in_order(parts, least=10, noted_as="http ")


def programs(stage: Stage) -> None:
    """Refuses where a program is missing."""
    for key in ("sidecar", "loadtest"):
        if not Path(stage.options[key]).is_file():
            raise BadInput(f"--{key} {stage.options[key]} is not there: build it, or name it")


def sides(stage: Stage) -> tuple[Side, Side]:
    """The engine to serve (the one named, else the fastest of fp16, fp8, int8) and the fp32 baseline."""
    built, chosen = stage.built(MINILM.name), best(stage, MINILM)
    wanted = stage.options.get("serve") or _fastest(stage, chosen)
    if wanted not in built:
        raise BadInput(f"{wanted} of {MINILM.name} is not built (there are {', '.join(built) or 'none'}): run build")
    provider = "cpu" if stage.rehearse else "cuda"
    baseline = Side("baseline", stage.fp32(MINILM), provider, "fp32", "fp32")
    return _side("served", built[wanted], stage.provider), baseline


def _side(name: str, own: Bundle, provider: str) -> Side:
    return Side(name, own.folder, provider, own.manifest["variant"]["name"], own.manifest["variant"]["precision"])


def _fastest(stage: Stage, chosen: dict[str, str]) -> str:
    def speed(name: str) -> float:
        batch, tokens = (1, 16) if stage.rehearse else RACE[MINILM.name][0]
        where = {"batch": batch, "tokens": tokens}
        cell = stage.results.measured(model=MINILM.name, variant=name, **where)
        return cell["measured"]["texts_per_second"] if cell else 0.0

    names = [chosen[p] for p in ("fp16", "fp8", "int8") if p in chosen]
    if not names:
        raise BadInput(f"no fp16, int8 or fp8 engine of {MINILM.name} is built: run the stage build first")
    return names[0] if stage.rehearse else max(names, key=speed)


def _others(stage: Stage, served: Side) -> list[Path]:
    """For the swap: fp16 and fp8 (a rehearsal takes what a CPU can serve)."""
    built, chosen = stage.built(MINILM.name), best(stage, MINILM)
    wanted = ("tf32", "int8") if stage.rehearse else ("fp16", "fp8")  # engines of float graphs are one file on a CPU
    return [built[chosen[p]].folder for p in wanted if p in chosen] or [served.path]


def sidecar(
    stage: Stage, name: str, entries: Sequence[Side], batching: dict | None = None, **settings: object
) -> Sidecar:
    """A sidecar that serves the first entry by default."""
    runtime = {"onnxruntime": runtime_library(), "provider": entries[0].provider, **settings}
    folder = stage.work / "http" / name
    listed = [side.entry for side in entries]
    return Sidecar(
        Path(stage.options["sidecar"]),
        folder,
        listed,
        default=entries[0].reference,
        runtime=runtime,
        batching={**QUEUE, **(batching or {})},
    )


def runtime_library() -> str:
    """The shared library of the ONNX Runtime that Python uses."""
    found = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so*"))
    if not found:
        raise BadInput(f"no libonnxruntime.so beside {ort.__file__}")
    return str(found[-1])


def point(stage: Stage, running: Sidecar, part: str, side: Side, more: list[str], **facts: object) -> dict:
    """One run of the load test; its entry is kept."""
    seconds = 1.0 if stage.rehearse else stage.options["load_seconds"]
    with Sampler() as gpu:
        report = loadtest(
            Path(stage.options["loadtest"]),
            running,
            seconds=seconds,
            warmup=10 if stage.rehearse else 2_000 // max(1, int(facts.get("batch", 1))),
            more=["--distinct", str(16 if stage.rehearse else DISTINCT // int(facts.get("batch", 1))), *more],
        )
    quantiles = report["latency_ms"] or {}
    entry = {
        "part": part,
        "side": side.name,
        "variant": side.variant,
        "provider": side.provider,
        **facts,
        "requests_per_second": report["requests_per_second"],
        "texts_per_second": report["texts_per_second"],
        "p50_ms": quantiles.get("p50"),
        "p95_ms": quantiles.get("p95"),
        "p99_ms": quantiles.get("p99"),
        "succeeded": report["succeeded"],
        "failed": report["failed"],
        "errors": report["errors"],
        "started_late": report["started_late"],
        "batch_mean": (report["batches"] or {}).get("mean"),
        "gpu": gpu.means(),
        "seconds": report["elapsed_seconds"],
        "rehearsal": stage.rehearse,
    }
    stage.results.put("http", ("part", "side", "variant", "clients", "batch", "rate", "base64"), entry)
    busy = (entry["gpu"] or {}).get("busy_percent")
    stage.say(
        f"{part} {side.name} {facts}: {entry['requests_per_second']:,.0f} req/s, "
        f"{entry['texts_per_second']:,.0f} texts/s, p50 {entry['p50_ms']} p95 {entry['p95_ms']} ms, "
        f"failed {entry['failed']}, batch {entry['batch_mean']}, GPU {busy}"
    )
    return entry


def single(stage: Stage, served: Side, baseline: Side) -> None:
    """Lone texts by clients; then both at 70 % of the baseline's own most, in an open loop."""
    most: dict[str, list[dict]] = {}
    clients = (4, 8) if stage.rehearse else CLIENTS
    for side in (served, baseline):
        with sidecar(stage, f"single-{side.name}", [side]) as running:
            for n in clients:
                if stage.left() < 15:
                    break
                most.setdefault(side.name, []).append(
                    point(stage, running, "single", side, ["--clients", str(n)], clients=n, batch=1)
                )
    rate = 0.7 * max(entry["requests_per_second"] for entry in most.get(baseline.name, [{"requests_per_second": 0}]))
    if rate <= 0 or stage.left() < 20:
        return
    for side in (served, baseline):
        with sidecar(stage, f"rate-{side.name}", [side]) as running:
            more = ["--clients", "1024" if not stage.rehearse else "16", "--rate", f"{rate:.0f}"]
            point(stage, running, "rate", side, more, rate=round(rate), batch=1)


def cost(stage: Stage, served: Side, baseline: Side) -> None:
    """Client batches of 64: the most texts a second at p95 <= 8 ms, and what a million tokens cost then."""
    for side in (served, baseline):
        with sidecar(stage, f"cost-{side.name}", [side]) as running:
            _, answer = running.embed({"texts": ["one two three four five six"] * 2})
            stage.say(f"cost {side.name}: usage {answer.get('usage')}")
            for n in (1, 2) if stage.rehearse else BATCH_CLIENTS:
                if stage.left() < 12:
                    return
                more = ["--clients", str(n), "--batch", "64", "--base64"]
                point(stage, running, "cost", side, more, clients=n, batch=64, base64=True)


def big_batches(stage: Stage, served: Side) -> None:
    """Client batches of 256 with base64, to compare with the raw engine."""
    with sidecar(stage, "big", [served]) as running:
        for n in (1, 2) if stage.rehearse else BIG_CLIENTS:
            if stage.left() < 12:
                return
            batch = 8 if stage.rehearse else 256
            more = ["--clients", str(n), "--batch", str(batch), "--base64"]
            point(stage, running, "big", served, more, clients=n, batch=batch, base64=True)


def batching(stage: Stage, served: Side) -> None:
    """256 clients with batching and without."""
    clients = 8 if stage.rehearse else 256
    for name, enabled in (("on", True), ("off", False)):
        if stage.left() < 15:
            return
        with sidecar(stage, f"batching-{name}", [served], {"enabled": enabled}) as running:
            more = ["--clients", str(clients)]
            point(stage, running, f"batching {name}", served, more, clients=clients, batch=1)


def load(stage: Stage, served: Side) -> None:
    """In a process that has CUDA up: the first answer of an engine that is on disk only, against its build time.

    The memory budget has room for one engine beside the default, so each request for another one loads it.
    """
    wanted = ("tf32", "fp16") if stage.rehearse else ("fp16", "fp8", "int8")
    built = {name: own for name, own in stage.built(MINILM.name).items() if name != served.variant}
    lazy = [_side("lazy", own, stage.provider) for own in built.values()]
    lazy = [side for side in lazy if side.precision in wanted][:3]
    if len(lazy) < 2:
        raise ToolError("two engines beside the served one are needed, to have one that is not loaded")
    size = {side.path: sum(f.stat().st_size for f in side.path.glob("*.onnx")) for side in (served, *lazy)}
    # An engine counts with 1.5 to 2 times its files.
    memory = 3 * size[served.path] // 2 + 2 * max(size[side.path] for side in lazy)
    runtime = {"onnxruntime": runtime_library(), "provider": served.provider}
    entries = [served.entry, *(Entry(side.path) for side in lazy)]
    settings = {"default": served.reference, "runtime": runtime, "memory": memory}
    with Sidecar(Path(stage.options["sidecar"]), stage.work / "http" / "load", entries, **settings) as running:
        stage.say(f"load: ready after {running.ready_seconds:.2f} s (process start, CUDA, engine, proof)")
        for side in [*lazy[1:], lazy[0]]:
            _first_answer(stage, running, side)


def _first_answer(stage: Stage, running: Sidecar, side: Side) -> None:
    listed = [v for model in running.models()["models"] for v in model["variants"] if v["name"] == side.variant]
    before = listed[0]["state"] if listed else "unknown"
    started = time.monotonic()
    status, answer = running.embed({"text": "first answer", "model": side.reference})
    took = time.monotonic() - started
    reports = {e["name"]: e for e in stage.results.entries("builds")}
    build = reports.get(f"{MINILM.name}-{side.variant}", {}).get("seconds")
    entry = {"variant": side.variant, "state_before": before, "status": status, "error": answer.get("error")}
    entry |= {"first_answer_seconds": round(took, 3), "build_seconds": build, "rehearsal": stage.rehearse}
    entry |= {"process_ready_seconds": round(running.ready_seconds, 3)}
    stage.results.put("loads", ("variant",), entry)
    stage.say(f"load {side.variant} ({before} before): first answer after {took:.2f} s ({status}); built in {build} s")
