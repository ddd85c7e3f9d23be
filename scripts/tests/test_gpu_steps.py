"""The order of `all`, results of two lanes as one, placements of cores, and stages that go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import gpu_bench
from akidb_tools import gpu_all, gpu_cores, gpu_nvml, gpu_point, gpu_results, gpu_steps
from akidb_tools.errors import ToolError
from akidb_tools.gpu_merge import merged
from akidb_tools.gpu_plan import LARGE, MINILM, WANTED, folder
from akidb_tools.gpu_sides import Lineup, Side
from akidb_tools.gpu_stage import CUT, DONE, FAILED, SKIPPED, Stage, Unready
from akidb_tools.gpu_steps import BUILDS, CLIENTS, choose, steps


def simulated(gpus, seconds, took=0.5):
    """Names of the steps in the order of their beginning, as `all` chooses, each taking a part of its most."""
    waiting, running, order, now = steps(gpus), {}, [], 0.0
    while now < seconds:
        while step := choose(waiting, running, seconds - now):
            waiting.remove(step)
            running[step] = now + min(took * step.most, seconds - now)
            order.append(step)
            assert len({gpu for it in running for gpu in it.gpus}) == sum(len(it.gpus) for it in running)
            kinds = {it.kind for it in running}
            assert not {BUILDS, CLIENTS} <= kinds
        if not running:
            break
        now = min(running.values())
        running = {step: end for step, end in running.items() if end > now}
    return order, waiting


def test_both_gpus_begin_with_builds_and_load_tests_come_when_they_are_done():
    order, waiting = simulated(2, 1_500)
    assert [step.stage for step in order[:2]] == ["build", "build"] and {s.gpus for s in order[:2]} == {(0,), (1,)}
    assert not waiting
    for lane_ in (0, 1):  # engines are built before they are measured
        asked = [step for step in steps(2) if step.lane == lane_]
        for n, step in enumerate(asked):
            if step.kind == BUILDS:
                assert all(order.index(later) > order.index(step) for later in asked[n + 1 :])
    builds_of_others = next(n for n, step in enumerate(order) if step.only == gpu_steps.OTHERS)
    assert all(n < builds_of_others for n, step in enumerate(order) if step.kind == CLIENTS)


def test_one_call_reaches_every_load_test():
    order, _ = simulated(2, 480)
    begun = {step.only or step.stage for step in order}
    assert {"placement,single,rate,vectors", "cost,big batches,batching,busy", "two-gpu", "load,swap"} <= begun


def test_one_gpu_does_everything_but_two_gpu():
    order, waiting = simulated(1, 5_000)
    assert not waiting and all(step.gpus == (0,) for step in order)
    assert "two-gpu" not in {step.stage for step in order} and len(order) == len(steps(2)) - 1


def test_nothing_begins_that_could_not_end():
    assert choose(steps(2), {}, 20.0) is None


def test_a_load_test_that_waits_keeps_builds_from_beginning():
    listed = steps(2)
    build, load = listed[0], next(step for step in listed if step.kind == CLIENTS)
    assert choose([load, build], {}, 400.0) is load
    busy = next(step for step in listed if step.kind == "engine" and step.gpus == load.gpus)
    assert choose([load, build], {busy}, 400.0) is None


def test_first_engines_are_ones_of_the_plan_and_name_no_others(tmp_path):
    names = {folder(subject, candidate, mark) for subject, candidate, _, mark in WANTED}
    for model in (MINILM.name, LARGE.name):
        stage = a_stage(tmp_path, only=gpu_steps.first(model))
        assert {n for n in names if stage.wants(n)} == {f"{model}-tensorrt-{c}" for c in gpu_steps.FIRST[model]}


def a_stage(folder, only="", ends=1e12, **options):
    machine = {"id": "m1", "gpu": None}
    results = gpu_results.Results(folder, machine, "x", 0.1)
    return Stage(folder, results, {}, folder, folder, False, 1, 0.1, only, lambda line: None, options, ends)


def states(stage):
    return {e["part"]: e["state"] for e in stage.results.entries("parts")}


def test_a_part_that_breaks_leaves_the_others_be_and_only_what_is_undone_runs_again(tmp_path):
    ran = []

    def broken():
        raise KeyError("gone")

    def unready():
        raise Unready("no engine yet")

    stage = a_stage(tmp_path)
    stage.in_order([("a", broken), ("b", unready), ("c", lambda: ran.append("c"))], least=1, noted_as="http ")
    assert states(stage) == {"http a": FAILED, "http b": CUT, "http c": DONE} and ran == ["c"]
    notes = {e["part"]: e["note"] for e in stage.results.entries("notes")}
    assert notes == {"http a": "KeyError: 'gone'", "http b": "no engine yet"}
    assert stage.options["unfinished"] == 2
    again = a_stage(tmp_path, resume=True)
    again.in_order([(name, lambda name=name: ran.append(name)) for name in "abc"], least=1, noted_as="http ")
    assert ran == ["c", "a", "b"] and not again.results.entries("notes")
    assert set(states(again).values()) == {DONE} and not again.options.get("unfinished")


def test_a_part_that_finds_too_little_time_is_cut(tmp_path):
    stage = a_stage(tmp_path, ends=time.monotonic() + 5)
    stage.in_order([("a", lambda: stage.enough(60)), ("b", lambda: stage.enough(1))], least=1)
    assert states(stage) == {"a": CUT, "b": DONE}
    stage.in_order([("late", lambda: None)], least=60)
    assert states(stage)["late"] == CUT


def lane(folder, rate, at, state):
    machine = {"id": "m1", "gpu": "a GPU"}
    made = gpu_results.Results(folder, machine, f"command of {folder.name}", 0.1)
    facts = {"provider": "tensorrt", "model": "m", "variant": "v", "batch": 1, "tokens": 16, "not_run": None}
    made.cell(**facts, measured={"turns": at, "texts_per_second": rate} if rate else None)
    made.put("builds", {"name": folder.name, "seconds": rate})
    made.put("parts", {"part": "http single", "state": state})
    if state == FAILED:
        made.put("notes", {"part": "http single", "note": "broke"})
    return made.data


def test_lanes_become_one_and_the_same_again_when_merged_again(tmp_path):
    old = lane(tmp_path / "a", 100, "2026-01-01", FAILED)
    new = lane(tmp_path / "b", 200, "2026-01-02", DONE)
    unrun = lane(tmp_path / "c", None, "", DONE)
    once = merged([old, new, unrun])
    assert [c["measured"]["texts_per_second"] for c in once["cells"]] == [200]
    assert len(once["machines"]) == 1 and len(once["invocations"]) == 3
    commands = {e["name"]: once["invocations"][e["invocation"]]["command"] for e in once["gpu"]["builds"]}
    assert commands == {name: f"command of {name}" for name in "abc"}
    assert once["gpu"]["notes"] == []
    assert merged([once, old, new, unrun]) == once


def runner(folder, devices=("0", "1")):
    results = gpu_results.Results(folder / "out", {"id": "m1", "gpu": None}, "x", 0.1)
    return gpu_all.All(folder, results, [], time.monotonic() + 60, lambda line: None, devices)


def test_a_step_is_done_when_its_lane_says_that_nothing_is_left(tmp_path):
    step = next(s for s in steps(2) if s.stage == "faults")
    made, lane_ = runner(tmp_path), a_stage(tmp_path / "lanes" / "0")
    entry = {"stage": "faults", "only": step.only}
    assert not made._done(step)
    lane_.results.put("stages", {**entry, "unfinished": 1})
    assert not made._done(step)
    lane_.results.put("stages", {**entry, "unfinished": 0})
    assert made._done(step) and not made._done(replace(step, only="x"))


def test_steps_to_skip_do_not_begin_and_are_noted_as_skipped(tmp_path):
    made = runner(tmp_path)
    made.ends, made.skip = time.monotonic(), ("http", f"kernels {LARGE.name}")  # no time: none of the others begins
    assert made.run()
    states_of = {e["part"].removeprefix("all "): e["state"] for e in made.results.entries("parts")}
    skipped = {name for name, state in states_of.items() if state == SKIPPED}
    assert {"http load,swap", "http more clients"} < skipped and states_of["faults"] == CUT
    assert skipped == {s.name for s in steps(2) if s.stage == "http" or f"kernels {LARGE.name}" in s.only}
    notes = {e["part"].removeprefix("all "): e["note"] for e in made.results.entries("notes")}
    assert {name for name, note in notes.items() if note == "left out by --skip"} == skipped


def test_first_builds_that_were_cut_go_on_behind_the_measurements(tmp_path):
    build, made = steps(2)[1], runner(tmp_path)
    a_stage(tmp_path / "lanes" / "0").results.put("stages", {"stage": "build", "only": build.only, "unfinished": 2})
    assert not made._later(build)  # nothing to measure with yet
    engine = tmp_path / "bundles" / f"{MINILM.name}-tensorrt-tf32"
    engine.mkdir(parents=True)
    (engine / "manifest.json").touch()
    assert made._later(build) and not made._later(steps(2)[0])


def test_a_stage_that_overstays_is_ended_with_what_it_started(tmp_path):
    code = "import subprocess,sys,time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    made = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert made.stdout.readline() == b"up\n"
    gpu_all._end(made)
    assert made.returncode != 0
    for _ in range(50):  # the grandchild is of the group
        try:
            os.killpg(made.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the group is still there")


def test_all_refuses_programs_that_are_missing(cli, tiny_bundle, tmp_path):
    done = cli(gpu_bench, "all", "--rehearse", "--out", tmp_path, "--bundle", tiny_bundle, "--sidecar", "/nowhere/x")
    assert done.code == 2 and "--sidecar /nowhere/x is not there" in done.err


class Noting:
    def __init__(self):
        self.said, self.rehearse, self.results = [], False, self

    def put(self, kind, entry):
        self.said.append((kind, entry["variant"], entry["instead"]))

    def say(self, line):
        pass


def test_a_refused_engine_is_followed_by_the_fastest_of_another_precision(tmp_path):
    def side(variant, precision):
        return Side("served", tmp_path, "tensorrt", variant, precision, variant)

    stage = Noting()
    found = Lineup(stage, [side("fp8-a", "fp8"), side("fp8-b", "fp8"), side("fp16", "fp16"), side("int8", "int8")])
    found.refuse(found.first, "its answers differ")
    assert found.first.variant == "fp16" and stage.said == [("refused", "fp8-a", "fp16")]
    for expected in ("int8", "fp8-b"):
        found.refuse(found.first, "no")
        assert found.first.variant == expected
    found.refuse(found.first, "no")
    with pytest.raises(ToolError, match="its answers differ"):
        _ = found.first


def test_cores_are_given_to_server_and_clients_without_overlap():
    found = gpu_cores.placements(range(32))
    assert found["shared"] == (None, None)
    assert found["clients on a quarter"] == (list(range(24)), list(range(24, 32)))
    assert gpu_cores.placements([5]) == {"shared": (None, None)}
    assert "clients on half" in gpu_cores.placements([0, 1])


def test_a_child_keeps_to_its_cores_and_its_time_is_counted():
    mine = gpu_cores.allowed()
    code = "import os,time; t=time.process_time\nwhile t()<.2: pass\nprint(sorted(os.sched_getaffinity(0)))"
    with gpu_cores.Spent(os.getpid()) as spent, gpu_cores.on(mine[:1]):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(mine[:1]) and gpu_cores.allowed() == mine
    assert spent.cores()["clients"] > 0 and spent.cores()["of"] == len(mine)
    assert gpu_cores.cpu_seconds(2**22 + 1) is None


@pytest.mark.parametrize(("value", "named"), [(None, "1"), ("3,5", "5"), ("GPU-aa, GPU-bb", "GPU-bb"), ("4", "1")])
def test_nvml_is_asked_for_the_gpu_that_cuda_counts(monkeypatch, value, named):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpu_nvml.visible(1) == named


def test_what_the_server_counted_is_told_by_growth():
    lane_ = '{model="m",model_version="v"}'

    def metrics(texts, batches, seconds, tokens):
        return "\n".join(
            [
                "# HELP akidb_batch_size Texts in a batch",
                f'akidb_batch_size_bucket{{model="m",le="+Inf"}} {batches}',
                f"akidb_batch_size_sum{lane_} {texts}",
                f"akidb_batch_size_count{lane_} {batches}",
                f"akidb_engine_seconds_total{lane_} {seconds}",
                f"akidb_batch_tokens_total{lane_} {tokens}",
                f"akidb_batch_padded_tokens_total{lane_} {tokens * 1.2}",
            ]
        )

    before, after = (gpu_point.totals(metrics(*it)) for it in ((10, 1, 1.0, 200), (1_010, 11, 1.5, 20_200)))
    found = gpu_point.growth(before, after, 500.0)
    assert found["tokens_per_text"] == 20 and found["padded_tokens_per_text"] == 24
    assert found["engine_ms_a_batch"] == 50 and found["engine_texts_per_second"] == 2_000
    assert found["engine_share"] == 0.25
    assert gpu_point.growth(after, after, 0.0) is None
