"""An fp32 ONNX model enters; its linear layers, grouped by the tensor they read, leave.

A linear layer is a MatMul whose right side is a constant matrix. Layers of one group (query, key and value) share one
quantized input, so a group is the unit that is measured, quantized or left alone. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from .errors import BadInput


@dataclass(frozen=True)
class Linear:
    """One MatMul: `output` is its result, `bias_node` the Add after it, `bias` that Add's constant."""

    node: NodeProto
    weight: np.ndarray
    weight_name: str
    bias_node: NodeProto | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class Group:
    """Linear layers that read `input`; `name` is short and unique; `producer` writes `input`."""

    name: str
    input: str
    layers: tuple[Linear, ...]
    producer: NodeProto | None

    @property
    def depth(self) -> int:
        """Length of the inner product, the last axis of `input`."""
        return self.layers[0].weight.shape[0]

    @property
    def weights(self) -> np.ndarray:
        """The layers' matrices side by side, [depth, outputs]."""
        return np.concatenate([layer.weight for layer in self.layers], axis=1)


def groups(model: ModelProto) -> list[Group]:
    """In the order of the graph; a model without any is refused."""
    constants = constant_tensors(model)
    consumers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    by_input: dict[str, list[Linear]] = {}
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and weight.ndim == 2 and weight.dtype == np.float32:
            by_input.setdefault(node.input[0], []).append(_linear(node, weight, constants, consumers))
    if not by_input:
        kinds = sorted({node.op_type for node in model.graph.node})
        raise BadInput(
            f"the ONNX graph has no MatMul with a constant float32 matrix (it has {', '.join(kinds) or 'no nodes'}): "
            "nothing to quantize; is it quantized or compiled already? Give the fp32 bundle"
        )
    producers = {name: node for node in model.graph.node for name in node.output}
    return [Group(_short(layers), name, tuple(layers), producers.get(name)) for name, layers in by_input.items()]


def constant_tensors(model: ModelProto) -> dict[str, np.ndarray]:
    """Initializers and Constant nodes by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _linear(
    node: NodeProto, weight: np.ndarray, constants: Mapping[str, np.ndarray], consumers: Mapping[str, list[NodeProto]]
) -> Linear:
    users = consumers.get(node.output[0], [])
    bias_node, bias = None, None
    if len(users) == 1 and users[0].op_type == "Add":
        other = next((constants[n] for n in users[0].input if n in constants), None)
        if other is not None and other.shape == (weight.shape[1],):
            bias_node, bias = users[0], other
    return Linear(node, weight, node.input[1], bias_node, bias)


def _short(layers: list[Linear]) -> str:
    """`layer.3/up` from the MatMul's result; layers of one group joined by `+`."""
    names = [layer.node.output[0].removesuffix("/matmul").removesuffix("_output_0") for layer in layers]
    stem = names[0].rpartition("/")[0]
    return "+".join([names[0], *(n.removeprefix(f"{stem}/") for n in names[1:])])
