"""Bound batches enter; their times, taken in turns, leave in the form of docs/BENCHMARKS.md."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from .engine_run import Bound
from .gpu_results import now

LEAST_FOR_P95, ENOUGH_FOR_P95, LEAST_FOR_P99, ENOUGH_FOR_P99 = 20, 100, 100, 1_000
WARM_UPS = 5
TURN_SECONDS = 0.02


def take_turns(
    batches: Mapping[str, Bound], texts: int, tokens: int, seconds: float, least: int = 20
) -> dict[str, dict]:
    """Each engine runs for a short turn, who begins rotates, until each has `seconds` and `least` runs."""
    turns, names = now(), list(batches)
    for name in names:
        for _ in range(WARM_UPS):
            batches[name].run()
    taken: dict[str, list[float]] = {name: [] for name in names}
    limit = time.monotonic() + 4 * seconds * len(names) + 5
    at = 0
    while any(sum(t) < seconds or len(t) < least for t in taken.values()) and time.monotonic() < limit:
        for name in names[at % len(names) :] + names[: at % len(names)]:
            end = time.perf_counter() + TURN_SECONDS
            taken[name].append(batches[name].run())
            while time.perf_counter() < end:
                taken[name].append(batches[name].run())
        at += 1
    return {name: measured(times, texts, tokens, turns) for name, times in taken.items()}


def measured(times: Sequence[float], texts: int, tokens: int, turns: str) -> dict:
    """`cells[].measured`."""
    total = math.fsum(times)
    return {
        "turns": turns,
        "runs": len(times),
        "warm_up_runs": WARM_UPS,
        "seconds": total,
        "latency_ms": latency([1e3 * t for t in times]),
        "texts_per_second": texts * len(times) / total,
        "padded_tokens_per_text": float(tokens),
    }


def latency(milliseconds: Sequence[float]) -> dict:
    """By nearest rank; p95 and p99 only of enough runs."""
    ordered, n = sorted(milliseconds), len(milliseconds)

    def rank(q: float) -> float:
        return ordered[min(max(math.ceil(q * n), 1), n) - 1]

    return {
        "min": ordered[0],
        "p50": rank(0.5),
        "p95": rank(0.95) if n >= LEAST_FOR_P95 else None,
        "p95_of_few": n < ENOUGH_FOR_P95,
        "p99": rank(0.99) if n >= LEAST_FOR_P99 else None,
        "p99_of_few": n < ENOUGH_FOR_P99,
    }


def batch_of(ids: np.ndarray, batch: int, tokens: int, inputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Real token ids cut to exactly `tokens`, each row from another place; no padding."""
    rows = np.stack([np.resize(np.roll(ids, -7 * n), tokens) for n in range(batch)]).astype(np.int64)
    feed = {"input_ids": rows, "attention_mask": np.ones_like(rows), "token_type_ids": np.zeros_like(rows)}
    return {name: feed[name] for name in inputs}
