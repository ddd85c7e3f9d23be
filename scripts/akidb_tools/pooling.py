"""ONNX nodes that turn hidden states into one unit vector a text: names of tensors enter, nodes leave.

Both graph writers end here. Never depends on the architecture, and uses only operators whose form is the same in
every opset from 13 on, because `optimum` appends these nodes to graphs of other exporters.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

OUTPUT_NAME = "sentence_embedding"
POOLINGS = ("mean", "cls")


def pooling_nodes(
    hidden: str, mask: str, pooling: str, prefix: str = "pool"
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants from `hidden` [batch, tokens, dim] and `mask` int64 [batch, tokens] to `OUTPUT_NAME`.

    A row without a single real token gives the zero vector: both divisors are kept above zero.
    """

    def name(part: str) -> str:
        return f"{prefix}/{part}"

    def constant(part: str, value: np.ndarray) -> TensorProto:
        return numpy_helper.from_array(value, name(part))

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
        return helper.make_node(op, inputs, [output], name=f"{prefix}/{op}_{output.rsplit('/', 1)[-1]}", **attributes)

    constants = [
        constant("axis_1", np.array([1], np.int64)),
        constant("axis_last", np.array([-1], np.int64)),
        constant("tiny_norm", np.array(1e-12, np.float32)),
    ]
    if pooling == "mean":
        constants.append(constant("tiny_count", np.array(1e-9, np.float32)))
        nodes = [
            node("Cast", [mask], name("mask_f32"), to=TensorProto.FLOAT),
            node("Unsqueeze", [name("mask_f32"), name("axis_last")], name("mask_3d")),
            node("Mul", [hidden, name("mask_3d")], name("kept")),
            node("ReduceSum", [name("kept"), name("axis_1")], name("sum"), keepdims=0),
            node("ReduceSum", [name("mask_f32"), name("axis_1")], name("count"), keepdims=1),
            node("Max", [name("count"), name("tiny_count")], name("count_safe")),
            node("Div", [name("sum"), name("count_safe")], name("pooled")),
        ]
    elif pooling == "cls":
        constants.append(constant("first", np.array(0, np.int64)))
        nodes = [
            node("Gather", [hidden, name("first")], name("first_token"), axis=1),
            # A text of padding only has no first token: multiplying by its mask gives the zero vector, as for mean.
            node("Gather", [mask, name("first")], name("first_mask"), axis=1),
            node("Cast", [name("first_mask")], name("first_mask_f32"), to=TensorProto.FLOAT),
            node("Unsqueeze", [name("first_mask_f32"), name("axis_last")], name("first_mask_2d")),
            node("Mul", [name("first_token"), name("first_mask_2d")], name("pooled")),
        ]
    else:
        raise ValueError(f"pooling {pooling!r} is not one of {POOLINGS}")
    nodes += [
        node("Mul", [name("pooled"), name("pooled")], name("squares")),
        node("ReduceSum", [name("squares"), name("axis_last")], name("norm_2"), keepdims=1),
        node("Sqrt", [name("norm_2")], name("norm")),
        node("Max", [name("norm"), name("tiny_norm")], name("norm_safe")),
        node("Div", [name("pooled"), name("norm_safe")], OUTPUT_NAME),
    ]
    return nodes, constants
