"""`build_tensorrt_engine.py` without a GPU: refusals by name, lineage, the graph it writes, what its manifest says."""

from __future__ import annotations

import json

import onnx
import pytest
import recorded_engine

import build_tensorrt_engine
import quantize_model
from akidb_tools import (
    bundle,
    bundle_reader,
    engine_build,
    engine_invariance,
    engine_source,
    tensorrt_native,
    tensorrt_provider,
)
from akidb_tools.errors import BadInput, ToolError

PROFILE = "1x16:4x16:8x24"


@pytest.fixture(scope="module")
def int8_bundle(tiny_bundle, sentences):
    """The CPU's INT8 bundle beside its parent."""
    output = tiny_bundle.parent / "tiny-int8"
    arguments = ["--model", str(tiny_bundle), "--output", str(output), "--calibration-data", str(sentences)]
    quantize_model.main([*arguments, "--allow-failed", "--any-language", "--evaluate", "64", "--calibrate", "64"])
    assert (output / "manifest.json").is_file()
    return output


@pytest.fixture
def build(cli, sentences, tmp_path):
    def _build(*arguments: object):
        own = ("--graph-only", "--calibration-data", sentences, "--test-dataset", sentences, "--profile", PROFILE)
        texts = ("--calibrate", "64", "--evaluate", "64", "--any-language")
        return cli(build_tensorrt_engine, "--output", tmp_path / "engine.trt", *own, *texts, *arguments)

    return _build


def test_without_tensorrt_everything_missing_is_named(cli, tiny_bundle, tmp_path):
    done = cli(
        build_tensorrt_engine,
        "--model",
        tiny_bundle,
        "--precision",
        "fp16",
        "--output",
        tmp_path / "o",
        "--profile",
        PROFILE,
    )
    assert done.code == 2
    for missing in ("ONNX Runtime", "libnvinfer.so.10", "no CUDA device", "docs/GPU.md"):
        assert missing in done.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("start", [b"ftrt", b"ptrt"])
def test_a_raw_plan_is_refused_by_name(build, tmp_path, start):
    plan = tmp_path / "model.plan"
    plan.write_bytes(start + bytes(100))
    done = build("--model", plan, "--precision", "fp16")
    assert done.code == 2 and "raw TensorRT plan" in done.err and str(plan) in done.err


def test_another_file_is_refused_by_name(build, tmp_path):
    file = tmp_path / "model.trt"
    file.write_text("hello")
    done = build("--model", file, "--precision", "fp16")
    assert done.code == 2 and "neither a bundle nor an ONNX file" in done.err
    assert "is missing" in build("--model", tmp_path / "absent", "--precision", "fp16").err or done.code == 2


def test_an_int8_cpu_bundle_is_traced_to_its_parent(build, tiny_bundle, int8_bundle, tmp_path):
    done = build("--model", int8_bundle, "--precision", "fp16", "--json")
    assert done.code == 0, done.err
    assert "was traced to its fp32 parent tiny-fp32 by lineage" in done.err
    report = json.loads(done.out)
    assert report["parent"] == bundle.folder_digest(tiny_bundle) == report["fp32"]
    assert report["traced"]


def test_an_orphan_says_what_to_give(build, int8_bundle, tmp_path):
    alone = tmp_path / "alone" / "tiny-int8"
    alone.mkdir(parents=True)
    for file in int8_bundle.iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    done = build("--model", alone, "--precision", "fp16")
    assert done.code == 2 and "is not in" in done.err


def test_an_engine_is_not_built_from_an_engine(tiny_bundle, tmp_path):
    made = tmp_path / "tiny-tensorrt"
    made.mkdir()
    parent = bundle_reader.read(tiny_bundle)
    wrapped = tensorrt_native.wrap(b"ftrt plan", parent.load(), "9.0")
    onnx.checker.check_model(wrapped)
    (made / "model.onnx").write_bytes(wrapped.SerializeToString())
    for name in ("tokenizer.json", "reference.json"):
        (made / name).write_bytes((tiny_bundle / name).read_bytes())
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    next(f for f in manifest["files"] if f["role"] == "engine")["sha256"] = bundle.sha256(made / "model.onnx")
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="compiled TensorRT engine"):
        engine_source.find(made, "fp16")
    assert tensorrt_native.plan_of(made / "model.onnx") == b"ftrt plan"
    tensorrt_provider.check_whole(made / "model.onnx")


@pytest.mark.parametrize(("precision", "pairs"), [("fp16", 0), ("int8", 1), ("fp8", 1)])
def test_the_graph_is_written_proven_and_described(build, tiny_bundle, tmp_path, precision, pairs):
    done = build("--model", tiny_bundle, "--precision", precision, "--allow-failed")
    assert done.code == 0, done.err
    folder = tmp_path / "engine.trt"
    made = bundle_reader.read(folder)
    name = f"{precision}-qdq" if pairs else precision
    assert made.manifest["variant"] == {"name": name, "precision": precision}
    # Nothing was compiled: the bundle must not claim to be an engine.
    assert made.manifest["target"] == {
        "provider": "portable",
        "compute_capability": None,
        "tensorrt_version": None,
        "shape_profile": None,
    }
    lineage = made.manifest["lineage"]
    assert lineage["parent_digest"] == bundle.folder_digest(tiny_bundle)
    assert (lineage["calibration_digest"] is None) == (pairs == 0)
    evaluation = made.manifest["evaluation"]
    assert evaluation["kind"] == "quality" and evaluation["n"] == 64 and evaluation["mean_cosine"] > 0.98
    # Alone, eight together and all of them: one graph on the CPU must not care.
    assert evaluation["batch_invariance"] > 0.9999 == evaluation["gate"]["batch_invariance"]
    report = json.loads((folder / "build-report.json").read_text())
    assert report["artifact"] == made.digest and report["engines"][0]["profile"] == PROFILE
    assert "build-report.json" not in [f["path"] for f in made.manifest["files"]]
    kinds = [node.op_type for node in onnx.load(made.engine).graph.node]
    assert (kinds.count("QuantizeLinear") > 0) == (pairs > 0) == (kinds.count("DequantizeLinear") > 0)


def test_several_profiles_are_several_files(build, tiny_bundle, tmp_path):
    done = build("--model", tiny_bundle, "--precision", "fp16", "--profile", "1x16:1x16:2x16")
    assert done.code == 0, done.err
    made = bundle_reader.read(tmp_path / "engine.trt")
    roles = {f["path"]: f["role"] for f in made.manifest["files"]}
    assert roles["model.onnx"] == "engine" and roles["model.profile0.onnx"] == "engine_data"


def test_an_engine_of_a_qdq_bundle_takes_its_pairs(build, tiny_bundle, tmp_path):
    # Beside its parent, where lineage is looked for.
    folder = tiny_bundle.parent / "tiny-int8-qdq"
    assert (
        build("--model", tiny_bundle, "--precision", "int8", "--allow-failed", "--output", folder, "--force").code == 0
    )
    done = build("--model", folder, "--precision", "int8", "--allow-failed", "--json")
    assert done.code == 0, done.err
    assert "the QDQ pairs are those of tiny-int8-qdq" in done.err
    report = json.loads(done.out)
    assert report["parent"] == bundle.folder_digest(folder) and report["fp32"] == bundle.folder_digest(tiny_bundle)
    assert build("--model", folder, "--precision", "fp8", "--allow-failed", "--json", "--force").code == 0


def test_a_missed_gate_writes_nothing(build, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(build_tensorrt_engine.run.__globals__["GATES"], "int8", 1.1)
    done = build("--model", tiny_bundle, "--precision", "int8")
    assert done.code == 1 and "mean_cosine" in done.err and "(gate 1.1)" in done.err
    assert not (tmp_path / "engine.trt").exists()


def test_a_vector_that_depends_on_its_batch_writes_nothing(build, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_invariance, "CPU_LEAST", 1.1)
    done = build("--model", tiny_bundle, "--precision", "fp16", "--profile", "1x16:1x16:2x16")
    assert done.code == 1 and "batch_invariance" in done.err and "(gate 1.1)" in done.err
    assert "build it with one --profile" in done.err and not (tmp_path / "engine.trt").exists()


@pytest.mark.parametrize(
    ("precision", "cosine", "kept"),
    [
        ("fp16", 0.99995, True),
        ("fp16", 0.9995, False),
        ("int8", 0.9937, True),
        ("int8", 0.98, False),
        ("fp8", 0.9937, True),
        ("fp8", 0.98, False),
    ],
)
def test_how_far_an_engines_vectors_may_differ_by_batch_follows_the_precision(
    tiny_bundle, tmp_path, precision, cosine, kept
):
    made = recorded_engine.job(tiny_bundle, tmp_path / "o", precision)
    proof = {"mean_cosine": 0.9995, "batch_invariance": cosine, "gate": engine_build.gates(made)}
    if kept:
        assert engine_build._check(made, proof, {"between": None})
        return
    with pytest.raises(ToolError, match=f"batch_invariance {cosine} .* batches of 1 and batches of 8 differ"):
        engine_build._check(made, proof, {"between": "batches of 1 and batches of 8"})


@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_graph_on_the_cpu_has_no_kernels_by_shape_to_excuse_it(tiny_bundle, tmp_path, precision):
    graph = recorded_engine.job(tiny_bundle, tmp_path / "o", precision, graph_only=True)
    assert engine_build.gates(graph)["batch_invariance"] == 0.9999


def test_a_part_of_a_graph_is_no_engine(tiny_bundle):
    with pytest.raises(Exception, match="TensorRT took only a part of the graph"):
        tensorrt_provider.check_whole(tiny_bundle / "model.onnx")


def test_a_provider_that_is_not_there_is_not_replaced_silently(tiny_bundle):
    with pytest.raises(Exception, match="TensorrtExecutionProvider was asked for and ONNX Runtime fell back"):
        tensorrt_provider.session(tiny_bundle / "model.onnx", "tensorrt")
