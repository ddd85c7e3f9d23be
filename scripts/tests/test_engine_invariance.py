"""Does a text's vector depend on the batch it comes in? Measured on graphs that do, and that do not, on the CPU."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from akidb_tools import engine_invariance
from akidb_tools.engine_invariance import Part
from akidb_tools.shape_profiles import parse

NARROW, WIDE = parse("1x16:1x16:8x16"), parse("1x16:4x32:24x32")
ROWS = [np.arange(1, length + 1, dtype=np.int64) * (3 + length % 5) for length in (2, 5, 9, 12, 16, 20, 27, 32)]


def graph(*, turn: float = 0.0, by_rows: float = 0.0, by_tokens: float = 0.0) -> ort.InferenceSession:
    """(sum of ids, sum of squares, 0) of each text, the last place `turn` + `by_rows` x rows + `by_tokens` x tokens of
    the batch times the first: what a kernel that depends on the shape would do.
    """
    ids = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])]
    out = [helper.make_tensor_value_info("v", TensorProto.FLOAT, ["rows", 3])]
    constants = {"turn": turn, "rows_by": by_rows, "tokens_by": by_tokens}
    held = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items()]
    held.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axis"], ["sum2"], keepdims=1),
        helper.make_node("Shape", ["input_ids"], ["rows_i"], start=0, end=1),
        helper.make_node("Cast", ["rows_i"], ["rows_f"], to=TensorProto.FLOAT),
        helper.make_node("Shape", ["input_ids"], ["tokens_i"], start=1, end=2),
        helper.make_node("Cast", ["tokens_i"], ["tokens_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rows_f", "rows_by"], ["a"]),
        helper.make_node("Mul", ["tokens_f", "tokens_by"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["ab"]),
        helper.make_node("Add", ["ab", "turn"], ["share"]),
        helper.make_node("Mul", ["sum", "share"], ["last"]),
        helper.make_node("Concat", ["sum", "sum2", "last"], ["v"], axis=1),
    ]
    made = helper.make_graph(nodes, "g", ids, out, held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def least(*parts: Part) -> engine_invariance.Invariance:
    return engine_invariance.measure(parts, ROWS, "v")


def test_a_graph_that_looks_at_one_text_only_is_invariant():
    found = least(Part(graph(), NARROW), Part(graph(), WIDE))
    assert found.cosine > 1 - 1e-12 and found.texts == len(ROWS)


@pytest.mark.parametrize("how", [{"by_rows": 0.02}, {"by_tokens": 0.02}])
def test_a_kernel_that_depends_on_the_batch_is_found_within_one_profile(how):
    found = least(Part(graph(**how), WIDE))
    assert found.cosine < engine_invariance.LEAST["fp16"] and str(WIDE) in found.between


def test_two_engines_that_round_apart_are_found_only_together():
    one, other = graph(), graph(turn=0.5)
    assert least(Part(other, WIDE)).cosine > 1 - 1e-12
    found = least(Part(one, NARROW), Part(other, WIDE))
    assert found.cosine < engine_invariance.LEAST["fp16"]
    assert str(NARROW) in found.between and str(WIDE) in found.between


def test_batches_are_alone_small_as_tuned_for_and_full():
    engine = graph()
    assert Part(engine, NARROW).batches() == [1, 8]
    assert Part(engine, WIDE).batches() == [1, 4, 8, 24]
    assert Part(engine, parse("1x16:64x32:512x256"), 64).batches() == [1, 8, 64]
    assert Part(engine, parse("4x16:4x32:6x32")).batches() == [4, 6]


def test_a_missed_limit_is_never_rounded_up_to_a_kept_one():
    found = engine_invariance.Invariance(0.99989999999, 8, None)
    assert found.facts()["cosine"] < engine_invariance.LEAST["fp16"]
