"""Encoder weights enter, a clean fp32 ONNX model leaves: two int64 inputs, one unit vector a text.

Only standard operators, which TensorRT and the quantizers need, in the forms that ONNX Runtime's optimizers recognise:
at load time it fuses bias + GELU and scale + MatMul; its offline optimizer finds attention and skip + LayerNorm too.
On a CPU those two bring nothing (MiniLM, 32 x 32 tokens, two cores: 67 ms as written, 78 with skip + LayerNorm, 80 with
both). Must never share code with `forward`, which proves this graph right.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from . import __version__
from .architecture import EncoderConfig
from .pooling import OUTPUT_NAME, pooling_nodes

OPSET = 19  # LayerNormalization (17) and float8 QuantizeLinear (19), so quantizers need not convert the graph
IR_VERSION = 9
MASKED_SCORE = -10_000.0  # finite: a row of padding only must not become NaN; fits fp16 as well
INPUT_NAMES = ["input_ids", "attention_mask"]

BERT_NAMES = {
    "query": "encoder.layer.{}.attention.self.query",
    "key": "encoder.layer.{}.attention.self.key",
    "value": "encoder.layer.{}.attention.self.value",
    "attention_out": "encoder.layer.{}.attention.output.dense",
    "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "up": "encoder.layer.{}.intermediate.dense",
    "down": "encoder.layer.{}.output.dense",
    "out_norm": "encoder.layer.{}.output.LayerNorm",
}
DISTILBERT_NAMES = {
    "query": "transformer.layer.{}.attention.q_lin",
    "key": "transformer.layer.{}.attention.k_lin",
    "value": "transformer.layer.{}.attention.v_lin",
    "attention_out": "transformer.layer.{}.attention.out_lin",
    "attention_norm": "transformer.layer.{}.sa_layer_norm",
    "up": "transformer.layer.{}.ffn.lin1",
    "down": "transformer.layer.{}.ffn.lin2",
    "out_norm": "transformer.layer.{}.output_layer_norm",
}


def build(config: EncoderConfig, weights: Mapping[str, np.ndarray], pooling: str) -> ModelProto:
    """The whole model: embeddings, `config.layers` encoder layers, pooling, L2 normalisation."""
    graph = _Graph(config, weights)
    mask_bias = graph.mask_bias()
    hidden = graph.embeddings()
    for layer in range(config.layers):
        hidden = graph.layer(hidden, mask_bias, layer)
    nodes, constants = pooling_nodes(hidden, "attention_mask", pooling)
    graph.nodes += nodes
    graph.constants += constants
    return graph.model(config.hidden)


class _Graph:
    """Collects nodes and constants; a method adds one part and returns the name of its result."""

    def __init__(self, config: EncoderConfig, weights: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.weights = weights
        self.names = DISTILBERT_NAMES if config.model_type == "distilbert" else BERT_NAMES
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}:{op}", **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Adds a constant once; a second call with the same name is the same constant."""
        if all(existing.name != name for existing in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, transpose: bool = False) -> str:
        value = self.weights[name]
        return self.constant(name, value.T if transpose else value)

    def norm(self, inputs: str, weight: str, output: str) -> str:
        scale, bias = self.weight(f"{weight}.weight"), self.weight(f"{weight}.bias")
        return self.add("LayerNormalization", [inputs, scale, bias], output, axis=-1, epsilon=self.config.norm_eps)

    def linear(self, inputs: str, weight: str, output: str) -> str:
        product = self.add("MatMul", [inputs, self.weight(f"{weight}.weight", transpose=True)], f"{output}/matmul")
        # Bias first: the form in which the optimizer recognises bias + GELU and attention inputs.
        return self.add("Add", [product, self.weight(f"{weight}.bias")], output)

    def embeddings(self) -> str:
        """Word + position + token type 0. Positions come by `Slice`; `Gather(Range)` is broken by ORT's optimizer."""
        tables = "embeddings.{}_embeddings.weight"
        positions = self.weights[tables.format("position")][self.config.position_offset :]
        if self.config.type_vocab:
            positions = positions + self.weights[tables.format("token_type")][0]
        table = self.constant("embeddings.positions", positions)
        one, two = (self.constant(f"int_{n}", np.array([n], np.int64)) for n in (1, 2))
        zero = self.constant("int_0", np.array([0], np.int64))
        shape = self.add("Shape", ["input_ids"], "embeddings/shape")
        tokens = self.add("Slice", [shape, one, two, zero], "embeddings/tokens")
        position = self.add("Slice", [table, zero, tokens, zero], "embeddings/position")
        word = self.add("Gather", [self.weight(tables.format("word")), "input_ids"], "embeddings/word", axis=0)
        return self.norm(self.add("Add", [word, position], "embeddings/sum"), "embeddings.LayerNorm", "embeddings/out")

    def mask_bias(self) -> str:
        """0 for real tokens and `MASKED_SCORE` for padding, [batch, 1, 1, tokens]."""
        one, two = (self.constant(f"int_{n}", np.array([n], np.int64)) for n in (1, 2))
        keys = self.add("Unsqueeze", ["attention_mask", one], "mask/3d")
        keys = self.add("Unsqueeze", [keys, two], "mask/4d")
        keys = self.add("Cast", [keys], "mask/f32", to=TensorProto.FLOAT)
        padding = self.add("Sub", [self.constant("one", np.array(1, np.float32)), keys], "mask/padding")
        score = self.constant("masked_score", np.array(MASKED_SCORE, np.float32))
        return self.add("Mul", [padding, score], "mask/bias")

    def layer(self, hidden: str, mask_bias: str, index: int) -> str:
        name = {part: template.format(index) for part, template in self.names.items()}
        attended = self.attention(hidden, mask_bias, name, f"layer.{index}/attention")
        summed = self.add("Add", [attended, hidden], f"layer.{index}/attention/residual")
        middle = self.norm(summed, name["attention_norm"], f"layer.{index}/attention/out")
        up = self.activation(self.linear(middle, name["up"], f"layer.{index}/up"), f"layer.{index}/act")
        down = self.linear(up, name["down"], f"layer.{index}/down")
        summed = self.add("Add", [down, middle], f"layer.{index}/residual")
        return self.norm(summed, name["out_norm"], f"layer.{index}/out")

    def attention(self, hidden: str, mask_bias: str, name: Mapping[str, str], at: str) -> str:
        heads, size = self.config.heads, self.config.hidden // self.config.heads
        split = self.constant("split_heads", np.array([0, 0, heads, size], np.int64))
        join = self.constant("join_heads", np.array([0, 0, heads * size], np.int64))

        def projected(part: str, order: list[int]) -> str:
            rows = self.add("Reshape", [self.linear(hidden, name[part], f"{at}/{part}"), split], f"{at}/{part}/split")
            return self.add("Transpose", [rows], f"{at}/{part}/heads", perm=order)

        query = projected("query", [0, 2, 1, 3])
        key = projected("key", [0, 2, 3, 1])
        value = projected("value", [0, 2, 1, 3])
        root = self.constant("sqrt_head_size", np.array(np.sqrt(size), np.float32))
        scores = self.add("Div", [self.add("MatMul", [query, key], f"{at}/qk"), root], f"{at}/scores")
        shares = self.add("Softmax", [self.add("Add", [scores, mask_bias], f"{at}/masked")], f"{at}/shares", axis=-1)
        mixed = self.add("MatMul", [shares, value], f"{at}/mix")
        mixed = self.add("Transpose", [mixed], f"{at}/mix/t", perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", [mixed, join], f"{at}/joined"), name["attention_out"], f"{at}/projected")

    def activation(self, inputs: str, output: str) -> str:
        if self.config.activation == "relu":
            return self.add("Relu", [inputs], output)
        # Exact GELU, x * (1 + erf(x / sqrt 2)) / 2, in the form the optimizer fuses.
        root = self.constant("sqrt_2", np.array(np.sqrt(2), np.float32))
        one, half = (self.constant(n, np.array(v, np.float32)) for n, v in (("one", 1), ("half", 0.5)))
        erf = self.add("Erf", [self.add("Div", [inputs, root], f"{output}/scaled")], f"{output}/erf")
        grown = self.add("Mul", [inputs, self.add("Add", [erf, one], f"{output}/plus_1")], f"{output}/grown")
        return self.add("Mul", [grown, half], output)

    def model(self, dimension: int) -> ModelProto:
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in INPUT_NAMES]
        output = helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", dimension])
        graph = helper.make_graph(self.nodes, "text_encoder", inputs, [output], self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="akidb-tools",
            producer_version=__version__,
        )
