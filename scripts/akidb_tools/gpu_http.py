"""Stage `http`: the served engine against the fp32 baseline served the same way, through HTTP on this machine.

18-word texts, made beforehand, over a Unix socket from `akidb-loadtest`. Every point says the GPU's load, the batch
sizes, who used the cores and what failed. Parts need nothing of each other but results, so each can be run alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from . import tensorrt_provider
from .bundle_reader import Bundle
from .engine_run import Bound
from .errors import ToolError
from .gpu_cores import allowed, placements
from .gpu_headlines import P95_MS, capacity_cost, most, points
from .gpu_plan import MINILM
from .gpu_point import cores, point
from .gpu_same import vectors
from .gpu_sides import Lineup, Side, baseline, lineup, programs, serving
from .gpu_stage import Stage, Unready
from .gpu_swap import load, swap
from .gpu_timing import batch_of, take_turns
from .shape_profiles import parse

# The most telling first: at 50,000 a second 256 clients wait 5 ms on average.
CLIENTS = (256, 384, 320, 192, 512, 128, 1024, 64)
# The most of all is among the first three: the part `rate` takes its rate from it.
BASELINE_CLIENTS = (1024, 256, 512, 128, 384, 64)
BATCH_CLIENTS = (12, 24, 8, 32, 16, 4)
BIG_CLIENTS = (16, 8, 32, 4)
# The part of the baseline's own most at which both sides' p95 is compared.
SHARE = 0.7
# The load that a GPU is to hold, percent; and how often a rate is tried for it.
BUSY, TRIES = (80.0, 90.0), 5
POINT_SECONDS = 12


def run(stage: Stage) -> None:
    """The parts in order of value; each ends by itself when time is up, and one that fails leaves the others be."""
    programs(stage)
    served, base = lineup(stage), baseline(stage)
    parts: list[tuple[str, Callable[[], None]]] = [
        ("placement", lambda: placement(stage, served)),
        ("single", lambda: single(stage, served, base)),
        ("rate", lambda: rate(stage, served, base)),
        ("vectors", lambda: vectors(stage, served)),
        ("cost", lambda: cost(stage, served, base)),
        ("big batches", lambda: big_batches(stage, served)),
        ("batching", lambda: batching(stage, served)),
        ("busy", lambda: busy(stage, served)),
        ("more clients", lambda: more_clients(stage, served, base)),
        ("load", lambda: load(stage)),
        ("swap", lambda: swap(stage)),
    ]
    stage.in_order(parts, least=POINT_SECONDS, noted_as="http ")


def placement(stage: Stage, served: Lineup) -> None:
    """Which cores server and clients get for lone texts: shared, or apart; the most requests within the limit wins."""
    clients = 8 if stage.rehearse else 256
    tried: list[tuple[bool, float, dict]] = []
    for name, (server_on, clients_on) in placements(allowed()).items():
        if not stage.enough(POINT_SECONDS):
            break
        with serving(stage, "placement", served, cores=server_on) as (running, side):
            facts = {"clients": clients, "batch": 1, "placement": name}
            more = ["--clients", str(clients)]
            entry = point(stage, running, "placement", side, more, clients_on=clients_on, **facts)
        within = (entry["p95_ms"] or 1e9) <= P95_MS and not entry["failed"]
        chosen = {"name": name, "server": server_on, "clients": clients_on}
        tried.append((within, entry["requests_per_second"], chosen))
    if tried:
        best = max(tried, key=lambda it: it[:2])[2]
        stage.results.put("placement", {**best, "rehearsal": stage.rehearse})
        stage.say(f"placement for lone texts: {best['name']}")


def single(stage: Stage, served: Lineup, base: Lineup) -> None:
    """Lone texts of both sides at the telling loads; the best once more with base64."""
    few = (4, 8)
    telling = (few, few) if stage.rehearse else (CLIENTS[:5], BASELINE_CLIENTS[:3])
    found = _both(stage, (served, telling[0]), (base, telling[1]))
    best = most([e for e in found if not e["failed"]], "requests_per_second", P95_MS)
    if best:
        _base64(stage, served, best["clients"])


def more_clients(stage: Stage, served: Lineup, base: Lineup) -> None:
    """Lone texts at the other loads."""
    if not stage.rehearse:
        _both(stage, (served, CLIENTS[5:]), (base, BASELINE_CLIENTS[3:]))


def _both(stage: Stage, served: tuple[Lineup, Sequence[int]], base: tuple[Lineup, Sequence[int]]) -> list[dict]:
    """The served side's points. A side that cannot be served must not cost the other its figures."""
    found, failed = [], []
    for side, clients in (served, base):
        try:
            points_ = _lone(stage, side, clients)
        except ToolError as error:
            failed.append(error)
        else:
            found += points_ if side is served[0] else []
    if failed:
        raise failed[0]
    return found


def _lone(stage: Stage, side: Lineup, clients: Sequence[int]) -> list[dict]:
    server_on, clients_on = cores(stage)
    found: list[dict] = []
    if not stage.enough(POINT_SECONDS):
        return found
    with serving(stage, "single", side, cores=server_on) as (running, own):
        for n in clients:
            if not stage.enough(POINT_SECONDS):
                break
            more = ["--clients", str(n)]
            found.append(point(stage, running, "single", own, more, clients_on=clients_on, clients=n, batch=1))
    return found


def _base64(stage: Stage, served: Lineup, clients: int) -> None:
    server_on, clients_on = cores(stage)
    if stage.enough(POINT_SECONDS):
        with serving(stage, "base64", served, cores=server_on) as (running, own):
            facts = {"clients": clients, "batch": 1, "base64": True}
            more = ["--clients", str(clients), "--base64"]
            point(stage, running, "single base64", own, more, clients_on=clients_on, **facts)


def rate(stage: Stage, served: Lineup, base: Lineup) -> None:
    """Both sides in an open loop at 70 % of the baseline's own most; the sides take turns, twice."""
    found = [e["requests_per_second"] for e in points(stage.results.entries("http"), "single", "baseline")]
    if not found:
        raise Unready("no load of the baseline was measured (part single): its own most is not known")
    wanted = SHARE * max(found)
    server_on, clients_on = cores(stage)
    for turn, side in enumerate((served, base, base, served)):
        if not stage.enough(POINT_SECONDS):
            break
        with serving(stage, f"rate{turn}", side, cores=server_on) as (running, own):
            more = ["--clients", "16" if stage.rehearse else "1024", "--rate", f"{wanted:.0f}"]
            part = "rate" if turn < 2 else "rate again"
            # Shapes are recorded in the first seconds: what is measured is what comes after.
            facts = {"rate": round(wanted), "batch": 1}
            point(stage, running, part, own, more, clients_on=clients_on, settled=True, **facts)


def cost(stage: Stage, served: Lineup, base: Lineup) -> None:
    """Client batches of 64: the most tokens an hour at p95 <= 8 ms, and what a million of them cost then."""
    batch = 8 if stage.rehearse else 64
    for side in (served, base):
        if not stage.enough(POINT_SECONDS):
            break
        with serving(stage, "cost", side) as (running, own):
            for n in (1, 2) if stage.rehearse else BATCH_CLIENTS:
                if not stage.enough(POINT_SECONDS):
                    break
                more = ["--clients", str(n), "--batch", str(batch), "--base64"]
                point(stage, running, "cost", own, more, clients=n, batch=batch, base64=True)
    found = capacity_cost(stage.results.entries("http"), stage.options["price"])
    stage.results.put("costs", {**found, "rehearsal": stage.rehearse})
    for name in ("baseline", "served"):
        side = found[name]
        stage.say(
            f"capacity cost {name}: {side['usd_a_million_tokens']:.6f} USD a million tokens at "
            f"{side['tokens_an_hour']:,.0f} tokens an hour and {found['usd_a_gpu_hour']} USD a GPU-hour"
            if side
            else f"capacity cost {name}: no point within p95 <= {P95_MS} ms"
        )
    if found["ratio"]:
        stage.say(f"capacity cost: served {found['ratio']:.3f} of the baseline's")


def big_batches(stage: Stage, served: Lineup) -> None:
    """Client batches of 256 with base64, and the raw engine in this process at the shape that they are padded to."""
    batch = 8 if stage.rehearse else 256
    padded: list[float] = []
    with serving(stage, "big", served) as (running, own):
        for n in (1, 2) if stage.rehearse else BIG_CLIENTS:
            if not stage.enough(POINT_SECONDS):
                break
            more = ["--clients", str(n), "--batch", str(batch), "--base64"]
            entry = point(stage, running, "big", own, more, clients=n, batch=batch, base64=True)
            if entry["server"]:
                padded.append(entry["server"]["padded_tokens_per_text"])
    if padded and stage.enough(5):
        _raw(stage, own, batch, round(statistics.median(padded)))


def _raw(stage: Stage, side: Side, batch: int, tokens: int) -> None:
    own: Bundle = stage.built(MINILM.name)[side.variant]
    profile = (own.manifest["target"]["shape_profile"] or "").split(",")[-1]
    tokens = max(tokens, parse(profile).least.tokens) if profile else tokens
    session = tensorrt_provider.session(own.engine, stage.provider)
    feed = batch_of(own.encoder().ids("a text of common words"), batch, tokens, own.manifest["graph"]["inputs"])
    bound = Bound(session, feed, (own.output, own.model["dimension"]), stage.device)
    measured = take_turns({"raw": bound}, batch, tokens, 0.05 if stage.rehearse else 1.0)["raw"]
    entry = {"variant": side.variant, "batch": batch, "tokens": tokens, "measured": measured}
    stage.results.put("raw", {**entry, "rehearsal": stage.rehearse})
    stage.say(f"raw engine {side.variant} {batch}x{tokens}: {measured['texts_per_second']:,.0f} texts/s")


def batching(stage: Stage, served: Lineup) -> None:
    """256 clients with batching and without."""
    clients = 8 if stage.rehearse else 256
    server_on, clients_on = cores(stage)
    for name, enabled in (("on", True), ("off", False)):
        if not stage.enough(POINT_SECONDS):
            break
        with serving(stage, f"batching-{name}", served, {"enabled": enabled}, server_on) as (running, own):
            more, facts = ["--clients", str(clients)], {"clients": clients, "batch": 1}
            point(stage, running, f"batching {name}", own, more, clients_on=clients_on, **facts)


def busy(stage: Stage, served: Lineup) -> None:
    """The rate of client batches at which the GPU holds 80 to 90 %: an open loop, each try by the last's load."""
    batch = 8 if stage.rehearse else 64
    seen = stage.results.entries("http")
    known = [e["texts_per_second"] for part in ("cost", "big") for e in points(seen, part, "served")]
    texts = 0.6 * max(known, default=100.0 if stage.rehearse else 100_000.0)
    with serving(stage, "busy", served) as (running, own):
        for attempt in range(2 if stage.rehearse else TRIES):
            if not stage.enough(POINT_SECONDS):
                return
            requests = max(1.0, texts / batch)
            more = ["--clients", "256", "--batch", str(batch), "--base64", "--rate", f"{requests:.0f}"]
            facts = {"rate": round(requests), "batch": batch, "base64": True}
            entry = point(stage, running, "busy", own, more, **facts)
            percent = (entry["gpu"] or {}).get("busy_percent")
            if percent is None and stage.rehearse:
                return
            if percent is None:
                raise ToolError("NVML gives no load of this GPU: the load at which it holds 80-90 % is not known")
            kept = entry["texts_per_second"] > 0.97 * requests * batch
            held = BUSY[0] <= percent <= BUSY[1]
            stage.say(f"busy: try {attempt + 1}, {percent} % at {texts:,.0f} texts/s")
            if held or (not kept and percent < BUSY[0]):
                return
            texts *= min(1.6, max(0.5, 85.0 / max(percent, 1.0)))
