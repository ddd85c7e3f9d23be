"""Candidate graphs: valid ONNX, the function of fp32 (or nearly, once quantized), pairs where they were asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import tiny

from akidb_tools import (
    bundle_reader,
    engine_calibration,
    engine_graph,
    engine_half,
    engine_qdq,
    engine_smooth,
    quality,
    runtime,
)
from akidb_tools.engine_build import candidate_graph
from akidb_tools.engine_calibration import Calibration, GroupRange
from akidb_tools.engine_candidates import CANDIDATES, choose
from akidb_tools.engine_qdq import Placement
from akidb_tools.errors import BadInput
from akidb_tools.linear_layers import groups

LEAST = {"fp32": 0.99999, "tf32": 0.99999, "fp16": 0.9999, "int8": 0.98, "fp8": 0.98}


@pytest.fixture(scope="module")
def parent(tiny_bundle):
    return bundle_reader.read(tiny_bundle)


@pytest.fixture(scope="module")
def rows(parent, sentences):
    encoder = parent.encoder()
    return [encoder.ids(text) for text in sentences.read_text("utf-8").splitlines()[:64]]


@pytest.fixture(scope="module")
def calibration(parent, rows):
    return engine_calibration.measure(parent.load(), "key", rows, seed=0, seeded=False, say=lambda _: None)


@pytest.fixture(scope="module")
def expected(parent, rows):
    return runtime.embed(runtime.session(parent.engine), rows, parent.output)


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_valid_and_keeps_the_function(name, parent, rows, calibration, expected):
    candidate = CANDIDATES[name]
    graph, found = candidate_graph(parent.load(), candidate, calibration)
    assert all(found.values()), f"a rewrite found nothing: {found}"
    assert (engine_qdq.count(graph) > 0) == (candidate.placement is not None)
    onnx.checker.check_model(graph, full_check=True)
    assert [i.name for i in graph.graph.input] == parent.manifest["graph"]["inputs"]
    assert [o.name for o in graph.graph.output] == [parent.output]
    got = runtime.embed(runtime.session(graph, fp8=True), rows, parent.output)
    assert quality.row_cosines(expected, got).min() >= LEAST[candidate.precision]


def test_rewrites_are_counted_and_change_the_graph(parent):
    before = parent.load()
    kinds = [node.op_type for node in before.graph.node]
    after, found = engine_graph.apply(before, ("scale", "qkv", "gelu", "pool"))
    assert found == {"scale": tiny.LAYERS, "qkv": tiny.LAYERS, "gelu": tiny.LAYERS, "pool": 1}
    new = [node.op_type for node in after.graph.node]
    assert (new.count("Gelu"), new.count("Erf"), new.count("Split")) == (tiny.LAYERS, 0, tiny.LAYERS)
    assert kinds == [node.op_type for node in before.graph.node]  # the given graph is as it was
    assert {t.name for t in after.graph.initializer} <= {n for node in after.graph.node for n in node.input}


def test_roles_come_from_shapes(parent):
    assert [engine_qdq.role(g) for g in groups(parent.load())] == ["qkv", "out", "up", "down"] * tiny.LAYERS
    fused, _ = engine_graph.apply(parent.load(), ("qkv",))
    assert [engine_qdq.role(g) for g in groups(fused)] == ["qkv", "out", "up", "down"] * tiny.LAYERS


def fp8(parent, calibration, *roles):
    names = engine_qdq.chosen(parent.load(), calibration, Placement(roles))
    return engine_qdq.build(parent.load(), {n: calibration.groups[n].reach for n in names}, "fp8")


def test_a_placement_puts_pairs_there_and_nowhere_else(parent, calibration):
    graph = fp8(parent, calibration, "up", "down")
    made = {node.output[0]: node for node in graph.graph.node}
    for group in groups(parent.load()):
        quantized = engine_qdq.role(group) in ("up", "down")
        for layer in group.layers:
            product = made[layer.node.output[0]]
            assert [made[n].op_type if n in made else None for n in product.input].count("DequantizeLinear") == (
                2 if quantized else 0
            )
    assert engine_qdq.count(graph) == 2 * 2 * tiny.LAYERS


def test_query_key_and_value_share_one_quantized_input(parent, calibration):
    graph = fp8(parent, calibration, "qkv")
    assert engine_qdq.count(graph) == (1 + 3) * tiny.LAYERS


def test_smoothing_is_exact_and_free_where_it_can_be(parent, calibration, rows, expected):
    rng = np.random.RandomState(0)
    before = parent.load()
    moved = {}
    for group in groups(before):
        scale, shift = rng.uniform(0.5, 2, group.depth), rng.uniform(-1, 1, group.depth)
        moved[group.input] = GroupRange(1.0, 2.0, shift.astype(np.float32), scale.astype(np.float32), plain=3.0)
    graph, reaches = engine_smooth.apply(before, Calibration("", moved, {}), list(moved))
    onnx.checker.check_model(graph, full_check=True)
    assert len(reaches) == len(moved)
    got = runtime.embed(runtime.session(graph), rows, parent.output)
    assert quality.row_cosines(expected, got).min() > 0.99999
    # Nothing stands between a LayerNorm, the attention or Gelu and the product; Gelu's result is not moved.
    made = {node.output[0]: node.op_type for node in graph.graph.node}
    assert [made[g.input] for g in groups(graph)] == ["LayerNormalization", "Reshape", "LayerNormalization", "Mul"] * 2
    assert list(reaches.values()) == [2.0, 2.0, 2.0, 3.0] * tiny.LAYERS


def test_layers_with_a_large_error_are_left_alone(parent, calibration):
    errors = sorted(c.plain_error for c in calibration.groups.values())
    placement = Placement(engine_qdq.ROLES, False, errors[2])
    assert len(engine_qdq.chosen(parent.load(), calibration, placement)) == 3


def test_e4m3_is_that_of_onnx():
    values = np.array([0.0, 1.0, 447.0, 1000.0, -0.3, 2**-9], np.float32)
    got = onnx.numpy_helper.to_array(engine_qdq.to_e4m3(values, "x")).astype(np.float32)
    np.testing.assert_array_equal(got, np.array([0, 1, 448, 448, -0.3125, 2**-9], np.float32))


def test_no_layer_of_a_placement_is_refused(parent, calibration):
    with pytest.raises(BadInput, match="no linear layer is one of nothing"):
        engine_qdq.chosen(parent.load(), calibration, Placement(("nothing",)))


def test_half_leaves_no_float_before_pooling(parent):
    graph = engine_half.to_half(parent.load()).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    floats = [n for n, kind in kinds.items() if kind == onnx.TensorProto.FLOAT]
    assert floats and all(name.startswith("pool/") for name in floats)
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_a_calibration_file_reads_back_and_knows_its_graph(calibration, tmp_path):
    file = tmp_path / "c.npz"
    engine_calibration.save(file, calibration)
    back = engine_calibration.load(file, "key")
    for name, found in calibration.groups.items():
        assert back.groups[name].reach == found.reach
        assert (found.scale is None) == (back.groups[name].scale is None)
        if found.scale is not None:
            np.testing.assert_array_equal(back.groups[name].scale, found.scale)
    with pytest.raises(BadInput, match="another graph"):
        engine_calibration.load(file, "another")
    file.write_bytes(b"nothing of that kind")
    with pytest.raises(BadInput, match="not a calibration file"):
        engine_calibration.load(file)


def test_a_candidate_must_be_of_the_precision():
    assert choose("fp8", None).precision == "fp8"
    with pytest.raises(BadInput, match="makes fp8, not --precision int8"):
        choose("int8", "fp8-ffn")
    with pytest.raises(BadInput, match="is not known; for --precision fp16: fp16"):
        choose("fp16", "fp17")
