"""`generate_benchmark_report.py`: no built program, then programs whose exit code and output are known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "generate_benchmark_report.py"
PRINTS_AND_FAILS = '#!/bin/sh\necho "$@"\nexit 7\n'


def run(tree: Path, path: Path) -> subprocess.CompletedProcess[str]:
    script = tree / "scripts" / SCRIPT.name
    command = [sys.executable, str(script), "--input", "a b.json", "--output", "report.md"]
    return subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    return tmp_path


def program(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "akidb-loadtest").write_text(text)
    (folder / "akidb-loadtest").chmod(0o755)
    return folder


def test_without_a_program_it_says_how_to_build_one(tree: Path) -> None:
    done = run(tree, tree / "nothing")
    assert done.returncode == 2
    assert "cargo build --release -p akidb-loadtest" in done.stderr


def test_arguments_and_exit_code_pass_through(tree: Path) -> None:
    done = run(tree, program(tree / "bin", PRINTS_AND_FAILS))
    assert (done.returncode, done.stdout) == (7, "report --input a b.json --output report.md\n")
    program(tree / "target" / "release", PRINTS_AND_FAILS.replace("7", "0"))
    assert run(tree, tree / "bin").returncode == 0, "the built program comes before the one in PATH"
