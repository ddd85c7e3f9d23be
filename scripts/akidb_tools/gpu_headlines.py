"""Points of the `http` stage enter; the figures that it is asked for leave. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

P95_MS = 8.0
# 18 common words and two special tokens, where a point does not say how many there were.
TOKENS = 20.0


def points(entries: Sequence[Mapping], part: str, side: str) -> list[Mapping]:
    """Points of a part and side without a failure."""
    return [e for e in entries if e.get("part") == part and e.get("side") == side and not e["failed"]]


def most(found: Sequence[Mapping], key: str, within: float | None = None) -> Mapping | None:
    """The point with most of `key`, of those whose p95 is within the limit."""
    fitting = [e for e in found if within is None or (e["p95_ms"] is not None and e["p95_ms"] <= within)]
    return max(fitting, key=lambda e: e[key], default=None)


def ratio(a: float | None, b: float | None) -> float | None:
    """None where one is not known."""
    return a / b if a and b else None


def capacity_cost(entries: Sequence[Mapping], price: float) -> dict:
    """Price of a GPU-hour over the most tokens an hour at p95 <= 8 ms, client batches of 64, by side and as a ratio."""
    found: dict[str, dict | None] = {}
    for side in ("baseline", "served"):
        entry = most(points(entries, "cost", side), "texts_per_second", P95_MS)
        if entry is None:
            found[side] = None
            continue
        tokens = (entry.get("server") or {}).get("tokens_per_text") or TOKENS
        hourly = entry["texts_per_second"] * tokens * 3_600
        facts = {key: entry[key] for key in ("variant", "clients", "texts_per_second", "p95_ms")}
        found[side] = {
            **facts,
            "tokens_per_text": tokens,
            "tokens_an_hour": hourly,
            "usd_a_million_tokens": price / hourly * 1e6,
        }
    costs = [found[side] and found[side]["usd_a_million_tokens"] for side in ("served", "baseline")]
    return {"usd_a_gpu_hour": price, "p95_ms": P95_MS, **found, "ratio": ratio(*costs)}


def p95_times_lower(entries: Sequence[Mapping], key: str = "p95_ms") -> tuple[float | None, ...]:
    """At 70 % of the baseline's most: the baseline's p95, the served engine's, their ratio; of each the better run.

    Where a higher most was found later, the rate that was taken from it counts.
    """
    parts = ("rate", "rate again")
    wanted = max((e.get("rate", 0) for part in parts for e in points(entries, part, "baseline")), default=0)

    def best(side: str) -> float | None:
        found = [e for part in parts for e in points(entries, part, side) if e.get(key) and e.get("rate", 0) == wanted]
        return min((e[key] for e in found), default=None)

    base, served = best("baseline"), best("served")
    return base, served, ratio(base, served)


def busy_loads(entries: Sequence[Mapping]) -> list[Mapping]:
    """Points of the served engine at which the GPU was 80 to 90 % busy."""
    return [
        e for e in entries if e.get("side") == "served" and 80 <= ((e.get("gpu") or {}).get("busy_percent") or 0) <= 90
    ]


def headlines(entries: Sequence[Mapping], raw: Mapping[str, float], price: float) -> dict[str, object]:
    """The figures by name; None where a part was not run. `raw`: texts/s of the raw engine by shape."""
    rate = "requests_per_second"
    lone = {side: most(points(entries, "single", side), rate, P95_MS) for side in ("served", "baseline")}
    base64 = most(points(entries, "single base64", "served"), rate, P95_MS)
    base, served, lower = p95_times_lower(entries)
    cost = capacity_cost(entries, price)
    big = most(points(entries, "big", "served"), "texts_per_second")
    return {
        "single-text requests/s at p95 <= 8 ms": lone["served"] and lone["served"]["requests_per_second"],
        "the same with base64": base64 and base64["requests_per_second"],
        "the baseline's": lone["baseline"] and lone["baseline"]["requests_per_second"],
        "p95 ms at 70 % of the baseline's most, baseline": base,
        "p95 ms there, served": served,
        "p95 times lower": lower,
        "the same since sent": p95_times_lower(entries, "service_p95_ms")[2],
        f"USD a million tokens at ${price:.2f} a GPU-hour, baseline": cost["baseline"]
        and cost["baseline"]["usd_a_million_tokens"],
        "the same, served": cost["served"] and cost["served"]["usd_a_million_tokens"],
        "cost ratio": cost["ratio"],
        "texts/s of client batches of 256": big and big["texts_per_second"],
        **{f"part of the raw engine's at {at}": ratio(big and big["texts_per_second"], it) for at, it in raw.items()},
        "batching on against off at 256 clients": batching(entries),
        "loads at which the GPU is 80-90 % busy": [
            f"{e['texts_per_second']:,.0f} texts/s ({e['part']}, batches of {e['batch']})" for e in busy_loads(entries)
        ],
    }


def batching(entries: Sequence[Mapping]) -> float | None:
    """Requests a second at 256 clients with batching over those without."""
    on, off = (most(points(entries, f"batching {it}", "served"), "requests_per_second") for it in ("on", "off"))
    return ratio(on and on["requests_per_second"], off and off["requests_per_second"])
