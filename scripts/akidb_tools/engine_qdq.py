"""An fp32 graph, its calibration and a placement enter; the graph with QDQ pairs at those places leaves.

INT8: one scale a tensor for what is read, one a column for weights. FP8: E4M3, one scale a tensor for both. Weights are
stored quantized, with a DequantizeLinear alone: TensorRT reads a constant before a QuantizeLinear as fp32 whatever its
type is, and then finds no FP8 kernel in a float16 graph. Standard operators only; a CPU emulates the result. Never
touches LayerNorm, softmax or embeddings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from . import engine_smooth
from .engine_calibration import Calibration, GroupRange
from .errors import BadInput
from .fp8_graph import LARGEST, LEAST_OPSET
from .int8_graph import LEVELS, quantize_columns
from .linear_layers import Group, Linear, groups

ROLES = ("qkv", "out", "up", "down")
ATTENTION = "attention"  # beside the roles: both products inside attention as well


@dataclass(frozen=True)
class Placement:
    """Which linear layers carry QDQ pairs, whether inputs are smoothed, the greatest measured error of a group."""

    roles: Collection[str]
    smooth: bool = True
    most_error: float | None = None

    def takes(self, group: Group, error: float | None) -> bool:
        """Errors of seeded weights are not measured, and exclude nothing."""
        good = self.most_error is None or error is None or error <= self.most_error
        return role(group) in self.roles and good


def role(group: Group) -> str:
    """By shape: several layers on one input are query, key and value; narrow to wide is `up`, wide to narrow `down`."""
    wide = group.layers[0].weight.shape[1]
    if len(group.layers) > 1 or "/together" in group.layers[0].weight_name:
        return "qkv"
    return "out" if wide == group.depth else "up" if wide > group.depth else "down"


def chosen(model: ModelProto, calibration: Calibration, placement: Placement) -> list[str]:
    """What the chosen groups read; a placement that finds no layer is refused."""
    found, names = groups(model), []
    for group in found:
        known = _range_of(calibration, group)
        moved = placement.smooth and engine_smooth.is_free(model, group)
        if placement.takes(group, known.error if moved else known.plain_error):
            names.append(group.input)
    if not names:
        raise BadInput(f"no linear layer is one of {', '.join(placement.roles)}: {', '.join(g.name for g in found)}")
    return names


def build(
    model: ModelProto, reaches: Mapping[str, float], precision: str, heads: Mapping[str, float] | None = None
) -> ModelProto:
    """A copy with pairs on the layers that read the tensors in `reaches`; `heads`: on attention's products as well."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise BadInput(f"QDQ pairs need opset {LEAST_OPSET}, this graph has {opset}; export it with export_onnx.py")
    graph = _Graph(model, precision)
    for group in groups(graph.model):
        if group.input in reaches:
            graph.quantize(group, reaches[group.input])
    if heads:
        graph.attention(heads)
    return graph.finish()


def count(model: ModelProto) -> int:
    """Quantized tensors in a graph, weights included."""
    return sum(node.op_type == "DequantizeLinear" for node in model.graph.node)


def to_e4m3(values: np.ndarray, name: str) -> TensorProto:
    """Rounded to nearest; what is beyond the largest is cut off."""
    clipped = np.clip(values, -LARGEST, LARGEST).astype(np.float32)
    data = clipped.astype(ml_dtypes.float8_e4m3fn).tobytes()
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, data, raw=True)


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

    def quantize(self, group: Group, reach: float) -> None:
        nodes: list[NodeProto] = []
        x = self._pair(nodes, group.input, f"{group.input}/qdq", reach)
        for layer in group.layers:
            self.reads[layer.node.output[0]] = {0: x, 1: self._weight(nodes, layer)}
        self.before[group.layers[0].node.output[0]] = nodes

    def attention(self, heads: Mapping[str, float]) -> None:
        """Pairs on query, key and value as they are projected, and on the shares, which reach 1."""
        for node in self.model.graph.node:
            for at, name in enumerate(node.input):
                if name in heads and node.op_type in ("Reshape", "Transpose"):
                    nodes = self.before.setdefault(node.output[0], [])
                    read = self._pair(nodes, name, f"{name}/qdq", heads[name])
                    self.reads.setdefault(node.output[0], {})[at] = read
            if node.op_type == "MatMul" and node.input[0].endswith("/shares"):
                nodes = self.before.setdefault(node.output[0], [])
                read = self._pair(nodes, node.input[0], f"{node.input[0]}/qdq", 1.0)
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

    def _weight(self, nodes: list[NodeProto], layer: Linear) -> str:
        """Stored quantized; the name of what the product reads."""
        at = f"{layer.weight_name}/qdq"
        if self.fp8:
            scale = np.float32(max(float(np.abs(layer.weight).max()), 1e-12) / LARGEST)
            self._put(to_e4m3(layer.weight / scale, f"{at}/whole"))
            inputs, settings = [f"{at}/whole", self._constant(f"{at}/scale", scale), self.zero], {}
        else:
            whole, scale = quantize_columns(layer.weight)
            zeros = self._constant(f"qdq/zeros_{len(scale)}", np.zeros(len(scale), np.int8))
            inputs = [self._constant(f"{at}/whole", whole), self._constant(f"{at}/scale", scale), zeros]
            settings = {"axis": 1}
        nodes.append(_node("DequantizeLinear", inputs, f"{at}/read", **settings))
        return f"{at}/read"

    def _pair(self, nodes: list[NodeProto], source: str, at: str, reach: float) -> str:
        levels = LARGEST if self.fp8 else LEVELS
        scale = self._constant(f"{at}/scale", np.array(max(reach / levels, 1e-12), np.float32))
        nodes.append(_node("QuantizeLinear", [source, scale, self.zero], f"{at}/whole"))
        nodes.append(_node("DequantizeLinear", [f"{at}/whole", scale, self.zero], f"{at}/read"))
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
