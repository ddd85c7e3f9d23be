"""An fp32 model, its groups and the reach of their inputs enter; the same model with E4M3 QDQ pairs leaves.

The form TensorRT 10 builds FP8 engines from: float32 scales, FLOAT8E4M3FN zero points, opset 19, one scale a tensor,
weights as constant -> QuantizeLinear -> DequantizeLinear. A CPU emulates it (products in fp32), so it proves quality,
not speed. Never touches LayerNorm, softmax, embeddings or the products inside attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .errors import BadInput
from .linear_layers import Group

LARGEST = 448.0  # of E4M3
LEAST_OPSET = 19


def build(model: ModelProto, found: Sequence[Group], reach: Mapping[str, float]) -> ModelProto:
    """`reach`: largest absolute value of each group's input, by the group's name."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise BadInput(f"FP8 needs opset {LEAST_OPSET}, this graph has {opset}; export it again with export_onnx.py")
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    zero = helper.make_tensor("fp8/zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    graph.initializer.append(zero)
    reads: dict[str, tuple[str, str]] = {}  # MatMul's result -> what it reads instead
    before: dict[str, list[NodeProto]] = {}
    for group in found:
        quantized: list[NodeProto] = []
        x = _pair(graph, quantized, group.input, reach[group.name])
        for layer in group.layers:
            weight = _pair(graph, quantized, layer.weight_name, float(np.abs(layer.weight).max()))
            reads[layer.node.output[0]] = (x, weight)
        before[group.layers[0].node.output[0]] = quantized
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += before.get(node.output[0], [])
        copy = NodeProto()
        copy.CopyFrom(node)
        if node.output[0] in reads:
            copy.input[0], copy.input[1] = reads[node.output[0]]
        nodes.append(copy)
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def _pair(graph: object, nodes: list[NodeProto], name: str, reach: float) -> str:
    scale = np.array(max(reach, 1e-12) / LARGEST, np.float32)
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}/fp8_scale"))
    inputs = [f"{name}/fp8_scale", "fp8/zero"]
    for op, source, output in (
        ("QuantizeLinear", name, f"{name}/fp8"),
        ("DequantizeLinear", f"{name}/fp8", f"{name}/fp8_read"),
    ):
        nodes.append(helper.make_node(op, [source, *inputs], [output], name=f"{output}:{op}"))
    return f"{name}/fp8_read"
