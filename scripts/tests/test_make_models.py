"""`make models` with a tiny checkpoint: by the real command lines, kept where nothing changed, named where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny

import export_onnx
import make_models
import quantize_model
import seed_checkpoint
from akidb_tools import built, bundle, bundle_reader, catalog, five_models, model_steps, runtime, seeded, steps
from akidb_tools.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build(tmp_path, sentences, cli, monkeypatch):
    """Builds bert-base-uncased of a tiny checkpoint, by the user's own folder."""
    monkeypatch.chdir(ROOT)
    folder = tiny.checkpoint(tmp_path / "own")

    def _build(*more):
        given = ["--checkpoint", f"BERT-base={folder}", "--calibration-data", sentences, "--any-language"]
        return cli(make_models, "--models", "Bert-Base", *given, "--work", tmp_path / "work", *more)

    return _build


def test_built_once_kept_afterwards_and_again_where_something_changed(build, tmp_path):
    done = build()
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "work/models.json").read_text("utf-8"))
    (model,) = report["models"]
    assert (model["name"], model["seeded"]) == ("bert-base-uncased", False)
    assert [v["verdict"] for v in model["variants"]] == ["pass (parity)", "pass", "pass"]
    int8 = model["variants"][1]
    assert int8["expected_size"] == "110 MB" and int8["measured"]["linear_int8"] > 0
    found = bundle_reader.read(tmp_path / "work/bundles/bert-base-uncased-int8")
    assert int8["digest"] == found.digest and int8["bytes"] == found.engine.stat().st_size
    assert f"{int8['measured']['mean_cosine']:.4f}" in done.out
    again = build()
    assert again.code == 0 and "nothing to do: all 3 steps" in again.err and again.out == done.out
    # Another file beside the weights: exported again to the same artifact, so what was made of it stands.
    (tmp_path / "own/notes.txt").write_text("x")
    third = build()
    assert third.code == 0 and "(1 steps done, 2 kept, 0 not done)" in third.err
    (tmp_path / "work/bundles/bert-base-uncased-fp8/model.onnx").unlink()
    assert "(1 steps done, 2 kept, 0 not done)" in build().err


def test_a_failed_step_is_named_and_holds_up_what_needs_it(build, tmp_path):
    (tmp_path / "own/tokenizer.json").unlink()
    done = build()
    assert done.code == 1
    assert "bert-base-uncased fp32 FAILED" in done.err and "tokenizer.json is missing" in done.err
    assert "what to do:" in done.err and "command: .venv/bin/python scripts/export_onnx.py" in done.err
    assert "fail: " in done.out and "not built: needs bert-base-uncased fp32" in done.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--models", "gpt"], "'gpt' is none of the models"),
        (["--models", "bert-base", "--checkpoint", "bert-base=nowhere"], "nowhere (for bert-base-uncased) is not a"),
        (["--checkpoint", "all-minilm-l6-v2=scripts"], "takes no folder"),
        (["--models-from", "scripts"], "has no subfolder named bert-base-uncased"),
        (["--publish", "s3:/x"], "is not s3://BUCKET"),
    ],
)
def test_options_that_cannot_be_used(cli, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(ROOT)
    done = cli(make_models, "--work", tmp_path, *options)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err


def test_what_an_interrupted_run_left_is_swept_and_the_step_runs_again(tmp_path):
    script = tmp_path / "write.py"
    script.write_text("import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('done')")
    left = tmp_path / ".out.abc.part"
    left.mkdir()
    step = steps.Step("one", [str(script), str(tmp_path / "out")], [tmp_path / "out"], lambda _: {})
    for expected in (steps.DONE, steps.KEPT):
        outcomes = steps.Runner(tmp_path / "records", lambda _: None).run([step])
        assert outcomes["one"].state == expected and not left.exists()


def test_what_was_made_by_hand_is_kept_until_its_inputs_change(tmp_path):
    output, inputs, said = tmp_path / "out", {"teacher": 1}, []
    output.mkdir()
    (output / "weights").write_text("trained by hand")
    script = tmp_path / "train.py"
    script.write_text(
        f"import pathlib; p = pathlib.Path({str(output)!r}); p.mkdir(); (p / 'weights').write_text('new')"
    )
    step = steps.Step(
        "student", [str(script)], [output], lambda _: inputs, adopt=lambda: {"by": "hand"}, clear=[output]
    )
    for _ in range(2):
        (outcome,) = steps.Runner(tmp_path / "records", said.append).run([step]).values()
        assert (outcome.state, outcome.answer) == (steps.KEPT, {"by": "hand"})
    assert [line for line in said if "made by hand, kept" in line] == ["[1/1] student: made by hand, kept"]
    inputs["teacher"] = 2
    good = script.read_text()
    script.write_text(f"{good}; raise SystemExit(3)")
    (outcome,) = steps.Runner(tmp_path / "records", said.append).run([step]).values()
    assert outcome.state == steps.FAILED and (output / "weights").read_text() == "trained by hand"
    script.write_text(good)
    (outcome,) = steps.Runner(tmp_path / "records", said.append).run([step]).values()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out"]
    assert outcome.state == steps.DONE and (output / "weights").read_text() == "new"


def test_a_students_root_waits_for_its_teachers():
    student = five_models.find("Distilled-MiniLM-L3-v2")
    names = [step.name for step in model_steps.steps(model_steps.Plan(models=(student,)))]
    assert names[1:4] == ["all-MiniLM-L6-v2 fp32", f"{student.name} checkpoint", f"{student.name} fp32"]
    every = {step.name: step for step in model_steps.steps(model_steps.Plan())}
    assert "all-MiniLM-L6-v2 fp32" in every[f"{student.name} fp32"].needs
    assert [name for name in every if name.startswith("all-MiniLM-L6-v2 fp32")] == ["all-MiniLM-L6-v2 fp32"]


def test_two_runs_at_a_time_are_refused(tmp_path):
    runner = steps.Runner(tmp_path, lambda _: None)
    with steps._alone(tmp_path), pytest.raises(BadInput, match="another `make models` is running"):
        runner.run([])


SMALL = five_models.Recipe("small", "cls", {}, shape=five_models.Shape(2, 32, 64, 4, 64), prompts={"query": "find: "})


def test_seeded_weights_say_so_everywhere(tmp_path, sentences, cli):
    tokenizer = tiny.checkpoint(tmp_path / "tokenizer") / "tokenizer.json"
    first, second = (seeded.write(tmp_path / name, SMALL, 5, tokenizer, lambda _: None) for name in "ab")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    other = seeded.write(tmp_path / "c", SMALL, 6, tokenizer, lambda _: None)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    done = cli(export_onnx, "--model", first, "--name", "small", "--output", tmp_path / "small-fp32")
    assert done.code == 0 and "seeded  random weights" in done.out, done.err
    root = bundle_reader.read(tmp_path / "small-fp32")
    assert root.model["seeded"] and root.model["pooling"] == "cls" and root.model["prompts"] == {"query": "find: "}
    assert root.manifest["evaluation"] == {"kind": "not_applicable", "passed": False, "reason": "seeded"}
    rows = [root.encoder().ids(text) for text in sentences.read_text("utf-8").splitlines()[:20]]
    vectors = runtime.embed(runtime.session(root.engine), rows, root.output)
    cosines = vectors @ vectors.T
    assert np.median(cosines[np.triu_indices(20, 1)]) < 0.98, "texts do not collapse to one point"
    given = ["--calibration-data", sentences, "--any-language", "--text-tokens", 32, "--evaluate", 64]
    done = cli(quantize_model, "--model", tmp_path / "small-fp32", "--output", tmp_path / "small-int8", *given)
    assert done.code == 0 and "seeded" in done.out, done.err
    child = bundle_reader.read(tmp_path / "small-int8")
    assert child.model["seeded"] and child.manifest["evaluation"]["reason"] == "seeded"
    assert "sensitivity" not in done.err


def test_a_seeded_checkpoint_replaces_no_other(tmp_path, cli):
    folder = tiny.checkpoint(tmp_path / "real")
    done = cli(seed_checkpoint, "--model", "bge-small", "--output", folder, "--force")
    assert done.code == 2 and "not a seeded checkpoint" in done.err


def test_the_first_plans_file_names_find_what_was_built(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bert-base-uncased-int8", "UAE-Large-V1-fp32"):
        shutil.copytree(tiny_bundle, tmp_path / "build/bundles" / name)
    assert bundle_reader.read(Path("models/bert-base-INT8.onnx")).folder.name == "bert-base-uncased-int8"
    assert bundle_reader.read(Path("uae-large.onnx")).folder.name == "UAE-Large-V1-fp32"
    for missing in ("models/bge-small-INT8.onnx", "models/other-INT8.onnx", "bert-base-INT8.trt"):
        with pytest.raises(BadInput, match="is not a bundle"):
            bundle_reader.read(Path(missing))


def test_what_is_served_is_what_was_built(tmp_path):
    said = []
    for name in ("bge-small-en-v1.5-fp32", "bge-small-en-v1.5-int8", "UAE-Large-V1-int8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    found = built.bundles("BGE-small", tmp_path, said.append)
    assert [it.name for it in found] == ["bge-small-en-v1.5-fp32", "bge-small-en-v1.5-int8"]
    assert said == ["note: bge-small-en-v1.5-fp8 not built; `make models MODELS=BGE-small` says why"]
    with pytest.raises(BadInput, match=r"all-MiniLM-L6-v2-fp32, .*UAE-Large-V1-fp32; run `make models` first"):
        built.bundles("all", tmp_path, said.append)


class Recorded:
    """Answers as `akidb` does of a catalog with one version, and remembers what was run."""

    def __init__(self, digests, targets=None):
        self.ran, self.digests, self.targets = [], digests, targets or {}

    def __call__(self, *command):
        if command[1:3] == ("models", "list"):
            return json.dumps({"models": [{"name": "TINY"}] if self.digests else []})
        if command[1:3] == ("models", "show"):
            own = {"provider": "portable"}
            artifacts = {
                name: [{"digest": it, "state": "ready", "target": self.targets.get(it, own)}]
                for name, it in self.digests.items()
            }
            variants = [{"name": name, "artifacts": it} for name, it in artifacts.items()]
            return json.dumps({"versions": [{"name": "3", "variants": variants}]})
        self.ran.append(" ".join(command))
        return ""


def test_what_is_catalogued_already_is_not_sent_and_children_follow_their_parent(tiny_bundle):
    root = json.loads((tiny_bundle / "manifest.json").read_text("utf-8"))
    digest = bundle.artifact_digest(root["files"])

    def ran(digests, manifest, source, targets=None):
        akidb = Recorded(digests, targets)
        return catalog.Catalog(akidb).add(source, manifest), akidb.ran

    assert ran({}, root, "b/tiny") == (True, ["models import b/tiny"])
    assert ran({"fp32": digest}, root, "b/tiny") == (False, [])
    assert ran({"fp32": "other"}, root, "b/tiny") == (True, ["models import b/tiny --version 4 --set-default"])
    child = {**root, "variant": {"name": "int8"}, "lineage": {"parent_digest": digest}}
    child["files"] = [{**it, "sha256": "0" * 64} for it in root["files"]]
    found = ran({"fp32": digest, "int8": "old"}, child, "s3://b/tiny")
    assert found == (True, ["models retire tiny old", "models import s3://b/tiny --wait --version 3"])
    failed = {**child, "evaluation": {**root["evaluation"], "kind": "quality", "passed": False}}
    found = ran({"fp32": digest, "int8": "old"}, failed, "b/tiny")
    assert found == (True, ["models import b/tiny --version 3"]), "what cannot serve retires nothing"


def test_an_engine_replaces_the_one_of_its_own_gpu_only(tiny_bundle):
    root = json.loads((tiny_bundle / "manifest.json").read_text("utf-8"))
    digest = bundle.artifact_digest(root["files"])
    target = {"provider": "tensorrt", "compute_capability": "9.0", "tensorrt_version": "10.6.0", "shape_profile": "a"}
    engine = {**root, "variant": {"name": "trt"}, "target": target, "lineage": {"parent_digest": digest}}
    engine["files"] = [{**it, "sha256": "0" * 64} for it in root["files"]]

    def ran(there):
        akidb = Recorded({"fp32": digest, "trt": "old"}, {"old": {**target, **there}})
        catalog.Catalog(akidb).add("e", engine)
        return akidb.ran

    imported = "models import e --version 3"
    assert ran({}) == ["models retire tiny old", imported]
    assert ran({"shape_profile": "b"}) == [imported, "models retire tiny old"]
    assert ran({"compute_capability": "8.9"}) == ran({"tensorrt_version": "10.5.0"}) == [imported]


def test_names_and_texts():
    assert five_models.find("UAE-large") is five_models.find("uae-LARGE-v1")
    sizes = [model_steps.texts(m, seeded=m.shape is not None).evaluate for m in five_models.MODELS]
    assert sizes == [2_000, 2_000, 125, 500, 64]
    assert model_steps.texts(five_models.find("bert-base"), seeded=False).tokens is None
