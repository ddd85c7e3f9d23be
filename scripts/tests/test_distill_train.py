"""The training itself, on a tiny teacher. Skipped where torch is not installed (make distill-setup)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

import distill_model
from akidb_tools import architecture, weights
from akidb_tools.forward import Forward

torch = pytest.importorskip("torch", reason="torch is not installed: make distill-setup")
from akidb_tools import distill_net, distill_train  # noqa: E402

SCRIPT = Path(distill_model.__file__)


def test_net_agrees_with_the_numpy_forward(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    shape = architecture.encoder_config(folder / "config.json")
    tensors = weights.load([folder / "model.safetensors"])
    rows = [np.array([2, *range(5, 5 + n), 3]) for n in (1, 9, 4, 20)]
    for pooling in ("mean", "cls"):
        got = distill_net.embed_all(distill_net.Encoder(shape, tensors, pooling, "cpu"), rows)
        expected = np.array([Forward(shape, tensors).embedding(row, pooling) for row in rows])
        assert np.abs(got - expected).max() < 1e-5


def test_moments_are_those_of_numpy(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    shape = architecture.encoder_config(folder / "config.json")
    encoder = distill_net.Encoder(shape, weights.load([folder / "model.safetensors"]), "mean", "cpu")
    rows, seen = [np.array([2, *range(5, 5 + n), 3]) for n in (2, 7, 12)], []
    for row in rows:
        inner = []
        encoder.states(*distill_net.batch([row], "cpu"), inner)
        seen.append(inner[1][0].numpy())
    expected, got = np.concatenate(seen), distill_net.moments(encoder, rows, [1])[1]
    assert np.allclose(got.mean, expected.mean(0), atol=1e-5)
    assert np.allclose(got.covariance, np.cov(expected.T, bias=True), atol=1e-4)


def test_attention_spelt_out_is_torchs_own(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    shape = architecture.encoder_config(folder / "config.json")
    encoder = distill_net.Encoder(shape, weights.load([folder / "model.safetensors"]), "mean", "cpu")
    ids, mask = distill_net.batch([np.array([2, *range(5, 5 + n), 3]) for n in (1, 9, 4)], "cpu")
    expected = encoder.states(ids, mask)[mask]
    for value in encoder.parameters.values():
        value.requires_grad_(True)
    assert (encoder.states(ids, mask)[mask] - expected).abs().max() < 1e-5


def test_states_of_all_are_those_of_each(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    shape = architecture.encoder_config(folder / "config.json")
    encoder = distill_net.Encoder(shape, weights.load([folder / "model.safetensors"]), "mean", "cpu")
    rows = [np.array([2, *range(5, 5 + n), 3]) for n in (6, 1, 9, 4)]
    each = [encoder.states(*distill_net.batch([row], "cpu"))[0].numpy() for row in rows]
    assert np.abs(distill_net.states_of_all(encoder, rows, 2) - np.concatenate(each)).max() < 1e-2


def test_plan_sees_each_text_once_an_epoch():
    lengths = np.random.RandomState(0).randint(3, 60, 1000)
    batches = distill_train.plan(lengths, 16, 1, 0)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.15 * lengths.sum()
    other = distill_train.plan(lengths, 16, 1, 1)
    assert [b.tolist() for b in batches] == [b.tolist() for b in distill_train.plan(lengths, 16, 1, 0)]
    assert [b.tolist() for b in batches] != [b.tolist() for b in other]


def distil(cli, teacher, output, sentences, *more):
    given = [
        "--teacher",
        teacher,
        "--student-layers",
        1,
        "--student-intermediate",
        32,
        "--output",
        output,
        "--corpus",
        sentences,
    ]
    limits = [
        "--min-cosine",
        0.8,
        "--min-recall",
        0,
        "--cache",
        output.parent / "cache",
        "--epochs",
        4,
        "--batch",
        16,
        "--threads",
        1,
    ]
    return cli(distill_model, *given, *limits, *more)


def test_student_learns_and_is_written(tmp_path, cli, run, sentences):
    teacher = tiny.checkpoint(tmp_path / "teacher")
    done = distil(cli, teacher, tmp_path / "student", sentences, "--learning-rate", 0.005, "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["training"]["texts_seen"] >= 4 * record["corpus"]["n"] - 4 * 16
    assert record["evaluation"]["mean_cosine"] >= 0.8 and not (tmp_path / "student.unfinished").exists()
    again = distil(cli, teacher, tmp_path / "student", sentences, "--learning-rate", 0.005)
    assert again.code == 2 and "--force" in again.err
    assert run("--model", tmp_path / "student", "--output", tmp_path / "b/small").code == 0


def test_missed_gate_writes_nothing_and_keeps_the_state(tmp_path, cli, sentences):
    teacher = tiny.checkpoint(tmp_path / "teacher")
    done = distil(cli, teacher, tmp_path / "student", sentences, "--min-recall", 1)
    assert done.code == 1 and "below its gate 1" in done.err and not (tmp_path / "student").exists()
    done = distil(cli, teacher, tmp_path / "student", sentences, "--min-recall", 1, "--allow-failed")
    assert done.code == 1 and "resuming at 100.0%" in done.err and (tmp_path / "student/model.safetensors").is_file()


def test_stopped_run_resumes_to_the_same_student(tmp_path, cli, sentences):
    teacher = tiny.checkpoint(tmp_path / "teacher")
    common = ["--teacher", teacher, "--student-layers", 1, "--corpus", sentences, "--min-cosine", 0, "--min-recall", 0,
              "--cache", tmp_path / "cache", "--epochs", 30, "--batch", 16, "--threads", 1]  # fmt: skip
    command = [sys.executable, SCRIPT, *common, "--output", tmp_path / "student"]
    process = subprocess.Popen([str(a) for a in command], stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("teacher states"):
            time.sleep(0.3)
            os.kill(process.pid, signal.SIGTERM)
            break
    error = process.stderr.read()
    assert process.wait(60) == 130 and "the same command goes on" in error
    done = cli(distill_model, *common, "--output", tmp_path / "student")
    assert done.code == 0 and "resuming at" in done.err and "0 made" in done.err
    done = cli(distill_model, *common, "--output", tmp_path / "other")
    assert done.code == 0 and "resuming at" not in done.err
    a, b = (weights.load([tmp_path / name / "model.safetensors"]) for name in ("student", "other"))
    assert all(np.allclose(a[name], b[name], atol=1e-4) for name in b)
