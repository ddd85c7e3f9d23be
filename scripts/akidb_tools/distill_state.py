"""The options of a run enter; whether it starts, resumes or is refused leaves. Keeps the folder of unfinished work.

The folder lies beside the output and goes when the student is in place. A run resumes only with the options it began
with: a student trained half by one recipe and half by another would have a lineage that is not true.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput

OPTIONS, STATE, TEXTS = "options.json", "state.pt", "texts.json"


def work_folder(output: Path) -> Path:
    """Where the unfinished work of `output` lies."""
    return output.with_name(f"{output.name}.unfinished")


def open_work(output: Path, options: dict, force: bool) -> tuple[Path, bool]:
    """The folder of unfinished work, and whether there is a state in it to go on from."""
    folder = work_folder(output)
    file = folder / OPTIONS
    if folder.exists() and force:
        shutil.rmtree(folder)
    if folder.exists():
        begun = _read(file)
        changed = sorted(key for key in begun.keys() | options.keys() if begun.get(key) != options.get(key))
        if changed:
            what = "; ".join(f"{key} was {begun.get(key)!r}, now {options.get(key)!r}" for key in changed)
            raise BadInput(
                f"{folder} holds an unfinished run with other options ({what}): repeat those to resume it, give "
                "another --output, or --force to start over"
            )
        return folder, (folder / STATE).is_file()
    folder.mkdir(parents=True)
    file.write_text(json.dumps(options, indent=2) + "\n", "utf-8")
    return folder, False


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder: two runs that write one state would undo each other."""
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"another run is at work in {folder}: wait for it, or give another --output") from error
        yield


def settled(folder: Path) -> int | None:
    """Texts that an unfinished run trains on; None before it knows."""
    file = folder / TEXTS
    return int(json.loads(file.read_text("utf-8"))["n"]) if file.is_file() else None


def settle(folder: Path, count: int) -> None:
    """The run trains on `count` texts, also when it is resumed."""
    (folder / TEXTS).write_text(json.dumps({"n": count}) + "\n", "utf-8")


def _read(file: Path) -> dict:
    try:
        begun = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file.parent} is not an unfinished run ({error}): remove it, or --force does") from error
    return begun if isinstance(begun, dict) else {}


def remove(folder: Path) -> None:
    """The work is done."""
    shutil.rmtree(folder)
