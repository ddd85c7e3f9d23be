"""What a machine measured enters; each target of the benchmark leaves with what was seen and whether it holds. Pure.

A target of which nothing was measured does not hold and is not missed: it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from . import gpu_headlines as heads
from .engine_invariance import LEAST
from .five_models import NAMES
from .gpu_plan import FIVE_BATCHES, FIVE_TOKENS, LARGE

WIDE = (64, 128)
LOAD_SECONDS = 3.0


@dataclass(frozen=True)
class Seen:
    """`holds`: None where it was not measured."""

    target: str
    seen: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        return "not measured" if self.holds is None else "yes" if self.holds else "**no**"


class Own:
    """What one machine measured."""

    def __init__(self, data: Mapping, machine: str) -> None:
        self.cells = [c for c in data["cells"] if c["machine"] == machine]
        self.gpu = {k: [e for e in v if e["machine"] == machine] for k, v in data["gpu"].items()}

    def of(self, kind: str) -> list[dict]:
        """Entries under `gpu`."""
        return self.gpu.get(kind, [])

    def raw(self) -> dict[str, float]:
        """Texts a second of the raw engine that big batches were served with, by shape."""
        big = heads.most(heads.points(self.of("http"), "big", "served"), "texts_per_second")
        if big is None:
            return {}
        found = {
            f"{e['batch']}x{e['tokens']}": e["measured"]["texts_per_second"]
            for e in self.of("raw")
            if e["variant"] == big["variant"]
        }
        for c in self.cells:
            if (c["variant"], c["batch"], c["tokens"]) == (big["variant"], 256, 32) and c["measured"]:
                found["256x32"] = c["measured"]["texts_per_second"]
        return found


def targets(own: Own, price: float) -> list[Seen]:
    """In the order of docs/GPU.md."""
    rows: list[Callable[[], Seen]] = [
        lambda: _precision(own, "int8", 1.25),
        lambda: _precision(own, "fp8", 1.2),
        lambda: _requests(own),
        lambda: _p95(own),
        lambda: _cost(own, price),
        lambda: _vectors(own),
        lambda: _big(own),
        lambda: _batching(own),
        lambda: _busy(own),
        lambda: _loads(own),
        lambda: _swaps(own),
        lambda: _faults(own),
        lambda: _two(own),
        lambda: _matrix(own),
    ]
    return [row() for row in rows]


def _unseen(target: str, why: str = "-") -> Seen:
    return Seen(target, why, None)


def _precision(own: Own, precision: str, least: float) -> Seen:
    profiled = {e.get("precision") for e in own.of("kernels") if e["model"] == LARGE.name}
    target = f"hidden size 1024, 64 x 128: {precision.upper()} >= {least} times FP16's texts/s, or a profile of why not"
    shape = [c for c in own.cells if (c["model"], c["batch"], c["tokens"]) == (LARGE.name, *WIDE) and c["measured"]]
    by_turns: dict[str, dict[str, tuple[float, str]]] = {}
    for cell in shape:
        best, rate = by_turns.setdefault(cell["measured"]["turns"], {}), cell["measured"]["texts_per_second"]
        best[cell["precision"]] = max(best.get(cell["precision"], (0.0, "")), (rate, cell["variant"]))
    ratios = [
        (best[precision][0] / best["fp16"][0], best[precision][1], best["fp16"][1])
        for best in by_turns.values()
        if precision in best and "fp16" in best
    ]
    if not ratios:
        return _unseen(target)
    ratio, variant, beside = max(ratios)
    seen = f"{ratio:.4f} ({variant} against {beside})"
    both = {"fp16", precision} <= profiled
    return Seen(target, f"{seen}{', profiled below' if both else ''}", ratio >= least or both)


def _requests(own: Own) -> Seen:
    target = "lone 18-word texts: at least 50,000 requests/s at p95 <= 8 ms"
    found = heads.points(own.of("http"), "single", "served")
    best = heads.most(found, "requests_per_second", heads.P95_MS)
    if not found:
        return _unseen(target)
    if best is None:
        low = min((e["p95_ms"] for e in found if e["p95_ms"]), default=None)
        return Seen(target, f"no point within 8 ms; the lowest p95 is {low} ms", False)
    rate = best["requests_per_second"]
    seen = f"{rate:,.0f} at p95 {best['p95_ms']} ms, {best['clients']} clients, {best['variant']}"
    return Seen(target, seen, rate >= 50_000)


def _p95(own: Own) -> Seen:
    target = "p95 at least 3.25 times lower than the baseline's, at 70 % of the baseline's own most"
    base, served, lower = heads.p95_times_lower(own.of("http"))
    if lower is None:
        return _unseen(target)
    sent = heads.p95_times_lower(own.of("http"), "service_p95_ms")
    more = f"; since sent {sent[0]} and {sent[1]} ms, {sent[2]:.2f}" if sent[2] else ""
    return Seen(target, f"{base} and {served} ms: {lower:.2f}{more}", lower >= 3.25)


def _cost(own: Own, price: float) -> Seen:
    target = "capacity cost of a million tokens at most 0.40 of the baseline's (client batches of 64, p95 <= 8 ms)"
    found = heads.capacity_cost(own.of("http"), price)
    if found["ratio"] is None:
        lacks = [side for side in ("baseline", "served") if found[side] is None]
        measured = [side for side in lacks if heads.points(own.of("http"), "cost", side)]
        return _unseen(target, f"no point within 8 ms: {', '.join(measured)}" if measured else "-")
    costs = [f"{found[side]['usd_a_million_tokens']:.3g}" for side in ("served", "baseline")]
    seen = f"{found['ratio']:.3f} ({costs[0]} and {costs[1]} USD at ${price:g} an hour)"
    return Seen(target, seen, found["ratio"] <= 0.4)


def _vectors(own: Own) -> Seen:
    target = "vectors of one text, in any batch and as CUDA graphs: least cosine 0.9999 (INT8, FP8: 0.99)"
    found = own.of("vectors")
    if not found:
        return _unseen(target)
    seen = "; ".join(
        f"{e['least_cosine']} of {e['vectors']:,} vectors, {e['cuda_graphs']} graphs ({e['variant']})" for e in found
    )

    def holds(e: dict) -> bool:
        enough = e["vectors"] > 0 and e["cuda_graphs"] > 0
        return enough and e["least_cosine"] >= LEAST[e["precision"]]

    return Seen(target, seen, all(holds(e) for e in found))


def _big(own: Own) -> Seen:
    target = "client batches of 256 with base64: at least 60 % of the texts/s of the raw engine, in one context"
    big = heads.most(heads.points(own.of("http"), "big", "served"), "texts_per_second")
    raw = own.raw()
    if big is None or not raw:
        return _unseen(target, "the raw engine was not measured" if big else "-")
    rate = big["texts_per_second"]
    parts = {shape: rate / most for shape, most in raw.items()}
    seen = ", ".join(f"{part:.0%} of {raw[shape]:,.0f} at {shape}" for shape, part in parts.items())
    # The first is of the length that the batcher pads to, where it was measured.
    return Seen(target, f"{rate:,.0f} texts/s: {seen} ({big['variant']})", next(iter(parts.values())) >= 0.6)


def _batching(own: Own) -> Seen:
    target = "batching on at least 5 times off, 256 clients"
    found = heads.batching(own.of("http"))
    return _unseen(target) if found is None else Seen(target, f"{found:.2f}", found >= 5)


def _busy(own: Own) -> Seen:
    target = "a load at which the GPU holds 80 to 90 %"
    served = [e for e in own.of("http") if e["side"] == "served"]
    tried = [e for e in served if (e.get("gpu") or {}).get("busy_percent") is not None]
    held = [e for e in heads.busy_loads(own.of("http")) if not e["failed"]]
    if not tried:
        return _unseen(target)
    held.sort(key=lambda e: e["part"] != "busy")
    if held:
        e = held[0]
        rate, percent = e["texts_per_second"], e["gpu"]["busy_percent"]
        seen = f"{rate:,.0f} texts/s in batches of {e['batch']} ({e['part']}): {percent} %"
        return Seen(target, seen, True)
    most = max(tried, key=lambda e: e["gpu"]["busy_percent"])
    return Seen(target, f"none; the most seen is {most['gpu']['busy_percent']} % ({most['part']})", False)


def _loads(own: Own) -> Seen:
    target = f"from the artifact to the first answer at most {LOAD_SECONDS:.0f} s, in a process with CUDA up"
    found = own.of("loads")
    if not found:
        return _unseen(target)
    seen = ", ".join(
        f"{e['variant']} {e['first_answer_seconds'] or 'no answer'} s (built in {e['build_seconds']} s)" for e in found
    )
    return Seen(target, seen, all((e["first_answer_seconds"] or 1e9) <= LOAD_SECONDS for e in found))


def _swaps(own: Own) -> Seen:
    target = "fp32 to FP16 to FP8 under load: 0 failed, each answered"
    found = own.of("swaps")
    if not found:
        return _unseen(target)
    e = max(found, key=lambda it: it["at"])
    by = ", ".join(f"{variant} {count:,}" for variant, count in e["answered_by"].items())
    seen = f"{e['requests']:,} requests, {e['failed']} failed, {by}"
    return Seen(target, seen, e["failed"] == 0 and e["all_answered"] and len(e["alias"]) >= 3)


def _faults(own: Own) -> Seen:
    from .gpu_faults import CASES

    target = f"all {len(CASES)} cases that must be refused, split or stood in for"
    found = {e["case"]: e["ok"] for e in own.of("faults")}
    if not found:
        return _unseen(target)
    bad = [case.name for case in CASES if not found.get(case.name)]
    return Seen(target, f"{len(CASES) - len(bad)} of {len(CASES)}{'; not ' + ', '.join(bad) if bad else ''}", not bad)


def _two(own: Own) -> Seen:
    target = "two GPUs at least 1.9 times one GPU's texts/s on client batches"
    found = own.of("two_gpu")
    if not found:
        return _unseen(target)
    shown = []
    for e in sorted(found, key=lambda it: -it["ratio"]):
        one, two = (e["texts_per_second"].get(str(n), e["texts_per_second"].get(n)) for n in (1, 2))
        shown.append(f"{e['ratio']:.2f} ({two:,.0f} and {one:,.0f} texts/s, {e.get('contexts', 2)} contexts a GPU)")
    return Seen(target, "; ".join(shown), any(e["ratio"] >= 1.9 for e in found))


def _matrix(own: Own) -> Seen:
    precisions = ("fp32", "int8", "fp8")
    target = "five models x FP32, INT8, FP8 x batch 1, 8, 16, 32, 64: measured, or marked with why not"

    def cells(measured: bool) -> set[tuple]:
        return {
            (c["model"], c["precision"], c["batch"])
            for c in own.cells
            if c["tokens"] == FIVE_TOKENS and bool(c["measured"]) == measured and (measured or c["not_run"])
        }

    wanted = {(m, p, b) for m in NAMES for p in precisions for b in FIVE_BATCHES}
    done, marked = wanted & cells(True), wanted & cells(False)
    if not done:
        return _unseen(target)
    return Seen(target, f"{len(done)} measured, {len(marked - done)} marked of {len(wanted)}", wanted <= done | marked)


def counts(rows: Sequence[Seen]) -> str:
    """`9 of 13 hold, 2 do not, 2 were not measured`."""
    held, missed = sum(r.holds is True for r in rows), sum(r.holds is False for r in rows)
    return f"{held} of {len(rows)} hold, {missed} do not, {len(rows) - held - missed} were not measured"
