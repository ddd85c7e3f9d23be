"""Feature-extraction ONNX files as other exporters write them: pooling is added, the rest stays; or a refusal by name.

The source graphs are cut out of bundles made here, before their pooling, so they are real encoders.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from akidb_tools import architecture, parity


def feature_extraction(run, folder, target, seed=7, inputs=("input_ids", "attention_mask")):
    """Writes `target` with output last_hidden_state from a tiny checkpoint; returns the checkpoint."""
    source = tiny.checkpoint(folder, seed=seed)
    assert run("--model", source, "--output", folder.parent / f"{folder.name}-bundle").code == 0
    model = onnx.load(folder.parent / f"{folder.name}-bundle/model.onnx")
    graph = model.graph
    nodes = [n for n in graph.node if not any(o.startswith("pool/") or o == "sentence_embedding" for o in n.output)]
    last = nodes[-1].output[0]
    nodes.append(helper.make_node("Identity", [last], ["last_hidden_state"]))
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [i for i in graph.initializer if not i.name.startswith("pool/")]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.output[:]
    shape = ["batch", "tokens", tiny.HIDDEN]
    graph.output.append(helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape))
    for name in inputs[2:]:
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return source


@pytest.fixture
def exported(run, tmp_path):
    """A folder as optimum-cli writes it: model.onnx, config.json, tokenizer.json; no safetensors."""
    out = tmp_path / "optimum"
    source = feature_extraction(run, tmp_path / "ckpt", out / "model.onnx")
    for name in ("config.json", "tokenizer.json", "sentence_bert_config.json"):
        (out / name).write_bytes((source / name).read_bytes())
    return out


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_folder_gets_pooling_and_norm(pooling, exported, tmp_path, run):
    done = run("--model", exported, "--output", tmp_path / "out", "--pooling", pooling, "--name", "tiny")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert "model.onnx kept" in manifest["lineage"]["recipe"]
    assert "no safetensors" in manifest["lineage"]["recipe"]
    assert manifest["graph"] == {"inputs": ["input_ids", "attention_mask"], "output": "sentence_embedding"}
    assert "model.onnx" in {f["path"] for f in manifest["lineage"]["source_files"]}
    # The same vectors as the direct export of the checkpoint the graph came from.
    assert run("--model", tmp_path / "ckpt", "--output", tmp_path / "direct", "--pooling", pooling).code == 0
    rows = [np.array([2, 30, 41, 3]), np.array([2, 52, 3])]
    ours, direct = (parity.embed(tmp_path / d / "model.onnx", rows, "sentence_embedding") for d in ("out", "direct"))
    assert parity.compare(ours, direct).min_cosine > 0.999999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_file_beside_safetensors_is_checked_against_them(run, tmp_path):
    source = feature_extraction(run, tmp_path / "ckpt", tmp_path / "ckpt/export.onnx")
    done = run("--model", source / "export.onnx", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert "numpy forward pass" in manifest["lineage"]["recipe"]
    assert manifest["model"]["name"] == "export"
    # The folder itself is the checkpoint: its safetensors win.
    assert run("--model", source, "--output", tmp_path / "folder").code == 0
    assert "written from safetensors" in (tmp_path / "folder/manifest.json").read_text()


def test_file_with_the_weights_of_another_model_fails_parity(run, tmp_path):
    feature_extraction(run, tmp_path / "other", tmp_path / "other.onnx", seed=8)
    source = tiny.checkpoint(tmp_path / "ckpt", seed=7)
    (tmp_path / "other.onnx").rename(source / "other.onnx")
    done = run("--model", source / "other.onnx", "--output", tmp_path / "out")
    assert done.code == 1 and "parity failed" in done.err
    assert not (tmp_path / "out").exists()


def test_token_types_are_kept_as_an_input(run, tmp_path):
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    source = feature_extraction(run, tmp_path / "ckpt", tmp_path / "ckpt/x.onnx", inputs=inputs)
    assert run("--model", source / "x.onnx", "--output", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out/manifest.json").read_text())["graph"]["inputs"] == list(inputs)


def changed(folder, change) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")


def rename_output(model):
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits"


def cut_rank(model):
    model.graph.node[-1].CopyFrom(helper.make_node("ReduceMax", [model.graph.node[-1].input[0]], ["last_hidden_state"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [1, 1]))


def add_positions(model):
    model.graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "tokens"]))


def old_opset(model):
    node = helper.make_node("Relu", ["input_ids_f"], ["last_hidden_state"])
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    cast = helper.make_node("Cast", ["input_ids"], ["flat"], to=TensorProto.FLOAT)
    wide = helper.make_node("Unsqueeze", ["flat"], ["input_ids_f"], axes=[2])
    out = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "t", 1])]
    opsets = [helper.make_opsetid("", 11)]
    model.CopyFrom(helper.make_model(helper.make_graph([cast, wide, node], "g", inputs, out), opset_imports=opsets))


REFUSALS = [
    (rename_output, ["outputs are logits", "last_hidden_state"]),
    (cut_rank, ["rank 2", "rank 3"]),
    (add_positions, ["position_ids", "expected input_ids, attention_mask"]),
    (old_opset, ["opset 11", "--opset 17"]),
]


@pytest.mark.parametrize(("change", "words"), REFUSALS, ids=lambda v: getattr(v, "__name__", ""))
def test_graphs_refused_by_name(change, words, exported, tmp_path, run):
    changed(exported, change)
    done = run("--model", exported, "--output", tmp_path / "out", "--pooling", "mean")
    assert done.code == 2, done.err
    for word in words:
        assert word in done.err
    assert not (tmp_path / "out").exists()


def test_not_onnx_at_all_and_several_files(exported, tmp_path, run):
    (exported / "second.onnx").write_bytes(b"not a graph")
    done = run("--model", exported, "--output", tmp_path / "out")
    assert done.code == 2 and "several ONNX files (model.onnx, second.onnx)" in done.err
    done = run("--model", exported / "second.onnx", "--output", tmp_path / "out", "--pooling", "mean")
    assert done.code == 2 and "second.onnx is not a usable ONNX model" in done.err


def test_limits_must_be_known(exported, tmp_path, run):
    (exported / "config.json").unlink()
    (exported / "sentence_bert_config.json").unlink()
    done = run("--model", exported, "--output", tmp_path / "out", "--pooling", "mean")
    assert done.code == 2 and "--max-tokens N" in done.err
    options = ["--pooling", "mean", "--max-tokens", 16]
    assert run("--model", exported, "--output", tmp_path / "out", *options).code == 0


def test_positions_of_an_unsupported_family_are_still_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mpnet", "max_position_embeddings": 514}))
    assert architecture.stated_positions(tmp_path / "config.json") == 514
