"""Points and cells in, figures and targets out: what holds, what does not, and what was not measured."""

from __future__ import annotations

import pytest

from akidb_tools import gpu_headlines, gpu_left_out, gpu_targets
from akidb_tools.gpu_faults import CASES, Case
from akidb_tools.gpu_plan import LARGE

MACHINE = "m1"


def point(part, side, **facts):
    base = {"part": part, "side": side, "variant": "v", "failed": 0, "p95_ms": 5.0, "gpu": None, "server": None}
    base |= {"requests_per_second": 0.0, "texts_per_second": 0.0, "clients": 1, "batch": 1, "machine": MACHINE}
    return {**base, **facts}


POINTS = [
    point("single", "served", requests_per_second=50_000.0, gpu={"busy_percent": 85.0}),
    point("single", "served", requests_per_second=90_000.0, p95_ms=9.0),
    point("single", "served", requests_per_second=80_000.0, failed=1),
    point("single", "baseline", requests_per_second=10_000.0),
    point("rate", "baseline", p95_ms=6.5, service_p95_ms=6.0),
    point("rate", "served", p95_ms=2.5, service_p95_ms=1.5),
    point("rate again", "served", p95_ms=2.0, service_p95_ms=1.6),
    point("cost", "baseline", texts_per_second=50_000.0),
    point("cost", "served", texts_per_second=200_000.0, server={"tokens_per_text": 20.0}),
    point("cost", "served", texts_per_second=300_000.0, p95_ms=8.1),
    point("big", "served", texts_per_second=180_000.0, p95_ms=40.0),
    point("batching on", "served", requests_per_second=40_000.0),
    point("batching off", "served", requests_per_second=5_000.0),
]


def test_headlines_take_only_points_within_the_limit_and_without_failures():
    found = gpu_headlines.headlines(POINTS, {"256x24": 300_000.0}, 2.0)
    assert found["single-text requests/s at p95 <= 8 ms"] == 50_000
    assert found["p95 times lower"] == pytest.approx(3.25)
    assert found["the same since sent"] == pytest.approx(4.0)
    assert found["cost ratio"] == pytest.approx(0.25)
    assert found["part of the raw engine's at 256x24"] == pytest.approx(0.6)
    assert found["batching on against off at 256 clients"] == pytest.approx(8)
    assert len(found["loads at which the GPU is 80-90 % busy"]) == 1


def test_the_rate_of_the_highest_most_counts():
    slower = [{**e, "rate": 100, "p95_ms": e["p95_ms"] / 10} for e in POINTS if e["part"].startswith("rate")]
    higher = [{**e, "rate": 140} for e in POINTS if e["part"].startswith("rate")]
    assert gpu_headlines.p95_times_lower([*slower, *higher])[:2] == (6.5, 2.0)


def test_the_cost_counts_the_tokens_that_the_server_counted():
    found = gpu_headlines.capacity_cost(POINTS, 2.0)
    # 2 USD / (200,000 texts/s x 20 tokens x 3,600 s) x 1e6
    assert found["served"]["usd_a_million_tokens"] == pytest.approx(2 / (200_000 * 20 * 3600) * 1e6)
    longer = [{**e, "server": {"tokens_per_text": 40.0}} if e["side"] == "served" else e for e in POINTS]
    assert gpu_headlines.capacity_cost(longer, 2.0)["ratio"] == pytest.approx(0.125)


def cell(model, precision, batch, tokens, rate, *, turns="t"):
    return {
        "machine": MACHINE,
        "model": model,
        "variant": f"tensorrt-{precision}",
        "precision": precision,
        "batch": batch,
        "tokens": tokens,
        "measured": {"turns": turns, "texts_per_second": rate},
        "not_run": None,
    }


def own(cells=(), **gpu):
    data = {"cells": list(cells), "gpu": {k: [{"machine": MACHINE, **e} for e in v] for k, v in gpu.items()}}
    return gpu_targets.Own(data, MACHINE)


def seen(found, words):
    return next(row for row in gpu_targets.targets(found, 2.0) if words in row.target)


def test_vectors_under_load_are_held_to_what_their_precision_keeps():
    def check(precision, least, holds):
        entry = {"variant": precision, "precision": precision, "least_cosine": least, "vectors": 9, "cuda_graphs": 2}
        assert seen(own(vectors=[entry]), "vectors of one text").holds is holds

    check("fp16", 0.9999, True)
    check("fp16", 0.9998, False)
    check("fp8", 0.99, True)
    check("int8", 0.9899, False)
    none = {"variant": "v", "precision": "fp16", "least_cosine": 1.0, "vectors": 9, "cuda_graphs": 0}
    assert seen(own(vectors=[none]), "vectors of one text").holds is False


def test_what_was_not_measured_neither_holds_nor_misses():
    rows = gpu_targets.targets(own(), 2.0)
    assert [row.holds for row in rows] == [None] * len(rows)
    assert gpu_targets.counts(rows) == f"0 of {len(rows)} hold, 0 do not, {len(rows)} were not measured"


def test_a_precision_holds_by_its_ratio_or_by_a_profile_of_both():
    fast = [cell(LARGE.name, "fp16", 64, 128, 100.0), cell(LARGE.name, "int8", 64, 128, 125.0)]
    slow = [cell(LARGE.name, "fp16", 64, 128, 100.0), cell(LARGE.name, "int8", 64, 128, 124.0)]
    # Another run's FP16 must not be compared with.
    apart = [cell(LARGE.name, "fp16", 64, 128, 50.0, turns="other"), *slow]
    assert seen(own(fast), "INT8").holds is True
    assert seen(own(slow), "INT8").holds is False
    assert seen(own(apart), "INT8").holds is False
    assert seen(own(fast[:1]), "INT8").holds is None
    half = [{"model": LARGE.name, "precision": "fp16"}]
    both = [*half, {"model": LARGE.name, "precision": "int8"}]
    assert seen(own(slow, kernels=half), "INT8").holds is False
    assert seen(own(slow, kernels=both), "INT8").holds is True


def test_http_targets_are_judged_by_their_limits():
    good = own(http=POINTS, raw=[{"variant": "v", "batch": 256, "tokens": 24, "measured": {"texts_per_second": 3e5}}])
    for words in ("50,000 requests/s", "3.25 times", "0.40 of", "at least 60 %", "5 times off", "80 to 90 %"):
        assert seen(good, words).holds is True, words
    late = own(http=[{**e, "p95_ms": 9.0} for e in POINTS])
    assert seen(late, "50,000 requests/s").holds is False
    assert seen(late, "0.40 of").holds is None
    weak = own(http=POINTS, raw=[{"variant": "v", "batch": 256, "tokens": 24, "measured": {"texts_per_second": 4e5}}])
    assert seen(weak, "at least 60 %").holds is False


def test_loads_swaps_and_two_gpus():
    loads = [{"variant": "a", "first_answer_seconds": 1.5, "build_seconds": 70.0}]
    assert seen(own(loads=loads), "first answer").holds is True
    assert seen(own(loads=[*loads, {**loads[0], "first_answer_seconds": None}]), "first answer").holds is False
    swap = {"at": "1", "requests": 9, "failed": 0, "alias": ["fp32", "a", "b"], "answered_by": {"a": 9}}
    assert seen(own(swaps=[{**swap, "all_answered": True}]), "under load").holds is True
    assert seen(own(swaps=[{**swap, "all_answered": False}]), "under load").holds is False
    assert seen(own(swaps=[{**swap, "all_answered": True, "failed": 1}]), "under load").holds is False
    assert seen(own(two_gpu=[{"at": "1", "ratio": 1.91, "texts_per_second": {"1": 1.0, "2": 1.9}}]), "two GPUs").holds
    assert not seen(own(two_gpu=[{"at": "1", "ratio": 1.8, "texts_per_second": {1: 1.0, 2: 1.8}}]), "two GPUs").holds
    both = [{"ratio": r, "contexts": n, "texts_per_second": {1: 1.0, 2: r}} for n, r in ((2, 1.8), (3, 1.95))]
    row = seen(own(two_gpu=both), "two GPUs")
    assert row.holds and row.seen.startswith("1.95") and "1.80" in row.seen


def test_faults_hold_only_when_every_case_was_seen():
    all_ok = [{"case": case.name, "ok": True} for case in CASES]
    assert seen(own(faults=all_ok), "cases").holds is True
    assert seen(own(faults=all_ok[1:]), "cases").holds is False
    assert seen(own(faults=[{**all_ok[0], "ok": False}, *all_ok[1:]]), "cases").holds is False


REASONS = {
    "misspelt provider option": (
        "TensorrtExecutionProvider refused model.onnx: [ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : EPContext node "
        "generated by 'TensorrtExecutionProvider' is not compatible with any execution provider added to the session.",
        'Failed to parse provider option "trt_cuda_graph_enable": Failed to map enum',
    ),
    "batch beyond the profile": (
        "Error in execution: Non-zero status code returned while running TRTKernel_graph_engine node",
        "TensorRT EP failed to call nvinfer1::IExecutionContext::setInputShape() for input 'input_ids'",
    ),
    "batch beyond the profile served": (
        "status 200, 512 vectors of 1024 texts in 0.10 s, 1 batches",
        "status 200, 1024 vectors of 1024 texts in 0.10 s, 2 batches, profile 1x16:256x128:512x256",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_case_holds_by_what_it_must_say_and_not_by_any_refusal(name):
    case = next(c for c in CASES if c.name == name)
    wrong, right = REASONS[name]
    assert not case.holds({"what": case.kinds[0], "reason": wrong})
    assert case.holds({"what": case.kinds[0], "reason": right})
    assert not case.holds({"what": "served", "reason": right})


def test_a_case_with_a_stand_in_needs_one_that_serves_and_says_so():
    case = Case("x", lambda *_: {}, ("9.3",), stands_in=("stands in",))
    refused = {"what": "refused", "reason": "TensorRT 9.3"}
    assert case.holds({**refused, "with_fallback": {"what": "fallback", "reason": "fp32 stands in on `cuda`"}})
    assert not case.holds({**refused, "with_fallback": {"what": "refused", "reason": "fp32 stands in on `cuda`"}})
    assert not case.holds({**refused, "with_fallback": {"what": "served", "reason": ""}})


def test_every_cell_of_the_five_models_is_measured_or_marked_once():
    cells = [cell("all-MiniLM-L6-v2", "int8", 8, 32, 1.0)]
    builds = [
        {"machine": MACHINE, "model": "bert-base-uncased", "candidate": "int8-mid", "not_built": "out of memory"},
        {"machine": MACHINE, "model": "bert-base-uncased", "candidate": "fp8-ffn-typed", "not_built": None},
    ]
    data = {"cells": cells, "gpu": {"builds": builds}}
    data["cells"] = gpu_left_out.marked(data, MACHINE, 0)
    marks = [c for c in data["cells"] if c.get("kind") == gpu_left_out.MARK]
    assert len(marks) == 5 * 3 * 5 - 1 and all(c["not_run"] for c in marks)
    why = {(c["model"], c["precision"]): c["not_run"] for c in marks}
    assert why["bert-base-uncased", "int8"] == "no int8 engine: out of memory"
    assert "stage matrix" in why["bert-base-uncased", "fp8"]
    assert "--bundle" in why["distilled-MiniLM-L3-v2", "int8"]
    # What is measured later takes its mark away.
    data["cells"].append(cell("bert-base-uncased", "fp8", 8, 32, 1.0))
    again = gpu_left_out.marked(data, MACHINE, 1)
    assert sum(c.get("kind") == gpu_left_out.MARK for c in again) == len(marks) - 1
    assert seen(gpu_targets.Own({**data, "cells": again}, MACHINE), "five models").holds is True
