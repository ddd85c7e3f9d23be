"""An fp32 graph, its calibration and a placement enter; the graph with QDQ pairs at those places leaves.

INT8: one scale a tensor for what is read (moved and smoothed by channel first, which TensorRT fuses into the producer's
last step), one a column for weights. FP8: E4M3, one scale a tensor for both. Weights are constant -> Q -> DQ, as
TensorRT wants them. Standard operators only; a CPU emulates the result. Never touches LayerNorm, softmax or embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .engine_calibration import Calibration, GroupRange
from .errors import BadInput
from .fp8_graph import LARGEST, LEAST_OPSET
from .int8_graph import LEVELS
from .linear_layers import Group, Linear, groups

ROLES = ("qkv", "out", "up", "down")
ATTENTION = "attention"  # beside the roles: both products inside attention as well


@dataclass(frozen=True)
class Placement:
    """Which linear layers carry QDQ pairs, and whether inputs are smoothed first."""

    roles: Collection[str]
    smooth: bool = True


def role(group: Group) -> str:
    """By shape: several layers on one input are query, key and value; narrow to wide is `up`, wide to narrow `down`."""
    wide = group.layers[0].weight.shape[1]
    if len(group.layers) > 1 or "/together" in group.layers[0].weight_name:
        return "qkv"
    return "out" if wide == group.depth else "up" if wide > group.depth else "down"


def build(model: ModelProto, calibration: Calibration, precision: str, placement: Placement) -> ModelProto:
    """A copy with pairs; a placement that finds no layer is refused."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise BadInput(f"QDQ pairs need opset {LEAST_OPSET}, this graph has {opset}; export it with export_onnx.py")
    graph = _Graph(model, precision)
    found = groups(graph.model)
    chosen = [group for group in found if role(group) in placement.roles]
    if not chosen:
        raise BadInput(f"no linear layer is one of {', '.join(placement.roles)}: {', '.join(g.name for g in found)}")
    for group in chosen:
        graph.quantize(group, _range_of(calibration, group), placement.smooth)
    if ATTENTION in placement.roles:
        graph.attention(calibration.heads)
    return graph.finish()


def count(model: ModelProto) -> int:
    """QDQ pairs in a graph."""
    return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _range_of(calibration: Calibration, group: Group) -> GroupRange:
    """By the tensor that is read: fusing layers does not change it."""
    found = calibration.groups.get(group.input)
    if found is None:
        raise BadInput(f"the calibration does not know {group.name}, which reads {group.input}; calibrate again")
    return found


class _Graph:
    """Collects pairs by the node that they come before."""

    def __init__(self, model: ModelProto, precision: str) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.fp8 = precision == "fp8"
        self.before: dict[str, list[NodeProto]] = {}
        self.reads: dict[str, dict[int, str]] = {}  # a node's result -> what it reads instead, by input
        self.constants: dict[str, TensorProto] = {}
        zero = helper.make_tensor("qdq/zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
        self.zero = self._put(zero if self.fp8 else numpy_helper.from_array(np.array(0, np.int8), "qdq/zero"))

    def quantize(self, group: Group, found: GroupRange, smooth: bool) -> None:
        moved = smooth and not self.fp8 and found.scale is not None
        nodes: list[NodeProto] = []
        x = self._moved(group, found, nodes) if moved else group.input
        reach = found.static if moved else found.reach
        x = self._pair(nodes, x, f"{group.input}/qdq", np.array(reach, np.float32))
        for layer in group.layers:
            self._weight(nodes, layer, found if moved else None)
            self.reads[layer.node.output[0]] = {0: x, 1: f"{layer.weight_name}/qdq/read"}
        self.before[group.layers[0].node.output[0]] = nodes

    def attention(self, heads: Mapping[str, float]) -> None:
        """Pairs on query, key and value as they are projected, and on the shares, which reach 1."""
        for node in self.model.graph.node:
            for at, name in enumerate(node.input):
                if name in heads and node.op_type in ("Reshape", "Transpose"):
                    nodes = self.before.setdefault(node.output[0], [])
                    read = self._pair(nodes, name, f"{name}/qdq", np.array(heads[name], np.float32))
                    self.reads.setdefault(node.output[0], {})[at] = read
            if node.op_type == "MatMul" and node.input[0].endswith("/shares"):
                nodes = self.before.setdefault(node.output[0], [])
                read = self._pair(nodes, node.input[0], f"{node.input[0]}/qdq", np.array(1, np.float32))
                self.reads.setdefault(node.output[0], {})[0] = read

    def finish(self) -> ModelProto:
        nodes: list[NodeProto] = []
        for node in self.model.graph.node:
            nodes += self.before.get(node.output[0], [])
            copy = NodeProto()
            copy.CopyFrom(node)
            for at, name in self.reads.get(node.output[0], {}).items():
                copy.input[at] = name
            nodes.append(copy)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        self.model.graph.initializer.extend(self.constants.values())
        used = {name for node in self.model.graph.node for name in node.input}
        kept = [TensorProto.FromString(t.SerializeToString()) for t in self.model.graph.initializer if t.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        del self.model.graph.value_info[:]
        return self.model

    def _moved(self, group: Group, found: GroupRange, nodes: list[NodeProto]) -> str:
        at = f"{group.input}/moved"
        self._constant(f"{at}/inverse", (1 / found.scale).astype(np.float32))
        nodes.append(_node("Mul", [group.input, f"{at}/inverse"], f"{at}/scaled"))
        if found.shift is None:
            return f"{at}/scaled"
        self._constant(f"{at}/shift", (-found.shift / found.scale).astype(np.float32))
        nodes.append(_node("Add", [f"{at}/scaled", f"{at}/shift"], at))
        return at

    def _weight(self, nodes: list[NodeProto], layer: Linear, moved: GroupRange | None) -> None:
        name, weight = layer.weight_name, layer.weight
        if moved is not None:
            weight = (weight * moved.scale[:, None]).astype(np.float32)
            self._constant(f"{name}/moved", weight)
            if moved.shift is not None:
                self._bias(layer, moved.shift)
        reach = np.abs(weight).max() if self.fp8 else np.maximum(np.abs(weight).max(axis=0), 1e-12)
        self._pair(nodes, name if moved is None else f"{name}/moved", f"{name}/qdq", reach.astype(np.float32), axis=1)

    def _bias(self, layer: Linear, shift: np.ndarray) -> None:
        if layer.bias_node is None:
            raise BadInput(f"{layer.node.name} has no bias that could take up a shift; calibrate without moves")
        name = f"{layer.weight_name}/moved_bias"
        self._constant(name, (layer.bias + shift @ layer.weight).astype(np.float32))
        other = 1 if layer.bias_node.input[0] == layer.node.output[0] else 0
        self.reads.setdefault(layer.bias_node.output[0], {})[other] = name

    def _pair(self, nodes: list[NodeProto], source: str, at: str, reach: np.ndarray, axis: int = 1) -> str:
        levels = LARGEST if self.fp8 else LEVELS
        scale = self._constant(f"{at}/scale", np.maximum(reach / np.float32(levels), 1e-12).astype(np.float32))
        zero, settings = self.zero, {}
        if reach.ndim:
            settings = {"axis": axis}
            zero = self._constant("qdq/zeros_" + str(len(reach)), np.zeros(len(reach), np.int8))
        nodes.append(_node("QuantizeLinear", [source, scale, zero], f"{at}/whole", **settings))
        nodes.append(_node("DequantizeLinear", [f"{at}/whole", scale, zero], f"{at}/read", **settings))
        return f"{at}/read"

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self._put(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _put(self, tensor: TensorProto) -> str:
        self.constants[tensor.name] = tensor
        return tensor.name


def _node(op: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes)
