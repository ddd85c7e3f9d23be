"""The GPU benchmark's own parts: identity, results that survive, percentiles, plan, headline figures, the page."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gpu_bench
from akidb_tools import engine_run, gpu_machine, gpu_plan, gpu_plot, gpu_report, gpu_results, gpu_timing
from akidb_tools.engine_candidates import CANDIDATES
from akidb_tools.gpu_services import section
from akidb_tools.shape_profiles import ONE_PROFILE, parse, parse_all

FACTS = {
    "cpu": "A CPU",
    "cores": 16,
    "threads": 16,
    "cpu_flags": ["avx2", "amx_int8"],
    "memory_bytes": 128 * 2**30,
    "onnxruntime": "1.31.1",
    "gpu": "NVIDIA H200",
    "compute_capability": "9.0",
    "driver": "580.159.04",
    "tensorrt": "10.6.0",
}


def test_the_identity_is_that_of_the_rust_benchmark_and_ignores_a_little_memory():
    # domain/src/benchmark/tests.rs has the same machine.
    assert gpu_machine.identity(FACTS) == "e30f95113fc1"
    assert gpu_machine.identity({**FACTS, "memory_bytes": 128 * 2**30 - 10_000}) == gpu_machine.identity(FACTS)
    assert gpu_machine.identity({**FACTS, "driver": None}) != gpu_machine.identity(FACTS)


def results(folder, mirror=None):
    machine = {"id": gpu_machine.identity(FACTS), **FACTS, "cuda": "13.0", "gpus": 1}
    return gpu_results.Results(folder, machine, "scripts/gpu_bench.py matrix", 0.4, mirror)


def cell(variant, rate, turns="t", **more):
    times = [4 / rate] * 120
    measured = {**gpu_timing.measured(times, 4, 16, turns)}
    return {
        "provider": "tensorrt",
        "model": "m",
        "variant": variant,
        "precision": "fp16",
        "seeded": False,
        "digest": "ab",
        "engine_bytes": 1,
        "batch": 256,
        "tokens": 32,
        "measured": measured,
        "not_run": None,
        **more,
    }


def test_results_survive_a_second_run_and_are_mirrored(tmp_path):
    first = results(tmp_path / "out", tmp_path / "mirror")
    first.cell(**cell("a", 100))
    first.put("builds", {"name": "x", "seconds": 1})
    second = results(tmp_path / "out")
    second.cell(**cell("a", 200))
    second.put("builds", {"name": "x", "seconds": 2})
    second.put("builds", {"name": "y", "seconds": 3})
    data = json.loads((tmp_path / "out/results.json").read_text())
    assert len(data["machines"]) == 1 and len(data["invocations"]) == 2 and len(data["cells"]) == 1
    assert data["cells"][0]["measured"]["texts_per_second"] == pytest.approx(200)
    assert [(e["name"], e["seconds"]) for e in data["gpu"]["builds"]] == [("x", 2), ("y", 3)]
    assert json.loads((tmp_path / "mirror/results.json").read_text())["gpu"]["builds"][0]["seconds"] == 1
    assert second.measured(variant="a", batch=256) and second.measured(variant="a", batch=1) is None


def test_percentiles_need_enough_runs():
    few = gpu_timing.latency([float(n) for n in range(1, 20)])
    assert (few["p50"], few["p95"], few["p99"]) == (10, None, None)
    many = gpu_timing.latency([float(n) for n in range(1, 1001)])
    assert (many["p50"], many["p95"], many["p99"]) == (500, 950, 990)
    assert not many["p95_of_few"] and not many["p99_of_few"]


def test_a_batch_has_no_padding_and_no_two_rows_alike():
    feed = gpu_timing.batch_of(np.arange(1_000), 8, 32, ["input_ids", "attention_mask"])
    assert feed["input_ids"].shape == (8, 32) and feed["attention_mask"].all()
    assert len({row.tobytes() for row in feed["input_ids"]}) == 8


def test_lengths_are_rounded_inside_the_profile():
    profile = parse("1x16:8x32:64x120")
    assert [engine_run.rounded(n, profile) for n in (3, 16, 17, 33, 119, 120)] == [16, 16, 32, 48, 120, 120]


def test_the_plan_names_what_there_is_and_nothing_twice():
    folders = [gpu_plan.folder(subject, candidate, mark) for subject, candidate, _, mark in gpu_plan.WANTED]
    assert len(set(folders)) == len(folders)
    for subject, candidate, profiles, _ in gpu_plan.WANTED:
        assert candidate in CANDIDATES
        widest = 256 if subject in (gpu_plan.MINILM.name, gpu_plan.STUDENT.name) else 512
        precision = CANDIDATES[candidate].precision
        found = parse_all(profiles or gpu_plan.SUBJECTS[subject].profiles, widest, precision)
        assert len(found) == 1 or precision not in ONE_PROFILE


def test_the_page_holds_ratios_plots_and_what_was_not_run(tmp_path):
    made = results(tmp_path)
    made.cell(**cell("fp32", 100, provider="cuda", precision="fp32"))
    made.cell(**cell("tensorrt-fp16", 450))
    made.cell(**{**cell("tensorrt-fp8", 1), "measured": None, "not_run": "outside its profile"})
    made.save()
    page = gpu_report.write(made.file, 2.0).read_text("utf-8")
    assert "| 256x32 | tensorrt-fp16 (tensorrt) |" in page and "| 4.50 |" in page
    assert "outside its profile" in page
    plot = (tmp_path / "speed-0-m-256x32.svg").read_text("utf-8")
    assert plot.startswith("<svg") and "450 texts/s" in plot


def test_drawings_escape_names():
    assert "&lt;b&gt;" in gpu_plot.bars("<b>", {"a&b": 1.0}, "x") and "a&amp;b" in gpu_plot.bars("t", {"a&b": 1.0}, "x")
    assert "polyline" in gpu_plot.lines("t", {"s": [(0, 1), (2, 3)]}, "x", "y")


def test_a_section_is_toml():
    tomllib = pytest.importorskip("tomllib")
    text = section("a.b", {"s": 'x"y', "n": 3, "on": True, "l": [0, 1]})
    assert tomllib.loads(text) == {"a": {"b": {"s": 'x"y', "n": 3, "on": True, "l": [0, 1]}}}


def test_without_a_gpu_a_stage_is_refused(cli, tiny_bundle, tmp_path):
    done = cli(gpu_bench, "build", "--out", tmp_path / "o", "--bundle", tiny_bundle)
    assert done.code == 2 and "no CUDA device" in done.err
