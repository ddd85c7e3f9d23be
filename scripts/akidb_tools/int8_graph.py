"""An fp32 model, its groups and a plan for each enter; a CPU model whose linear layers multiply int8 leaves.

Per-row form: each row of a group's input is shifted and scaled by channel (folded into LayerNorm where that made it),
quantized with a scale of its own, so that a text's vector does not depend on its batch, and multiplied by
MatMulIntegerToFloat (column scales inside); the row scale comes after. Never calibrates or measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .linear_layers import Group, Linear, constant_tensors

CONTRIB = "com.microsoft"
LEVELS = 127
LEAST_ROWS = 32  # smaller tables (token types) stay


@dataclass(frozen=True)
class RowPlan:
    """Input becomes `(x - shift) / scale` by channel; None: as it is. `static`: one scale for all rows."""

    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    static: float | None = None


def quantize_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [depth, outputs] and float32 scales [outputs], symmetric, 127 levels a side."""
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-12).astype(np.float32) / np.float32(LEVELS)
    return np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8), scale


class Int8Graph:
    """Copies the model once; `quantize` replaces groups, `shrink_embeddings` tables, `finish` gives the result."""

    def __init__(self, model: ModelProto) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self._constants = constant_tensors(model)
        self._before: dict[str, list[NodeProto]] = {}
        self._replaced: dict[str, list[NodeProto]] = {}
        self._new: dict[str, np.ndarray] = {}

    def quantize(self, group: Group, plan: RowPlan) -> None:
        first = group.layers[0].node.output[0]
        nodes: list[NodeProto] = []
        q, rows = self._rows(group, plan, nodes)
        self._before[first] = nodes
        for layer in group.layers:
            self._linear(layer, plan, q, rows)

    def shrink_embeddings(self, positions: bool) -> list[str]:
        """The tables that Gather reads (with `positions` also Slice) become int8 with one scale a row."""
        shrunk = []
        for node in self._model.graph.node:
            op = node.op_type
            table = self._constants.get(node.input[0]) if op == "Gather" or (op == "Slice" and positions) else None
            if table is None or table.ndim != 2 or len(table) < LEAST_ROWS or table.dtype != np.float32:
                continue
            name, out, at = node.input[0], node.output[0], list(node.input[1:])
            whole, scale = quantize_columns(table.T)
            self._new[f"{name}/int8"], self._new[f"{name}/scale"] = whole.T, scale[:, None]
            settings = {"axis": 0} if op == "Gather" else {}
            self._replaced[out] = [
                _node(op, [f"{name}/int8", *at], f"{out}/int8", **settings),
                _node(op, [f"{name}/scale", *at], f"{out}/scale", **settings),
                _node("Cast", [f"{out}/int8"], f"{out}/whole", to=TensorProto.FLOAT),
                _node("Mul", [f"{out}/whole", f"{out}/scale"], out),
            ]
            shrunk.append(name)
        return shrunk

    def finish(self) -> ModelProto:
        """The model with replaced nodes in place and unused constants dropped."""
        graph = self._model.graph
        nodes: list[NodeProto] = []
        for node in graph.node:
            nodes += self._before.get(node.output[0], [])
            nodes += self._replaced.get(node.output[0], [node])
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in self._new.items())
        used = {name for node in graph.node for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        if not any(o.domain == CONTRIB for o in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        del graph.value_info[:]
        return self._model

    def _constant(self, name: str, value: np.ndarray) -> str:
        self._new.setdefault(name, value)
        return name

    def _rows(self, group: Group, plan: RowPlan, nodes: list[NodeProto]) -> tuple[str, str | None]:
        """Adds the nodes that quantize the group's input; returns the uint8 tensor and its row scales."""
        at = f"{group.input}/rows"

        def add(op: str, inputs: list[str], part: str, **attributes: object) -> str:
            nodes.append(_node(op, inputs, f"{at}/{part}", **attributes))
            return f"{at}/{part}"

        x = self._moved(group, plan, add)
        middle = self._constant("int8/middle", np.array(128, np.uint8))
        if plan.static is not None:
            scale = self._constant(f"{at}/static", np.array(plan.static, np.float32))
            return add("QuantizeLinear", [x, scale, middle], "uint8"), None
        last = self._constant("int8/last_axis", np.array([-1], np.int64))
        most, least = add("ReduceMax", [x, last], "most"), add("ReduceMin", [x, last], "least")
        reach = add("Max", [most, add("Neg", [least], "below")], "reach")
        level = self._constant("int8/level", np.array(1 / LEVELS, np.float32))
        tiny = self._constant("int8/tiny", np.array(1e-12, np.float32))
        scale = add("Max", [add("Mul", [reach, level], "step"), tiny], "scale")
        flat_scale = add("Reshape", [scale, last], "flat_scale")
        zero = add("Expand", [middle, add("Shape", [flat_scale], "count")], "zero")
        matrix = self._constant(f"int8/matrix_{group.depth}", np.array([-1, group.depth], np.int64))
        flat = add("Reshape", [x, matrix], "flat")
        q = add("QuantizeLinear", [flat, flat_scale, zero], "flat_uint8", axis=0)
        return add("Reshape", [q, add("Shape", [x], "shape")], "uint8"), scale

    def _moved(self, group: Group, plan: RowPlan, add: object) -> str:
        if plan.scale is None and plan.shift is None:
            return group.input
        scale = np.ones(group.depth, np.float32) if plan.scale is None else plan.scale
        shift = np.zeros(group.depth, np.float32) if plan.shift is None else plan.shift
        made = group.producer
        at = f"{group.input}/rows"
        if made is not None and made.op_type == "LayerNormalization" and len(made.input) == 3:
            gain, bias = (self._constants[n] for n in made.input[1:])
            names = [
                self._constant(f"{at}/gain", (gain / scale).astype(np.float32)),
                self._constant(f"{at}/bias", ((bias - shift) / scale).astype(np.float32)),
            ]
            settings = {a.name: (a.i if a.name != "epsilon" else a.f) for a in made.attribute}
            return add("LayerNormalization", [made.input[0], *names], "moved", **settings)
        x = group.input
        if plan.shift is not None:
            x = add("Sub", [x, self._constant(f"{at}/shift", shift)], "shifted")
        if plan.scale is not None:
            x = add("Mul", [x, self._constant(f"{at}/inverse", (1 / scale).astype(np.float32))], "moved")
        return x

    def _linear(self, layer: Linear, plan: RowPlan, q: str, rows: str | None) -> None:
        out, name = layer.node.output[0], layer.weight_name
        weight = layer.weight if plan.scale is None else layer.weight * plan.scale[:, None]
        whole, scale = quantize_columns(weight)
        one = self._constant("int8/one", np.array(1, np.float32)) if rows else f"{layer.node.input[0]}/rows/static"
        inputs = [
            q,
            self._constant(f"{name}/int8", whole),
            one,
            self._constant(f"{name}/scale", scale),
            self._constant("int8/middle", np.array(128, np.uint8)),
        ]
        bias = np.zeros(weight.shape[1], np.float32) if layer.bias is None else layer.bias
        if plan.shift is not None:
            bias = bias + plan.shift @ layer.weight
        bias_name = self._constant(f"{name}/bias", bias.astype(np.float32))
        last = layer.bias_node.output[0] if layer.bias_node is not None else out
        if rows:
            product = f"{out}/columns"
            nodes = [
                _node("MatMulIntegerToFloat", inputs, product, domain=CONTRIB),
                _node("Mul", [product, rows], f"{out}/scaled"),
                _node("Add", [f"{out}/scaled", bias_name], last),
            ]
        else:
            nodes = [_node("MatMulIntegerToFloat", [*inputs, "", bias_name], last, domain=CONTRIB)]
        self._replaced[out] = nodes
        if layer.bias_node is not None:
            self._replaced[last] = []


def _node(op: str, inputs: list[str], output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes)
