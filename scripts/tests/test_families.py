"""Tiny seeded checkpoints: every supported family and option, the witness against transformers, and determinism."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import tiny

from akidb_tools import architecture, export, forward, parity, weights
from akidb_tools.tokenizer import Encoder

FAMILIES = sorted(tiny.ARCHITECTURE)


@pytest.mark.parametrize("kind", FAMILIES)
def test_forward_agrees_with_transformers(kind, tmp_path, tiny_golden):
    folder = tiny.checkpoint(tmp_path / "m", kind)
    config = architecture.encoder_config(folder / "config.json")
    witness = forward.Forward(config, weights.load(weights.weight_files(folder)))
    states = witness.hidden_states(np.array(tiny_golden["ids"]))
    np.testing.assert_allclose(states[[0, -1]], tiny_golden["hidden"][kind], atol=5e-6)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_graph_agrees_with_transformers(kind, pooling, tmp_path, tiny_golden, run):
    folder = tiny.checkpoint(tmp_path / "m", kind, pooling)
    done = run("--model", folder, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    # cls is the first hidden state; mean is checked through the same graph's parity with the witness.
    rows = [np.array(tiny_golden["ids"]), np.array([2, 30, 3])]
    got = parity.embed(tmp_path / "out/model.onnx", rows, "sentence_embedding")[0]
    first = np.array(tiny_golden["hidden"][kind][0])
    agrees = parity.cosine(got, first) > 0.999999
    assert agrees == (pooling == "cls")
    assert json.loads((tmp_path / "out/manifest.json").read_text())["model"]["pooling"] == pooling


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_only_gives_zero_not_nan(pooling, tmp_path, run):
    folder = tiny.checkpoint(tmp_path / "m", pooling=pooling)
    assert run("--model", folder, "--output", tmp_path / "out").code == 0
    feed = {"input_ids": np.array([[2, 30, 3]] * 2), "attention_mask": np.array([[1, 1, 1], [0, 0, 0]])}
    got = parity.session(tmp_path / "out/model.onnx").run(None, feed)[0]
    assert np.isfinite(got).all() and got[0].any() and not got[1].any()


def test_families_differ_so_the_golden_file_can_tell_them_apart(tiny_golden):
    hidden = {kind: np.array(tiny_golden["hidden"][kind][0]) for kind in ("bert", "roberta", "distilbert")}
    assert parity.cosine(hidden["bert"], hidden["roberta"]) < 0.9
    assert parity.cosine(hidden["bert"], hidden["distilbert"]) < 0.9


def test_relu_and_head_prefix(tmp_path, run):
    from safetensors.numpy import load_file, save_file

    folder = tiny.checkpoint(tmp_path / "m", hidden_act="relu", architectures=["BertForMaskedLM"])
    tensors = {f"bert.{k}": v for k, v in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "cls.predictions.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    assert run("--model", folder, "--output", tmp_path / "out").code == 0
    kinds = {n.op_type for n in onnx.load(tmp_path / "out/model.onnx").graph.node}
    assert "Relu" in kinds and "Erf" not in kinds


def test_shards_give_the_same_engine(tmp_path, run):
    from safetensors.numpy import load_file, save_file

    whole = tiny.checkpoint(tmp_path / "whole")
    parts = tiny.checkpoint(tmp_path / "parts")
    tensors = load_file(parts / "model.safetensors")
    (parts / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(where.values()):
        save_file({n: tensors[n] for n in names if where[n] == file}, parts / file)
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for folder in (whole, parts):
        done = run("--model", folder, "--output", tmp_path / f"{folder.name}-out")
        assert done.code == 0, done.err
    assert (tmp_path / "whole-out/model.onnx").read_bytes() == (tmp_path / "parts-out/model.onnx").read_bytes()


def test_large_weights_go_to_a_file_beside_the_graph(tmp_path, run, monkeypatch):
    monkeypatch.setattr(export, "EXTERNAL_BYTES", 10_000)
    done = run("--model", tiny.checkpoint(tmp_path / "m"), "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    files = {f["role"]: f for f in json.loads(done.out)["files"]}
    assert files["engine_data"]["path"] == "model.onnx.data"
    assert files["engine_data"]["bytes"] > files["engine"]["bytes"]


def test_same_input_same_bytes(tmp_path, run, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    folder = tiny.checkpoint(tmp_path / "m")
    for name in ("a", "b"):
        assert run("--model", folder, "--output", tmp_path / name).code == 0
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    created = json.loads((tmp_path / "a/manifest.json").read_text())["created_at"]
    assert created == "2023-11-14T22:13:20Z"


def test_options_beat_the_checkpoint(tmp_path, run):
    folder = tiny.checkpoint(tmp_path / "m")
    options = ["--name", "My.Model-1", "--max-tokens", 9, "--license", "MIT", "--pooling", "cls"]
    assert run("--model", folder, "--output", tmp_path / "out", *options).code == 0
    model = json.loads((tmp_path / "out/manifest.json").read_text())["model"]
    assert (model["name"], model["max_tokens"], model["license"], model["pooling"]) == ("My.Model-1", 9, "MIT", "cls")
    # Other pooling than the checkpoint's own gives vectors of another space.
    assert model["embedding_space"].startswith("my.model-1@sha256:")
    assert model["embedding_space"].endswith("+cls")
    assert run("--model", folder, "--output", tmp_path / "own", "--embedding-space", "ours/1").code == 0
    assert json.loads((tmp_path / "own/manifest.json").read_text())["model"]["embedding_space"] == "ours/1"


def test_max_tokens_is_the_least_limit(tmp_path, run):
    for stated, expected in ((24, 24), (512, tiny.POSITIONS)):
        folder = tiny.checkpoint(tmp_path / f"m{stated}")
        tiny.edit(folder / "sentence_bert_config.json", max_seq_length=stated)
        done = run("--model", folder, "--output", tmp_path / f"out{stated}", "--json")
        assert json.loads(done.out)["max_tokens"] == expected
    offset = tiny.checkpoint(tmp_path / "r", "roberta")
    tiny.edit(offset / "sentence_bert_config.json", max_seq_length=512)
    done = run("--model", offset, "--output", tmp_path / "out-r", "--json")
    assert json.loads(done.out)["max_tokens"] == tiny.POSITIONS - 2


def test_lowercase_and_prompts_travel(tmp_path, run):
    folder = tiny.checkpoint(tmp_path / "m")
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(document))
    tiny.edit(folder / "sentence_bert_config.json", do_lower_case=True)
    prompts = {"query": "find: ", "document": ""}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    assert run("--model", folder, "--output", tmp_path / "out").code == 0
    written = Encoder((tmp_path / "out/tokenizer.json").read_bytes(), 24)
    assert written.ids("ABC").tolist() == written.ids("abc").tolist()
    source = Encoder((folder / "tokenizer.json").read_bytes(), 24)
    assert source.ids("ABC").tolist() != source.ids("abc").tolist()
    model = json.loads((tmp_path / "out/manifest.json").read_text())["model"]
    assert model["prompts"] == prompts
