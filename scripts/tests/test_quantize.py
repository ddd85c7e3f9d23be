"""Quantization of a tiny model: the graph against arithmetic, the bundle's contract, the gates, repeatability."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compare_speed
import quantize_model
import validate_quantization
from akidb_tools import (
    bundle_reader,
    channel_moves,
    int8_graph,
    linear_layers,
    quality,
    quantize,
    runtime,
    static_ranges,
)
from akidb_tools.activations import Seen

EPOCH = "1700000000"


@pytest.fixture(autouse=True)
def _fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture
def quantized(tiny_bundle, sentences, tmp_path, cli):
    def _quantized(*more, name="out"):
        given = ["--model", tiny_bundle, "--calibration-data", sentences, "--output", tmp_path / name, "--any-language"]
        return cli(quantize_model, *given, *more)

    return _quantized


def one_product(weight, bias):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "b"], ["y"])]
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["m", k]) for n, k in zip("xy", weight.shape, strict=True)
    ]
    constants = [numpy_helper.from_array(v, n) for n, v in (("w", weight), ("b", bias))]
    graph = helper.make_graph(nodes, "one", shapes[:1], shapes[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("static", [None, 0.05])
def test_int8_product_is_what_the_arithmetic_says(moved, static):
    random = np.random.RandomState(3)
    weight, bias = random.standard_normal((24, 40)).astype(np.float32), random.standard_normal(40).astype(np.float32)
    rows = (random.standard_normal((7, 24)) * np.linspace(0.1, 3, 7)[:, None]).astype(np.float32)
    shift = random.standard_normal(24).astype(np.float32) if moved else None
    scale = np.exp(random.standard_normal(24)).astype(np.float32) if moved else None
    model = one_product(weight, bias)
    (group,) = linear_layers.groups(model)
    graph = int8_graph.Int8Graph(model)
    graph.quantize(group, int8_graph.RowPlan(shift, scale, static))
    got = runtime.session(graph.finish()).run(None, {"x": rows})[0]
    x = (rows - shift) / scale if moved else rows
    step = np.abs(x).max(axis=1, keepdims=True) / 127 if static is None else static
    whole, column = int8_graph.quantize_columns(weight * scale[:, None] if moved else weight)
    expected = np.clip(np.rint(x / step), -128, 127) * step @ (whole * column) + bias
    expected += shift @ weight if moved else 0
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max() if moved else 1e-4)


def test_moves_help_where_one_channel_is_loud():
    random = np.random.RandomState(5)
    rows = random.standard_normal((400, 16)).astype(np.float32)
    rows[:, 3] = 60 + 5 * rows[:, 3]
    (group,) = linear_layers.groups(
        one_product(random.standard_normal((16, 32)).astype(np.float32), np.zeros(32, np.float32))
    )
    seen = Seen(rows.min(axis=0), rows.max(axis=0), rows)
    plain, best = channel_moves.plain(group, seen), channel_moves.best_rows(group, seen)
    assert best.error < plain.error / 20 and "mean" in best.form
    assert channel_moves.best_static(group, seen).error < channel_moves.best_static(group, seen, move=False).error / 20


def test_calibrators_ignore_the_rarest_value_but_not_the_bulk():
    values = np.abs(np.random.RandomState(0).standard_normal(200_000)).astype(np.float32)
    values[0] = 100
    found = static_ranges.reaches(values, 100.0)
    assert found["maximum"] == 100 and 3 < found["percentile"] < 5 and 2 < found["entropy"] < 10


def test_int8_bundle_keeps_its_contract(quantized, tiny_bundle, tmp_path, sentences):
    done = quantized()
    assert done.code == 0, done.err
    assert "✅ Size: " in done.out and "✅ Cosine similarity: " in done.out
    parent, child = bundle_reader.read(tiny_bundle), bundle_reader.read(tmp_path / "out")
    manifest = child.manifest
    assert manifest["variant"] == {"name": "int8", "precision": "int8"} and manifest["target"]["provider"] == "cpu"
    assert manifest["lineage"]["parent_digest"] == parent.digest
    assert manifest["lineage"]["calibration_digest"] == bundle_reader.bundle.sha256(sentences)
    assert child.model == parent.model
    evaluation = manifest["evaluation"]
    assert evaluation["kind"] == "quality" and evaluation["passed"] and evaluation["gate"] == {"mean_cosine": 0.99}
    assert evaluation["n"] >= 16 and evaluation["mean_cosine"] > 0.99
    texts, vectors = bundle_reader.reference_rows(child)
    rows = [child.encoder().ids(t) for t in texts]
    again = runtime.embed(runtime.session(child.engine), rows, child.output, 1)
    assert quality.row_cosines(vectors, again).min() > 0.99999
    report = json.loads((tmp_path / "out.report.json").read_text("utf-8"))
    assert report["kernels"]["linear_int8"] == 12 and report["kernels"]["linear_float"] == 0
    assert report["batch_invariance"] > 0.99999
    assert len(report["layers"]) == 8 and all(layer["cosine_loss"] is not None for layer in report["layers"])
    assert not {n.op_type for n in onnx.load(child.engine).graph.node} & {"DynamicQuantizeLinear"}


def test_same_seed_same_bytes(quantized, tmp_path):
    assert quantized(name="a").code == quantized(name="b").code == 0
    for name in ("model.onnx", "tokenizer.json", "reference.json", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_one_file_form_is_found_by_lineage(quantized, tiny_bundle, sentences, tmp_path, cli):
    (tmp_path / "tiny-fp32").symlink_to(tiny_bundle)
    assert quantized(name="tiny-INT8.onnx").code == 0
    files = {p.name for p in tmp_path.iterdir() if p.name.startswith("tiny-INT8")}
    assert files == {
        f"tiny-INT8.{e}" for e in ("onnx", "manifest.json", "tokenizer.json", "reference.json", "report.json")
    }
    done = cli(validate_quantization, "--model", tmp_path / "tiny-INT8.onnx", "--test-dataset", sentences)
    assert done.code == 0 and "every gate passed" in done.out, done.err
    again = quantized(name="tiny-INT8.onnx")
    assert again.code == 2 and "--force" in again.err
    assert quantized("--force", name="tiny-INT8.onnx").code == 0


def test_a_model_may_be_one_file_too(tiny_bundle, sentences, tmp_path, cli):
    for entry in tiny_bundle.iterdir():
        (tmp_path / entry.name).write_bytes(entry.read_bytes())
    (tmp_path / "manifest.json").rename(tmp_path / "model.manifest.json")
    given = ["--calibration-data", sentences, "--any-language", "--recipe", "int8-rows-plain"]
    done = cli(quantize_model, "--model", tmp_path / "model.onnx", "--output", tmp_path / "small", *given)
    assert done.code == 0, done.err


def test_fp8_is_a_qdq_graph_that_runs_in_emulation(quantized, tmp_path):
    done = quantized("--precision", "fp8", "--target", "tensorrt")
    assert done.code == 0, done.err
    model = onnx.load(tmp_path / "out/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = [n.op_type for n in model.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 8 + 12
    scales = [t for t in model.graph.initializer if t.name.endswith("fp8_scale")]
    assert {t.data_type for t in scales} == {TensorProto.FLOAT} and len(scales) == 20
    zero = next(t for t in model.graph.initializer if t.name == "fp8/zero")
    assert zero.data_type == TensorProto.FLOAT8E4M3FN
    manifest = json.loads((tmp_path / "out/manifest.json").read_text("utf-8"))
    assert manifest["variant"] == {"name": "fp8", "precision": "fp8"} and manifest["target"]["provider"] == "portable"
    assert 0.99 < manifest["evaluation"]["mean_cosine"] < 1


def test_missed_gate_writes_nothing_unless_allowed(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "GATE", {"mean_cosine": 1.5})
    done = quantized()
    assert done.code == 1 and "below its gate 1.5; nothing was written" in done.err
    assert not list(tmp_path.glob("*out*"))
    done = quantized("--allow-failed")
    assert done.code == 1 and "❌" in done.out
    assert bundle_reader.read(tmp_path / "out").manifest["evaluation"]["passed"] is False


def test_sensitive_layers_stay_fp32_until_the_aims_are_met(quantized, tmp_path, monkeypatch):
    recipe = quantize.choose("int8", "int8", None)
    strict = {**recipe.__dict__, "aims": {**recipe.aims, "min_cosine": 0.99999}, "most_size": 2.0}
    monkeypatch.setattr(quantize, "choose", lambda *_: type(recipe)(**strict))
    assert quantized().code == 0
    layers = json.loads((tmp_path / "out.report.json").read_text("utf-8"))["layers"]
    left = [layer for layer in layers if layer["form"] == "fp32"]
    assert left and max(layers, key=lambda layer: layer["cosine_loss"]) in left


def test_seeded_parent_is_marked_and_not_measured(tiny_bundle, sentences, tmp_path, cli):
    for entry in tiny_bundle.iterdir():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / entry.name).write_bytes(entry.read_bytes())
    file = tmp_path / "in/manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    manifest["model"]["seeded"] = True
    file.write_text(json.dumps(manifest), "utf-8")
    given = ["--calibration-data", sentences, "--any-language"]
    done = cli(quantize_model, "--model", tmp_path / "in", "--output", tmp_path / "out", *given)
    assert done.code == 0 and "seeded" in done.out
    evaluation = bundle_reader.read(tmp_path / "out").manifest["evaluation"]
    assert evaluation == {"kind": "not_applicable", "passed": False, "reason": "seeded"}
    report = json.loads((tmp_path / "out.report.json").read_text("utf-8"))
    assert all(layer["cosine_loss"] is None for layer in report["layers"])


def test_speeds_are_compared_in_turns(quantized, tiny_bundle, tmp_path, cli):
    assert quantized("--recipe", "int8-rows-plain").code == 0
    done = cli(compare_speed, tiny_bundle, tmp_path / "out", "--runs", 2)
    assert done.code == 0 and "| tiny@int8-rows-plain |" in done.out and done.out.count("| 1.00 |") >= 3
    assert cli(compare_speed, tmp_path / "nowhere").code == 2


def test_quality_figures():
    random = np.random.RandomState(1)
    a = random.standard_normal((60, 8)).astype(np.float32)
    same, other = quality.agreement(a, a * 3), quality.agreement(a, random.standard_normal((60, 8)).astype(np.float32))
    assert same.mean_cosine == pytest.approx(1) and same.recall_at_10 == 1
    assert other.recall_at_10 < 0.4
    broken = a.copy()
    broken[7] = np.nan
    assert quality.agreement(a, broken).min_cosine == 0
    vectors = {t: np.array(v, np.float32) for t, v in {"x": [1, 0], "y": [1, 0.1], "z": [0, 1], "w": [-1, 0]}.items()}
    pairs = [("x", "y", 3.0), ("x", "z", 1.0), ("x", "w", 0.0)]
    assert quality.spearman(vectors, pairs) == pytest.approx(1)
    assert quality.spearman(vectors, [(a, b, -s) for a, b, s in pairs]) == pytest.approx(-1)
