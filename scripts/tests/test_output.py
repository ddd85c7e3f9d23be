"""The destination: never half-written, never replaced without being asked, never something else than a bundle."""

from __future__ import annotations

import json

import pytest
import tiny

from akidb_tools import bundle, export, parity


@pytest.fixture
def folder(tmp_path):
    return tiny.checkpoint(tmp_path / "m")


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_existing_bundle_needs_force(folder, tmp_path, run):
    output = tmp_path / "out"
    assert run("--model", folder, "--output", output).code == 0
    first = json.loads((output / "manifest.json").read_text())
    (output / "stale.txt").write_text("left over")
    done = run("--model", folder, "--output", output, "--name", "other")
    assert done.code == 2 and "--force" in done.err
    assert json.loads((output / "manifest.json").read_text()) == first
    assert run("--model", folder, "--output", output, "--name", "other", "--force").code == 0
    assert json.loads((output / "manifest.json").read_text())["model"]["name"] == "other"
    assert names(output) == ["manifest.json", "model.onnx", "reference.json", "tokenizer.json"]
    assert names(tmp_path) == ["m", "out"]


def test_force_does_not_replace_other_folders_or_files(folder, tmp_path, run):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_text("keep")
    done = run("--model", folder, "--output", tmp_path / "photos", "--force")
    assert done.code == 2 and "not a bundle" in done.err
    assert (tmp_path / "photos/one.jpg").read_text() == "keep"
    (tmp_path / "file").write_text("keep")
    assert run("--model", folder, "--output", tmp_path / "file", "--force").code == 2


def test_empty_folder_and_new_parents_are_fine(folder, tmp_path, run):
    (tmp_path / "empty").mkdir()
    assert run("--model", folder, "--output", tmp_path / "empty").code == 0
    assert run("--model", folder, "--output", tmp_path / "a/b/c").code == 0
    assert names(tmp_path / "a/b") == ["c"]


@pytest.mark.parametrize("force", [False, True])
def test_failed_parity_writes_nothing(folder, tmp_path, run, monkeypatch, force):
    output = tmp_path / "out"
    if force:
        assert run("--model", folder, "--output", output).code == 0
    before = {p: p.read_bytes() for p in output.rglob("*")}
    monkeypatch.setattr(export.bert_graph, "MASKED_SCORE", 0.0)  # padding leaks into its neighbours
    done = run("--model", folder, "--output", output, *(["--force"] if force else []))
    assert done.code == 1 and "parity failed: min cosine 0." in done.err
    assert {p: p.read_bytes() for p in output.rglob("*")} == before
    assert names(tmp_path) == (["m", "out"] if force else ["m"])


def test_failure_while_swapping_keeps_the_old_bundle(folder, tmp_path, run, monkeypatch):
    output = tmp_path / "out"
    assert run("--model", folder, "--output", output).code == 0
    before = (output / "manifest.json").read_text()
    real = bundle.Path.rename

    def broken(self, target):
        if self.name.endswith(".part"):
            raise OSError("no space left")
        return real(self, target)

    monkeypatch.setattr(bundle.Path, "rename", broken)
    done = run("--model", folder, "--output", output, "--force")
    assert done.code == 1 and "no space left" in done.err
    assert (output / "manifest.json").read_text() == before
    assert names(tmp_path) == ["m", "out"]


def test_bad_date_is_bad_input(folder, tmp_path, run, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    done = run("--model", folder, "--output", tmp_path / "out")
    assert done.code == 2 and "SOURCE_DATE_EPOCH='yesterday'" in done.err
    assert names(tmp_path) == ["m"]


def test_progress_on_stderr_summary_on_stdout(folder, tmp_path, run):
    done = run("--model", folder, "--output", tmp_path / "out")
    assert "reference vectors" in done.err and "digest  " in done.out and "min cosine 1.0" in done.out
    done = run("--model", folder, "--output", tmp_path / "out2", "--json")
    summary = json.loads(done.out)
    assert summary["parity"]["min_cosine"] >= parity.LEAST_COSINE and len(summary["files"]) == 3


def test_artifact_digest_sorts_bytewise():
    files = [{"path": p, "sha256": s * 64} for p, s in (("b", "1"), ("B", "2"), ("a.x", "3"), ("a", "4"))]
    assert bundle.artifact_digest(files) == bundle.artifact_digest(files[::-1])
    # printf '%s' of the four lines in the order B, a, a.x, b, through sha256sum
    import hashlib

    lines = "".join(f"{s * 64}  {p}\n" for p, s in (("B", "2"), ("a", "4"), ("a.x", "3"), ("b", "1")))
    assert bundle.artifact_digest(files) == hashlib.sha256(lines.encode()).hexdigest()
