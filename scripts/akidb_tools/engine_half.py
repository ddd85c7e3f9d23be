"""An fp32 graph (with or without QDQ pairs) enters; the same graph with float16 tensors written out leaves.

For builders that take types from the graph (strongly typed networks): without it everything beside FP8 would run in
fp32. Pooling and normalisation stay fp32, and so do inputs and the output. QDQ scales become float16 as their data.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .errors import BadInput

WHOLE = "pool/"  # nodes that stay fp32: both graph writers end with them (akidb_tools/pooling.py)
LARGEST = 65_504.0


def to_half(model: ModelProto) -> ModelProto:
    """A copy; a graph without the project's own pooling nodes is refused."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    half = [node for node in graph.node if not node.name.startswith(WHOLE)]
    whole = [node for node in graph.node if node.name.startswith(WHOLE)]
    if not whole:
        raise BadInput("the graph has no pooling nodes of this project: float16 cannot be written into it")
    _constants(graph, {n for node in half for n in node.input}, {n for node in whole for n in node.input})
    for node in half:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    _widen(graph, half, whole)
    del graph.value_info[:]
    return result


def _constants(graph: object, half: set[str], whole: set[str]) -> None:
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name in half:
            if tensor.name in whole:
                raise BadInput(f"the constant {tensor.name} is shared by the encoder and the pooling")
            value = np.clip(numpy_helper.to_array(tensor), -LARGEST, LARGEST).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


def _widen(graph: object, half: list[NodeProto], whole: list[NodeProto]) -> None:
    """Casts what pooling reads of the encoder back to fp32."""
    made = {name for node in half for name in node.output}
    crossing = sorted({name for node in whole for name in node.input if name in made})
    casts = [helper.make_node("Cast", [n], [f"{n}/f32"], name=f"{n}/f32:Cast", to=TensorProto.FLOAT) for n in crossing]
    for node in whole:
        for at, name in enumerate(node.input):
            if name in made:
                node.input[at] = f"{name}/f32"
    kept = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(_ordered([*kept, *casts], {i.name for i in graph.input}, graph))


def _ordered(nodes: list[NodeProto], inputs: set[str], graph: object) -> list[NodeProto]:
    """Topological order: pooling nodes that read only the mask may stand before the encoder's last ones."""
    known = inputs | {tensor.name for tensor in graph.initializer} | {""}
    waiting, done = list(nodes), []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        if not ready:
            raise BadInput(f"the graph's nodes have no order: {waiting[0].name} waits for {list(waiting[0].input)}")
        done += ready
        known |= {name for node in ready for name in node.output}
        taken = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in taken]
    return done
