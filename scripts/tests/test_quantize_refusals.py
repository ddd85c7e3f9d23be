"""What cannot be quantized or compared is refused with exit code 2, a message that names it, and no traceback."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from onnx import TensorProto, helper

import quantize_model
import validate_quantization
from akidb_tools import bundle, text_sets
from akidb_tools.tokenizer import Encoder


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    """A copy of the tiny bundle; `seal` lists its files again after a change."""
    folder = tmp_path / "in"
    shutil.copytree(tiny_bundle, folder)
    return folder


def seal(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    for entry in manifest["files"]:
        entry["sha256"] = bundle.sha256(folder / entry["path"])
    manifest["model"]["tokenizer_sha256"] = bundle.sha256(folder / "tokenizer.json")
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


@pytest.fixture
def refused(tmp_path, cli, sentences):
    def _refused(model, *more, data=None):
        given = ["--calibration-data", data or sentences, "--any-language", "--output", tmp_path / "out"]
        done = cli(quantize_model, "--model", model, *given, *more)
        assert done.code == 2 and "Traceback" not in done.err and not (tmp_path / "out").exists(), done.err
        return done.err.strip().splitlines()[-1]

    return _refused


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "holds 0 different texts"),
        ("few.txt", b"one\ntwo\n", "holds 2 different texts"),
        ("same.txt", b"again\n" * 500, "holds 1 different texts"),
        ("binary.txt", b"\x89PNG\r\n\x1a\n\x00\xff" * 50, "is not UTF-8 text"),
        ("nul.txt", b"text\0text\n" * 50, "NUL"),
        ("bad.json", b"{not json", "is not JSON"),
        ("other.json", b'{"rows": [1, 2]}', "expected a list of texts"),
        ("numbers.json", b"[1, 2, 3]", "every item must be a string"),
    ],
)
def test_calibration_file(copy, refused, tmp_path, *, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said in refused(copy, data=tmp_path / name)


def test_missing_calibration_file(copy, refused, tmp_path):
    assert "is missing; make_corpus.py writes" in refused(copy, data=tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("language", "lines", "said"),
    [
        ("chinese", ["今天下午三点在图书馆门口见面", "请把这封信寄给我的老师"], "most letters are CJK"),
        ("russian", ["где находится ближайшая аптека", "поезд отправляется завтра утром"], "most letters are CYRILLIC"),
        (
            "german",
            ["Straßenbahnhaltestellen verschwinden allmählich überall", "Verständnisvolle Nachbarschaft"],
            "pieces each",
        ),
    ],
)
def test_another_language(minilm, tmp_path, cli, *, language, lines, said):
    (tmp_path / "texts.txt").write_text("\n".join(f"{line} {n}" for n in range(40) for line in lines), "utf-8")
    done = cli(
        quantize_model, "--model", minilm, "--calibration-data", tmp_path / "texts.txt", "--output", tmp_path / "out"
    )
    assert done.code == 2 and said in done.err and "--any-language" in done.err, language
    assert not (tmp_path / "out").exists()


def test_its_own_language_passes(minilm, sentences):
    text_sets.check_language(text_sets.read(sentences), Encoder((minilm / "tokenizer.json").read_bytes(), 256))


def test_onnx_without_matmul(copy, refused):
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "t"]) for n in ("input_ids", "attention_mask")]
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", "t"])
    node = helper.make_node("Cast", ["input_ids"], ["sentence_embedding"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "none", ids, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), copy / "model.onnx")
    seal(copy)
    assert "has no MatMul with a constant float32 matrix (it has Cast)" in refused(copy)


def test_mismatched_tokenizer(copy, refused, minilm):
    shutil.copy(minilm / "tokenizer.json", copy / "tokenizer.json")
    assert "its sha256 differs" in refused(copy)
    seal(copy)
    assert "they do not belong together" in refused(copy)


def test_wrong_bundles(copy, refused, tmp_path):
    assert "is not a bundle" in refused(tmp_path / "nowhere")
    assert "is not a bundle" in refused(tmp_path)
    (tmp_path / "plain.onnx").write_bytes((copy / "model.onnx").read_bytes())
    assert "plain.onnx is not a bundle (no plain.manifest.json" in refused(tmp_path / "plain.onnx")
    (copy / "model.onnx").write_bytes(b"not a graph")
    assert "its sha256 differs" in refused(copy)
    seal(copy)
    assert "is not a readable ONNX model" in refused(copy)
    (copy / "manifest.json").write_text('{"format": "akidb.bundle/9"}', "utf-8")
    assert "'akidb.bundle/9'" in refused(copy)
    (copy / "manifest.json").write_text("[]", "utf-8")
    assert "is not a bundle manifest" in refused(copy)


def test_quantized_already(copy, refused):
    seal(copy, variant={"name": "int8", "precision": "int8"})
    assert "is int8 already" in refused(copy)


@pytest.mark.parametrize(
    "options", [("--precision", "fp8", "--target", "cpu"), ("--target", "tensorrt"), ("--recipe", "fp8")]
)
def test_what_does_not_go_together(copy, refused, options):
    said = refused(copy, *options)
    assert "--recipe" in options or "build_tensorrt_engine.py" in said


def test_validate_refuses_another_model(tiny_bundle, minilm, sentences, cli):
    done = cli(validate_quantization, "--fp32", minilm, "--quantized", tiny_bundle, "--test-dataset", sentences)
    assert done.code == 2 and "are not the same model: embedding_space" in done.err


def test_validate_without_a_parent(copy, sentences, cli):
    done = cli(validate_quantization, "--model", copy, "--test-dataset", sentences)
    assert done.code == 2 and "has no parent_digest" in done.err
    seal(copy, lineage={"parent_digest": "0" * 64})
    done = cli(validate_quantization, "--model", copy, "--test-dataset", sentences)
    assert done.code == 2 and "(digest 0000000000000000) is not in" in done.err


def test_int8_that_multiplies_fp32_fails(copy, tiny_bundle, sentences, cli):
    seal(copy, variant={"name": "int8", "precision": "int8"})
    done = cli(validate_quantization, "--fp32", tiny_bundle, "--quantized", copy, "--test-dataset", sentences)
    assert done.code == 1 and "no int8 kernel ran" in done.out
    done = cli(
        validate_quantization,
        "--fp32",
        tiny_bundle,
        "--quantized",
        copy,
        "--test-dataset",
        sentences,
        "--gate",
        "speed=2",
    )
    assert done.code == 2
