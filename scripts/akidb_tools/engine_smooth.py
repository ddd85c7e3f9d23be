"""An fp32 graph and its calibration enter; the same function, with inputs that int8 takes better, leaves.

SmoothQuant's moves where they cost nothing at run time: behind a LayerNorm they go into its gain and bias, and the
residual beside takes them back; before the attention's output they go into the value's weights (shares add up to 1).
Nowhere else: a step between Gelu and its product keeps TensorRT from ending the product before with Gelu, which costs
more than int8 gains. Exact in real numbers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .engine_calibration import Calibration, GroupRange
from .errors import BadInput
from .linear_layers import Group, Linear, constant_tensors, groups


def apply(model: ModelProto, calibration: Calibration, inputs: Collection[str]) -> tuple[ModelProto, dict[str, float]]:
    """Moves what the groups of `inputs` read, where that is free; returns the model and int8 reaches by input."""
    graph = _Graph(model)
    reaches: dict[str, float] = {}
    # Groups are found anew each time: moving one rewrites weights of others.
    for name in inputs:
        group = next(g for g in groups(graph.model) if g.input == name)
        found = calibration.groups[name]
        if not graph.is_free(group):
            reaches[name] = found.plain
        elif found.scale is None and found.shift is None:
            reaches[name] = found.static
        else:
            reaches[graph.move(group, found)] = found.static
    return graph.model, reaches


def is_free(model: ModelProto, group: Group) -> bool:
    """Whether the group's input can be moved at no cost."""
    return _Graph(model).is_free(group)


class _Graph:
    """A copy of the model that is changed in place."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)

    def is_free(self, group: Group) -> bool:
        return _is_norm(group.producer) or self._value_of(group) is not None

    def move(self, group: Group, found: GroupRange) -> str:
        """Returns the tensor that the group reads from now on."""
        scale = np.ones(group.depth, np.float32) if found.scale is None else found.scale
        shift = np.zeros(group.depth, np.float32) if found.shift is None else found.shift
        if _is_norm(group.producer):
            name = self._behind_norm(group, group.producer, scale, shift)
        else:
            name = self._behind_attention(group, self._value_of(group), scale, shift)
        for layer in group.layers:
            self._take_up(layer, scale, shift)
        return name

    def _behind_norm(self, group: Group, made: NodeProto, scale: np.ndarray, shift: np.ndarray) -> str:
        constants, old, new = constant_tensors(self.model), group.input, f"{group.input}/smooth"
        gain, bias = (constants[name] for name in made.input[1:])
        made.input[1] = self._constant(f"{new}/gain", gain / scale)
        made.input[2] = self._constant(f"{new}/bias", (bias - shift) / scale)
        made.output[0] = new
        # Everybody else (the residual) reads the old name, which takes the moves back.
        back = [
            _node("Mul", [new, self._constant(f"{new}/scale", scale)], f"{new}/wide"),
            _node("Add", [f"{new}/wide", self._constant(f"{new}/shift", shift)], old),
        ]
        self._insert_after(new, back)
        self._read(group, new)
        return new

    def _behind_attention(self, group: Group, value: Linear, scale: np.ndarray, shift: np.ndarray) -> str:
        name = f"{value.weight_name}/smooth"
        value.node.input[1] = self._constant(name, value.weight / scale[None, :])
        self._set_bias(value, (value.bias - shift) / scale)
        return group.input

    def _value_of(self, group: Group) -> Linear | None:
        """The linear layer whose result the attention's shares mix into the group's input."""
        made = {node.output[0]: node for node in self.model.graph.node}
        product = made.get(_behind(made, group.input))
        if product is None or product.op_type != "MatMul":
            return None
        shares = made.get(product.input[0])
        if shares is None or shares.op_type != "Softmax":
            return None
        name = _behind(made, product.input[1])
        layers = [layer for found in groups(self.model) for layer in found.layers if layer.bias_node is not None]
        return next((layer for layer in layers if layer.bias_node.output[0] == name), None)

    def _take_up(self, layer: Linear, scale: np.ndarray, shift: np.ndarray) -> None:
        """`(x - shift) / scale` is read: the weights take the scale, the bias the shift."""
        layer.node.input[1] = self._constant(f"{layer.weight_name}/moved", layer.weight * scale[:, None])
        if shift.any():
            if layer.bias_node is None:
                raise BadInput(f"{layer.node.name} has no bias that could take up a shift; choose a plain candidate")
            self._set_bias(layer, layer.bias + shift @ layer.weight)

    def _set_bias(self, layer: Linear, value: np.ndarray) -> None:
        name, number = f"{layer.weight_name}/bias", 0
        while any(tensor.name == name for tensor in self.model.graph.initializer):
            number += 1
            name = f"{layer.weight_name}/bias{number}"
        other = 1 if layer.bias_node.input[0] == layer.node.output[0] else 0
        layer.bias_node.input[other] = self._constant(name, value)

    def _read(self, group: Group, name: str) -> None:
        for layer in group.layers:
            layer.node.input[0] = name

    def _insert_after(self, made: str, nodes: list[NodeProto]) -> None:
        at = 1 + next(n for n, node in enumerate(self.model.graph.node) if made in node.output)
        for offset, node in enumerate(nodes):
            self.model.graph.node.insert(at + offset, node)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name


def _is_norm(node: NodeProto | None) -> bool:
    return node is not None and node.op_type == "LayerNormalization" and len(node.input) == 3


def _behind(made: dict[str, NodeProto], name: str) -> str:
    while name in made and made[name].op_type in ("Reshape", "Transpose"):
        name = made[name].input[0]
    return name


def _node(op: str, inputs: list[str], output: str) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{output}:{op}")
