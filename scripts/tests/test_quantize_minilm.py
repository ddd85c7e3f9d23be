"""The real model through a short calibration: figures, kernels and size that the product promises."""

from __future__ import annotations

import json

import quantize_model
from akidb_tools import channel_moves, quantize


def test_minilm_int8_small(minilm, sentences, tmp_path, cli, monkeypatch):
    monkeypatch.setattr(quantize, "JUDGE_TEXTS", 24)
    monkeypatch.setattr(channel_moves, "ROWS", 192)
    given = ["--model", minilm, "--calibration-data", sentences, "--output", tmp_path / "all-MiniLM-L6-v2-INT8.onnx"]
    done = cli(quantize_model, *given, "--recipe", "int8-small", "--calibrate", 48)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "all-MiniLM-L6-v2-INT8.report.json").read_text("utf-8"))
    assert report["size"]["ratio"] <= 0.265
    assert report["measured"]["mean_cosine"] >= 0.99 and report["measured"]["min_cosine"] >= 0.98
    assert report["odd_texts"]["min_cosine"] >= 0.95 and report["odd_texts"]["n"] == 30
    assert report["batch_invariance"] >= 0.9999
    assert (report["kernels"]["linear_int8"], report["kernels"]["linear_float"]) == (36, 0)
