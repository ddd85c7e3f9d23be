"""A rehearsal of the GPU benchmark's stages with the real programs: sidecar, load test, control plane, `akidb`.

Needs the debug binaries that `cargo test` builds. Engines are graphs of a tiny model under MiniLM's name, on the CPU.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_clients import binary

import export_onnx
import gpu_bench
from akidb_tools import bundle, five_models, gpu_build, seeded

NAME = "all-MiniLM-L6-v2"


class Bench:
    """`run(stage, options...)` with one folder of work and of results."""

    def __init__(self, cli, folder, fp32, texts):
        self._cli, self.out, self.work = cli, folder / "out", folder / "work"
        programs = [f"--{name.removeprefix('akidb-')}={binary(name)}" for name in ("akidb-sidecar", "akidb-loadtest")]
        self._shared = ["--rehearse", f"--work={self.work}", f"--bundle={fp32}", f"--texts={texts}", *programs]

    def run(self, stage, *options, code=0):
        done = self._cli(gpu_bench, stage, f"--out={self.out}", *self._shared, "--max-seconds=120", *options)
        assert done.code == code, done.err
        return done.err

    def entries(self, kind):
        return json.loads((self.out / "results.json").read_text("utf-8"))["gpu"].get(kind, [])


@pytest.fixture(scope="module")
def made(minilm, tmp_path_factory, sentences):
    """The fp32 bundle, of a tiny model with MiniLM's own tokenizer, and texts."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "checkpoint").mkdir()
    model = replace(five_models.find("bert-base-uncased"), name=NAME, shape=gpu_build.TINY)
    seeded.write(folder / "checkpoint", model, 0, next(minilm.glob("*tokenizer.json")), lambda line: None)
    arguments = ["--model", str(folder / "checkpoint"), "--name", NAME, "--output", str(folder / "fp32")]
    assert export_onnx.main(arguments) == 0
    lines = sentences.read_text("utf-8").splitlines()
    (folder / "texts").mkdir()
    (folder / "texts/calibration-10k.txt").write_text("\n".join(lines[:200]) + "\n", "utf-8")
    (folder / "texts/test-10k.json").write_text(json.dumps(lines[200:]), "utf-8")
    return folder


@pytest.fixture
def bench(cli, made):
    """With two engines, built once."""
    found = Bench(cli, made, made / "fp32", made / "texts")
    found.run("build", f"--only={NAME}-tensorrt-tf32$,{NAME}-tensorrt-int8-mid$", "--resume")
    assert {e["candidate"] for e in found.entries("builds") if not e["not_built"]} == {"tf32", "int8-mid"}
    return found


def test_lone_texts_and_client_batches_are_measured_with_what_the_server_says(bench):
    said = bench.run("http", "--only=single$,rate,cost,big batches,batching")
    points = {(e["part"], e["side"]) for e in bench.entries("http")}
    parts = ("single", "rate", "rate again", "cost")
    wanted = {(part, side) for part in parts for side in ("served", "baseline")} | {("big", "served")}
    assert wanted | {("batching on", "served"), ("batching off", "served")} <= points
    for e in bench.entries("http"):
        assert not e["failed"] and e["requests_per_second"] > 0 and e["cores"]["server"] > 0
        assert 19 < e["server"]["tokens_per_text"] <= e["server"]["padded_tokens_per_text"] < 25
    assert {e["state"] for e in bench.entries("parts")} == {"done"}
    cost = bench.entries("costs")[-1]
    assert cost["served"] is None or cost["served"]["usd_a_million_tokens"] > 0
    assert "capacity cost served" in said and bench.entries("raw")[0]["measured"]["texts_per_second"] > 0


def test_an_engine_that_the_sidecar_refuses_gives_way_to_the_next(bench):
    spoilt = bench.work / f"bundles/{NAME}-tensorrt-tf32"
    before = {file: file.read_bytes() for file in (spoilt / "reference.json", spoilt / "manifest.json")}
    reference, manifest = (json.loads(data) for data in before.values())
    reference["vectors"] = [[-value for value in vector] for vector in reference["vectors"]]
    (spoilt / "reference.json").write_text(json.dumps(reference), "utf-8")
    for entry in manifest["files"]:
        if entry["path"] == "reference.json":
            entry["bytes"] = (spoilt / "reference.json").stat().st_size
            entry["sha256"] = bundle.sha256(spoilt / "reference.json")
    (spoilt / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    try:
        bench.run("http", "--only=batching", "--serve=tensorrt-tf32")
    finally:
        for file, data in before.items():
            file.write_bytes(data)
    refused = bench.entries("refused")
    assert [(e["variant"], e["instead"]) for e in refused] == [("tensorrt-tf32", "tensorrt-int8-mid")]
    assert "reference vectors" in refused[0]["reason"]
    assert {e["variant"] for e in bench.entries("http") if e["part"].startswith("batching")} >= {"tensorrt-int8-mid"}


def test_a_bundle_that_is_not_whole_is_left_out(bench):
    graph = bench.work / f"bundles/{NAME}-tensorrt-tf32/model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        bench.run("http", "--only=batching")
    finally:
        graph.write_bytes(whole)
    notes = {e["part"]: e["note"] for e in bench.entries("notes")}
    assert "sha256 differs" in notes[f"bundle {NAME}-tensorrt-tf32"]


def test_the_first_answer_is_timed_from_the_alias_and_the_swap_fails_nothing(bench):
    binary("akidb-control-plane"), binary("akidb")
    bench.run("http", "--only=load,swap")
    loads = {e["variant"]: e for e in bench.entries("loads")}
    assert set(loads) == {"tensorrt-tf32", "tensorrt-int8-mid"}
    assert all(e["first_answer_seconds"] > 0 and e["status"] == 200 for e in loads.values())
    swap = bench.entries("swaps")[-1]
    assert swap["failed"] == 0 and swap["all_answered"] and len(swap["alias"]) == 3
    assert [move["state"] for move in swap["moves"]] == ["ready", "ready"]


def test_the_sidecar_names_what_is_misspelt(bench):
    bench.run("faults", "--only=misspelt setting,misspelt shape,misspelt provider$,flipped byte$")
    cases = {e["case"]: e for e in bench.entries("faults")}
    assert len(cases) == 4 and all(e["ok"] for e in cases.values()), cases
    assert "cuda_graph" in cases["misspelt setting of the sidecar"]["reason"]


def test_two_gpus_are_compared_by_one_engine(bench):
    bench.run("two-gpu")
    found = bench.entries("two_gpu")[-1]
    assert found["ratio"] == pytest.approx(found["texts_per_second"]["2"] / found["texts_per_second"]["1"])
    assert found["variant"].startswith("tensorrt-")
