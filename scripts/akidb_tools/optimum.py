"""A feature-extraction ONNX model (as optimum-cli writes it) enters; the same graph with pooling and norm leaves.

Inputs and weights are kept as they are. A graph whose inputs or outputs are not understood is refused by name.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from .errors import BadInput
from .pooling import OUTPUT_NAME, pooling_nodes

HIDDEN_NAMES = ("last_hidden_state", "token_embeddings")
REQUIRED, OPTIONAL = ("input_ids", "attention_mask"), ("token_type_ids",)
LEAST_OPSET = 13  # from here on `Unsqueeze` and `ReduceSum` take their axes as inputs


def load(file: Path) -> ModelProto:
    """The model with its external data, checked."""
    try:
        model = onnx.load(file)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, path and checker errors share no base class
        raise BadInput(f"{file} is not a usable ONNX model: {str(error).strip().splitlines()[0]}") from error
    return model


def hidden_output(model: ModelProto, file: Path) -> str:
    """Name of the hidden states [batch, tokens, dim], after checking inputs, types and opset."""
    inputs = {i.name: i.type.tensor_type for i in model.graph.input}
    missing = [n for n in REQUIRED if n not in inputs]
    strange = [n for n in inputs if n not in REQUIRED + OPTIONAL]
    if missing or strange:
        raise BadInput(
            f"{file}: inputs are {', '.join(inputs)}; expected {', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}"
        )
    for name, kind in inputs.items():
        if kind.elem_type != TensorProto.INT64:
            raise BadInput(f"{file}: input {name} is {TensorProto.DataType.Name(kind.elem_type)}, expected INT64")
    outputs = {o.name: o.type.tensor_type for o in model.graph.output}
    found = next((n for n in HIDDEN_NAMES if n in outputs), None)
    if found is None:
        raise BadInput(
            f"{file}: outputs are {', '.join(outputs)}; expected one of {', '.join(HIDDEN_NAMES)} "
            "(export with `optimum-cli export onnx --task feature-extraction`)"
        )
    rank = len(outputs[found].shape.dim)
    if outputs[found].elem_type != TensorProto.FLOAT or rank != 3:
        kind = TensorProto.DataType.Name(outputs[found].elem_type)
        raise BadInput(f"{file}: output {found} is {kind} of rank {rank}, expected FLOAT of rank 3")
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise BadInput(f"{file}: opset {opset} is older than {LEAST_OPSET}; export again with --opset 17")
    return found


def add_pooling(model: ModelProto, hidden: str, pooling: str, dimension: int) -> ModelProto:
    """A copy whose only output is `sentence_embedding`."""
    finished = ModelProto()
    finished.CopyFrom(model)
    graph = finished.graph
    # Some exporters already call a tensor inside the graph by the name we need.
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == OUTPUT_NAME:
                    names[index] = f"{OUTPUT_NAME}_of_source"
    nodes, constants = pooling_nodes(hidden, "attention_mask", pooling, prefix="akidb_pool")
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", dimension]))
    return finished
