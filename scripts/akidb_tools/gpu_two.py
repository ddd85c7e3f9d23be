"""Stage `two-gpu`: one engine on one GPU and on two of one host, through the sidecar; texts a second leave."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from . import gpu_nvml
from .errors import BadInput, ToolError
from .gpu_headlines import points
from .gpu_point import point
from .gpu_sides import Lineup, lineup, programs, serving
from .gpu_stage import Stage

CLIENTS = (32, 64, 128)
BATCH = 256
# Execution contexts a GPU: what a sidecar has by default, and more, for a host that leaves its GPUs waiting.
CONTEXTS = (2, 3, 4)


def run(stage: Stage) -> None:
    """Client batches with base64; the most of each side is compared."""
    programs(stage)
    count = len(gpu_nvml.devices())
    if count < 2 and not stage.rehearse:
        raise BadInput(f"{count} GPU here: the stage two-gpu needs two of one host")
    served = lineup(stage)
    tried = CONTEXTS[:1] if stage.rehearse else CONTEXTS
    stage.in_order([(f"two-gpu, {n} contexts", partial(two, stage, served, n)) for n in tried], least=30)


def two(stage: Stage, served: Lineup, contexts: int) -> None:
    """Two GPUs first, then one, with the same loads in the same order."""
    used: set[str] = set()
    for ids in ((0, 1), (0,)):
        used.add(_measure(stage, served, ids, contexts))
    if len(used) > 1:
        raise ToolError(f"{' and '.join(sorted(used))} served: two GPUs and one must be compared by the same engine")
    entries = [e for e in stage.results.entries("http") if e.get("contexts") == contexts]
    rates = {n: {e["clients"]: e["texts_per_second"] for e in _of(entries, n, used)} for n in (1, 2)}
    both = rates[1].keys() & rates[2].keys()  # where time ran out, one has seen fewer loads
    best = {n: max((rates[n][clients] for clients in both), default=0.0) for n in (1, 2)}
    if all(best.values()):
        ratio = best[2] / best[1]
        facts = {"variant": used.pop(), "contexts": contexts, "texts_per_second": best, "ratio": ratio}
        stage.results.put("two_gpu", {**facts, "rehearsal": stage.rehearse})
        stage.say(f"two GPUs, {contexts} contexts each: {best[2]:,.0f} texts/s against {best[1]:,.0f}: {ratio:.2f}x")


def _measure(stage: Stage, served: Lineup, ids: Sequence[int], contexts: int) -> str:
    settings = {} if stage.rehearse else {"device_ids": list(ids), "contexts": contexts}
    with serving(stage, f"two-{len(ids)}-{contexts}", served, **settings) as (running, side):
        for n in (1, 2) if stage.rehearse else CLIENTS:
            # The second side must come to the same loads as the first.
            if not stage.enough(12 if len(ids) == 1 else 24):
                break
            batch = 8 if stage.rehearse else BATCH
            more = ["--clients", str(n), "--batch", str(batch), "--base64"]
            facts = {"devices": ids, "contexts": contexts, "clients": n, "batch": batch, "base64": True}
            point(stage, running, f"{len(ids)} GPU", side, more, **facts)
    return side.variant


def _of(entries: Sequence[dict], gpus: int, variants: set[str]) -> list[dict]:
    return [e for e in points(entries, f"{gpus} GPU", "served") if e["variant"] in variants]
