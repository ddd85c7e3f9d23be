"""What is decided before training: layers, neurons, options, resuming, the folder. Without torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny

import distill_model
from akidb_tools import (
    architecture,
    corpus,
    corpus_train,
    distill_cache,
    distill_folder,
    distill_inputs,
    distill_plan,
    distill_state,
    weights,
)
from akidb_tools.errors import BadInput
from akidb_tools.forward import Forward, _gelu


def config(layers=6, **changes):
    base = architecture.EncoderConfig("bert", layers, 384, 12, 1536, 512, 0, 2, 1e-12, "gelu")
    return architecture.EncoderConfig(**{**vars(base), **changes})


LAYERS = [(None, 3, (0, 2, 5)), (None, 1, (5,)), (None, 6, (0, 1, 2, 3, 4, 5)), ("1,3,5", 3, (1, 3, 5))]


@pytest.mark.parametrize(("said", "count", "expected"), LAYERS)
def test_layers(said, count, expected):
    assert distill_plan.choose_layers(said, config(), count) == expected


WRONG = [
    (None, 7, r"outside 1\.\.6"),
    ("1,x", 2, "1,x"),
    ("3,1", 2, "rising"),
    ("1,6", 2, r"0\.\.5"),
    ("1,2", 3, "3 diff"),
]


@pytest.mark.parametrize(("said", "count", "words"), WRONG)
def test_layers_refused(said, count, words):
    with pytest.raises(BadInput, match=words):
        distill_plan.choose_layers(said, config(), count)


def test_distilbert_and_widths_are_refused():
    with pytest.raises(BadInput, match="distilbert teacher"):
        distill_plan.choose_layers(None, config(model_type="distilbert"), 3)
    with pytest.raises(BadInput, match=r"outside 1\.\.1536"):
        distill_plan.check_intermediate(2000, config())


def test_cost_of_the_goal():
    assert distill_plan.layer_cost(config(), 3, 1536) == 0.5
    assert distill_plan.layer_cost(config(), 3, 768) == pytest.approx(1 / 3)


def test_narrow_keeps_what_redundant_neurons_gave():
    """Half of the neurons are copies of the others: the ones kept give back most of what the dropped ones gave."""
    random = np.random.RandomState(0)
    first, bias = random.standard_normal((8, 6)), random.standard_normal(8)
    part = {
        "intermediate.dense.weight": np.concatenate([first, first]),
        "intermediate.dense.bias": np.concatenate([bias, bias]),
        "output.dense.weight": random.standard_normal((6, 16)),
        "output.dense.bias": random.standard_normal(6),
    }
    x = random.standard_normal((4000, 6))

    def output(p):
        inner = _gelu(x @ p["intermediate.dense.weight"].T + p["intermediate.dense.bias"])
        return inner, inner @ p["output.dense.weight"].T + p["output.dense.bias"]

    inner, before = output(part)
    moments = distill_plan.Moments(inner.mean(0), np.cov(inner.T, bias=True))
    whole = distill_plan.narrow(part, moments, 10)
    _, after = output(whole)
    plain = np.argsort(-np.diag(moments.covariance) * np.square(part["output.dense.weight"]).sum(0))[:10]
    dropped = inner[:, plain] @ part["output.dense.weight"][:, plain].T + part["output.dense.bias"]
    error = np.square(after - before).mean() / before.var()
    assert whole["output.dense.weight"].shape == (6, 10)
    assert error < 0.5 * np.square(dropped - before).mean() / before.var()
    assert abs((after - before).mean()) < 1e-6


def test_student_of_all_layers_is_the_teacher(tmp_path):
    folder = tiny.checkpoint(tmp_path)
    tensors = weights.load([folder / "model.safetensors"])
    shape = architecture.encoder_config(folder / "config.json")
    own = distill_plan.student_tensors(tensors, (0, 1), shape.intermediate, {})
    ids = np.array([2, 10, 11, 3])
    assert np.allclose(Forward(shape, own).hidden_states(ids), Forward(shape, tensors).hidden_states(ids))
    last = distill_plan.student_tensors(tensors, (1,), shape.intermediate, {})
    assert np.array_equal(last["encoder.layer.0.output.dense.bias"], tensors["encoder.layer.1.output.dense.bias"])
    assert not any(".layer.1." in name for name in last)


def test_training_texts_share_no_wording_with_the_test_set():
    held = ["a river that runs through seven quiet valleys before it meets the sea", "cold tea"]
    copied = "they say a river that runs through seven quiet valleys before it meets the sea is long"
    near = "a river that runs through seven quiet valleys before it met the sea"
    fresh = [
        f"number {n} of the {w} things kept in a {w} box under the stairs; it is {w}"
        for n, w in enumerate(tiny.WORDS[4:60:2])
    ]
    fresh = [text.replace(c, f"w{ord(c)}") for text, c in zip(fresh, tiny.WORDS[4:60:2], strict=True)]
    chosen = corpus_train.choose([copied, near, "Cold tea!", *fresh], held, 60, 0)
    shared = corpus_train.Overlap(held)
    assert chosen and not any(shared.with_text(text) for text in chosen)
    assert not {copied, near, "Cold tea!"} & set(chosen) and set(chosen) & set(fresh)
    assert chosen == corpus_train.choose([copied, near, "Cold tea!", *fresh], held, 60, 0)
    assert [corpus.clean(text) for text in chosen] == chosen


def test_cache_is_used_and_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(distill_cache, "BLOCK", 4)
    rows, asked, said = [np.arange(n + 1) for n in range(10)], [], []

    def run(part):
        asked.append(len(part))
        return np.array([[len(row), word] for row in part for word in row], np.float32)

    def whole(states):
        return [states.of([n]).tolist() for n in range(len(states))]

    key = distill_cache.key_of("t", rows)
    made = distill_cache.states(tmp_path, key, rows, run, say=said.append)
    first = whole(made)
    assert asked == [4, 4, 2] and first == [[[n + 1, word] for word in range(n + 1)] for n in range(10)]
    assert made.of([9, 0, 5]).tolist() == [*first[9], [1, 0], *first[5]]
    (tmp_path / f"teacher-{key}" / "000000004.npy").write_bytes(b"broken")
    assert whole(distill_cache.states(tmp_path, key, rows, run, say=said.append)) == first
    assert asked == [4, 4, 2, 4] and "4 made, 6 from the cache" in said[-1]
    assert key != distill_cache.key_of("t", rows[::-1]) != distill_cache.key_of("u", rows)
    few = distill_cache.states(tmp_path, "few", rows, run, say=said.append, seconds=0)
    assert whole(few) == first[:4]
    assert distill_cache.states(tmp_path, "new", rows, run, say=said.append, stop=lambda: True) is None


def test_resume_only_with_the_same_options(tmp_path):
    output = tmp_path / "student"
    work, resumed = distill_state.open_work(output, {"epochs": 3}, False)
    assert not resumed and not output.exists()
    (work / distill_state.STATE).write_text("x")
    assert distill_state.open_work(output, {"epochs": 3}, False) == (work, True)
    assert distill_state.settled(work) is None
    distill_state.settle(work, 957)
    assert distill_state.settled(work) == 957
    with pytest.raises(BadInput, match=r"epochs was 3, now 4.*--force"):
        distill_state.open_work(output, {"epochs": 4}, False)
    assert distill_state.open_work(output, {"epochs": 4}, True) == (work, False)
    with distill_state.alone(work), pytest.raises(BadInput, match="another run"), distill_state.alone(work):
        pass
    (work / distill_state.OPTIONS).write_text("{")
    with pytest.raises(BadInput, match="not an unfinished run"):
        distill_state.open_work(output, {"epochs": 4}, False)


BAD = [
    (["--epochs", 0], "--epochs 0"),
    (["--batch", 1], "--batch 1"),
    (["--learning-rate", 3], "--learning-rate 3"),
    (["--max-minutes", 0], "--max-minutes 0"),
    (["--cosine", 0, "--mse", 0], "cosine or mse"),
    (["--min-recall", 2], "--min-recall 2"),
    (["--layers", "0,1,2"], "--layers 0,1,2"),
    (["--student-intermediate", 65], "--student-intermediate 65"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_options_name_the_value(tmp_path, cli, arguments, words):
    teacher = tiny.checkpoint(tmp_path / "t")
    done = cli(distill_model, "--teacher", teacher, "--student-layers", 1, "--output", tmp_path / "s", *arguments)
    assert done.code == 2 and words in done.err
    assert not (tmp_path / "s").exists() and not (tmp_path / "s.unfinished").exists()


def test_without_torch_the_command_that_installs_it_is_named(tmp_path, cli, monkeypatch):
    monkeypatch.setattr(distill_inputs.importlib.util, "find_spec", lambda name: None)
    teacher = tiny.checkpoint(tmp_path / "t")
    done = cli(distill_model, "--teacher", teacher, "--student-layers", 1, "--output", tmp_path / "s")
    assert done.code == 2 and "make distill-setup" in done.err


def record(teacher, **figures):
    gate = {"mean_cosine": 0.93, "recall_at_10": 0.75}
    measured = {"mean_cosine": 0.95, "min_cosine": 0.9, "recall_at_10": 0.8, **figures}
    evaluation = {"kind": "distillation", "dataset_digest": "d" * 64, "n": 64, **measured, "gate": gate}
    return {
        "tool": "distill_model 0 (torch 0)",
        "teacher": {"model": "big", "weights_sha256": teacher, "layers": 2},
        "layers": {"student": 1, "teacher_layers": [1], "intermediate": 64, "cost": 0.5},
        "corpus": {"sha256": "c" * 64, "n": 100},
        "evaluation": {**evaluation, "passed": True, "tool": "t"},
    }


@pytest.fixture
def student(tmp_path):
    """A folder as the tool writes it, of a tiny teacher, and the teacher's folder."""
    teacher = tiny.checkpoint(tmp_path / "teacher")
    (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    read = distill_inputs.read_teacher(str(teacher))
    tensors = distill_plan.student_tensors(read.tensors, (1,), 64, {})
    card = distill_folder.Card(distill_plan.student_config(read.raw_config, 1, 64), read.tokenizer, teacher, "mean",
                               tiny.HIDDEN, 24, False, "Apache-2.0", {})  # fmt: skip
    distill_folder.write(tmp_path / "student", tensors, card, record(read.digest))
    return tmp_path / "student", teacher


def test_exported_student_has_its_teacher_as_parent_and_its_own_gate(student, tmp_path, run):
    folder, teacher = student
    assert run("--model", teacher, "--name", "big", "--output", tmp_path / "b/big").code == 0
    done = run("--model", folder, "--output", tmp_path / "b/small", "--json")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "b/small/manifest.json").read_text())
    parent = json.loads((tmp_path / "b/big/manifest.json").read_text())
    from akidb_tools import bundle

    assert manifest["lineage"]["parent_digest"] == bundle.artifact_digest(parent["files"])
    assert manifest["lineage"]["calibration_digest"] == "c" * 64
    assert manifest["evaluation"]["kind"] == "distillation" and manifest["evaluation"]["gate"]["recall_at_10"] == 0.75
    assert manifest["model"]["embedding_space"] != parent["model"]["embedding_space"]
    assert manifest["model"]["license"] == "Apache-2.0" and manifest["model"]["max_tokens"] == 24
    assert json.loads(done.out)["parity"]["min_cosine"] > 0.99999


def test_without_its_teacher_beside_it_a_student_is_a_root(student, tmp_path, run):
    done = run("--model", student[0], "--output", tmp_path / "alone/small")
    manifest = json.loads((tmp_path / "alone/small/manifest.json").read_text())
    assert done.code == 0 and "without a parent" in done.err
    assert manifest["lineage"]["parent_digest"] is None and manifest["evaluation"]["kind"] == "parity"


def test_a_record_of_other_weights_is_refused(student, tmp_path, run):
    tiny.edit(student[0] / "distillation.json", weights_sha256="0" * 64)
    done = run("--model", student[0], "--output", tmp_path / "x")
    assert done.code == 2 and "measured on other weights" in done.err
