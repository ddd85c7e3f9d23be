"""What cannot be exported faithfully is refused by name, with exit code 2, no traceback and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

SCRIPT = Path(__file__).parent.parent / "export_onnx.py"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny.checkpoint(tmp_path / "m")


def refused(run, folder, *words: str, options: tuple = ()) -> None:
    """The export of `folder` must end with code 2, name every word, and leave nothing beside the input."""
    before = sorted(p.name for p in folder.parent.iterdir())
    done = run("--model", folder, "--output", folder.parent / "out", *options)
    assert done.code == 2, done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last
    assert sorted(p.name for p in folder.parent.iterdir()) == before


CONFIG = [
    ({"model_type": "mpnet", "architectures": ["MPNetModel"]}, ["mpnet", "MPNetModel", "distilbert"]),
    ({"architectures": ["NomicBertModel"]}, ["NomicBertModel", "BertModel"]),
    ({"position_embedding_type": "relative_key"}, ["relative_key", "absolute"]),
    ({"hidden_act": "swish"}, ["hidden_act", "swish", "gelu, relu"]),
    ({"is_decoder": True}, ["is_decoder"]),
    ({"num_attention_heads": 5}, ["32", "5 attention heads"]),
    ({"num_hidden_layers": "two"}, ["num_hidden_layers", "'two'"]),
    ({"num_hidden_layers": 3}, ["encoder.layer.2", "config.json"]),
    ({"num_hidden_layers": 1}, ["ignore", "encoder.layer.1"]),
    ({"intermediate_size": 63}, ["intermediate.dense.weight", "[64, 32]", "[63, 32]"]),
]


@pytest.mark.parametrize(("change", "words"), CONFIG, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(CONFIG)])
def test_config(change, words, folder, run):
    tiny.edit(folder / "config.json", **change)
    refused(run, folder, *words)


@pytest.mark.parametrize("mode", ["max_tokens", "mean_sqrt_len_tokens", "lasttoken"])
def test_pooling_mode(mode, folder, run):
    tiny.edit(folder / "1_Pooling/config.json", pooling_mode_mean_tokens=False, **{f"pooling_mode_{mode}": True})
    refused(run, folder, mode, "mean, cls")


def test_two_pooling_modes_at_once(folder, run):
    tiny.edit(folder / "1_Pooling/config.json", pooling_mode_cls_token=True)
    refused(run, folder, "cls + mean")


def test_pooling_not_stated(tmp_path, run):
    plain = tiny.checkpoint(tmp_path / "m", pooling=None)
    refused(run, plain, "1_Pooling/config.json", "--pooling mean|cls")
    assert run("--model", plain, "--output", tmp_path / "out", "--pooling", "mean").code == 0


def test_modules_that_change_the_vector(folder, run):
    modules = [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(run, folder, "Dense", "Transformer, Pooling, Normalize")


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b", "..\\b"])
def test_module_paths_stay_inside(path, folder, run):
    modules = [{"path": path, "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(run, folder, "leaves the checkpoint's folder")


def test_shard_names_stay_inside(folder, run):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"embeddings.LayerNorm.bias": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(run, folder, "../outside.safetensors", "plain name")


def test_pickled_weights_only(folder, run):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(run, folder, "pytorch_model.bin", "safe_serialization=True")


def test_damaged_files(folder, run):
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    refused(run, folder, "model.safetensors", "not a readable")
    (folder / "config.json").write_text("{")
    refused(run, folder, "config.json", "not JSON")


def test_integer_weights(folder, run):
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] = np.zeros(tiny.HIDDEN, np.int8)
    save_file(tensors, folder / "model.safetensors")
    refused(run, folder, "embeddings.LayerNorm.bias", "I8")


def test_tokenizer_missing_or_foreign(folder, run):
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {f"extra{i}": 1000 + i for i in range(300)}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    refused(run, folder, "do not belong together")
    (folder / "tokenizer.json").unlink()
    refused(run, folder, "tokenizer.json", "save_pretrained")


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "", "ü", "x" * 129])
def test_names(name, folder, run):
    refused(run, folder, "--name", options=(f"--name={name}",)) if name else refused(
        run, folder.rename(folder.parent / "ü"), "model name 'ü'"
    )


@pytest.mark.parametrize("tokens", [0, 2, -1, tiny.POSITIONS + 1])
def test_max_tokens(tokens, folder, run):
    refused(run, folder, "--max-tokens", f"3..{tiny.POSITIONS}", options=(f"--max-tokens={tokens}",))


def test_hub_id_without_a_network(tmp_path):
    """A real process, so that the hub library reads a clean environment."""
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, SCRIPT, "--model", "some-team/some-model", "--output", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stdout == ""
    for word in ("'some-team/some-model'", "local Hugging Face cache", "Hugging Face hub", "--model FOLDER"):
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_hub_cache_is_used_without_a_network(tmp_path):
    """The cache's own layout: refs/main names a snapshot whose files are links into blobs."""
    blobs = tiny.checkpoint(tmp_path / "hub/models--some-team--some-model/blobs")
    snapshot = blobs.parent / "snapshots/0123456789012345678901234567890123456789"
    for file in [p for p in blobs.rglob("*") if p.is_file()]:
        link = snapshot / file.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    (blobs.parent / "refs").mkdir()
    (blobs.parent / "refs/main").write_text(snapshot.name)
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, SCRIPT, "--model", "some-team/some-model", "--output", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    model = json.loads((tmp_path / "out/manifest.json").read_text())["model"]
    assert (model["name"], model["source"]) == ("some-model", "some-team/some-model")


@pytest.mark.parametrize("model", ["/no/such/folder", "no/such/file.onnx", "bad id!"])
def test_nothing_there(model, tmp_path, run):
    done = run("--model", model, "--output", tmp_path / "out")
    assert done.code == 2 and model in done.err and "was not found" in done.err


def test_folder_without_a_model(tmp_path, run):
    (tmp_path / "m").mkdir()
    refused(run, tmp_path / "m", "not a checkpoint")
