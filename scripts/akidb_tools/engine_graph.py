"""A clean fp32 graph enters; the same function written as TensorRT fuses it best leaves. Exact, except `gelu-tanh`.

Each rewrite looks for its own pattern and leaves a graph without it as it is; `apply` says how often each was found.
Never quantizes, and never changes inputs, outputs or their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .linear_layers import Group, Linear, constant_tensors, groups

GELU_OPSET = 20


def apply(model: ModelProto, names: Sequence[str]) -> tuple[ModelProto, dict[str, int]]:
    """A rewritten copy, and how many places each rewrite changed."""
    result = ModelProto()
    result.CopyFrom(model)
    found = {name: REWRITES[name](result) for name in names}
    _drop_unused(result)
    return result, found


def _fuse_qkv(model: ModelProto) -> int:
    """Linear layers that read one tensor become one product and a split."""
    fused = 0
    for group in groups(model):
        if len(group.layers) > 1 and all(layer.bias_node is not None for layer in group.layers):
            _fuse(model, group)
            fused += 1
    return fused


def _fuse(model: ModelProto, group: Group) -> None:
    at = f"{group.input}/together"
    widths = [layer.weight.shape[1] for layer in group.layers]
    bias = np.concatenate([layer.bias for layer in group.layers])
    _constant(model, f"{at}/weight", group.weights)
    _constant(model, f"{at}/bias", bias)
    _constant(model, f"{at}/widths", np.array(widths, np.int64))
    outputs = [layer.bias_node.output[0] for layer in group.layers]
    nodes = [
        _node("MatMul", [group.input, f"{at}/weight"], [f"{at}/matmul"]),
        _node("Add", [f"{at}/matmul", f"{at}/bias"], [f"{at}/biased"]),
        _node("Split", [f"{at}/biased", f"{at}/widths"], outputs, axis=-1),
    ]
    gone = {layer.node.output[0] for layer in group.layers} | set(outputs)
    _replace(model, gone, first=group.layers[0].node.output[0], nodes=nodes)


def _gelu(approximate: str) -> Callable[[ModelProto], int]:
    def rewrite(model: ModelProto) -> int:
        constants, users = constant_tensors(model), _users(model)
        made = {node.output[0]: node for node in model.graph.node}
        found = [_gelu_at(node, constants, users, made) for node in model.graph.node if node.op_type == "Erf"]
        for source, inside, last in (item for item in found if item):
            _replace(
                model, {*inside, last}, first=last, nodes=[_node("Gelu", [source], [last], approximate=approximate)]
            )
        if any(found):
            opset = next(o for o in model.opset_import if o.domain in ("", "ai.onnx"))
            opset.version = max(opset.version, GELU_OPSET)
        return sum(item is not None for item in found)

    return rewrite


def _gelu_at(erf: NodeProto, constants: dict, users: dict, made: dict) -> tuple[str, list[str], str] | None:
    """x, the tensors in between, and the result of `x * (1 + erf(x / sqrt 2)) * 0.5`."""
    scaled = made.get(erf.input[0])
    if scaled is None or scaled.op_type != "Div" or scaled.input[1] not in constants:
        return None
    if abs(float(constants[scaled.input[1]].ravel()[0]) - np.sqrt(2)) > 1e-3:
        return None
    chain = [erf]
    for op in ("Add", "Mul", "Mul"):
        after = users.get(chain[-1].output[0], [])
        if len(after) != 1 or after[0].op_type != op:
            return None
        chain.append(after[0])
    plus, grown, half = chain[1:]
    x = scaled.input[0]
    halves = [constants[n] for n in half.input if n in constants]
    ones = [constants[n] for n in plus.input if n in constants]
    if x not in grown.input or not halves or float(halves[0].ravel()[0]) != 0.5 or float(ones[0].ravel()[0]) != 1:
        return None
    inside = [scaled.output[0], erf.output[0], plus.output[0], grown.output[0]]
    return x, inside, half.output[0]


def _fold_scale(model: ModelProto) -> int:
    """`(q k) / sqrt d` becomes `(q / sqrt d) k`, with the division in the query's weights."""
    constants = constant_tensors(model)
    made = {node.output[0]: node for node in model.graph.node}
    layers = {(la.bias_node or la.node).output[0]: la for group in groups(model) for la in group.layers}
    folded = 0
    for node in list(model.graph.node):
        if node.op_type != "Div" or node.input[1] not in constants or constants[node.input[1]].size != 1:
            continue
        product = made.get(node.input[0])
        query = _behind(made, product.input[0]) if product is not None and product.op_type == "MatMul" else None
        if query not in layers:
            continue
        _scale_layer(model, layers[query], 1 / float(constants[node.input[1]].ravel()[0]))
        product.output[0] = node.output[0]
        model.graph.node.remove(node)
        folded += 1
    return folded


def _behind(made: dict[str, NodeProto], name: str) -> str | None:
    """The tensor that was only reshaped and transposed into `name`."""
    while name in made and made[name].op_type in ("Reshape", "Transpose"):
        name = made[name].input[0]
    return name


def _scale_layer(model: ModelProto, layer: Linear, by: float) -> None:
    """Weights and bias under names of their own: another layer may share the constants."""
    weight, bias = f"{layer.weight_name}/scaled", f"{layer.weight_name}/scaled_bias"
    _constant(model, weight, layer.weight * np.float32(by))
    layer.node.input[1] = weight
    if layer.bias_node is not None:
        _constant(model, bias, layer.bias * np.float32(by))
        other = 1 if layer.bias_node.input[0] == layer.node.output[0] else 0
        layer.bias_node.input[other] = bias


def _pool_product(model: ModelProto) -> int:
    """Mean pooling as one product of the mask's row with the hidden states, instead of a masked copy and a sum."""
    made = {node.output[0]: node for node in model.graph.node}
    total, kept = made.get("pool/sum"), made.get("pool/kept")
    if total is None or kept is None or total.op_type != "ReduceSum" or kept.op_type != "Mul":
        return 0
    _constant(model, "pool/at_1", np.array([1], np.int64))
    nodes = [
        _node("Unsqueeze", ["pool/mask_f32", "pool/at_1"], ["pool/mask_row"]),
        _node("MatMul", ["pool/mask_row", kept.input[0]], ["pool/sum_row"]),
        _node("Squeeze", ["pool/sum_row", "pool/at_1"], ["pool/sum"]),
    ]
    _replace(model, {"pool/mask_3d", "pool/kept", "pool/sum"}, first="pool/sum", nodes=nodes)
    return 1


REWRITES: dict[str, Callable[[ModelProto], int]] = {
    "qkv": _fuse_qkv,
    "gelu": _gelu("none"),
    "gelu-tanh": _gelu("tanh"),
    "scale": _fold_scale,
    "pool": _pool_product,
}


def _users(model: ModelProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _replace(model: ModelProto, gone: set[str], first: str, nodes: list[NodeProto]) -> None:
    """Takes out the nodes that write `gone` and puts `nodes` where the one that wrote `first` was."""
    kept: list[NodeProto] = []
    for node in model.graph.node:
        if first in node.output:
            kept += nodes
        elif not gone & set(node.output):
            kept.append(node)
    copies = []
    for node in kept:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _constant(model: ModelProto, name: str, value: np.ndarray) -> None:
    if all(tensor.name != name for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))


def _drop_unused(model: ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) < len(model.graph.initializer):
        copies = [type(t).FromString(t.SerializeToString()) for t in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"{outputs[0]}:{op}", **attributes)
