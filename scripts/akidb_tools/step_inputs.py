"""A command and the files it reads enter; one digest of everything its result depends on leaves.

Code counts by its syntax tree (a comment changes nothing) and only as far as the command imports it; packages count by
version. Digests of large files are remembered by size and time, so that a second look costs nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import bundle

SCRIPTS = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "onnx", "onnxruntime", "safetensors", "tokenizers")


class Digests:
    """sha256 of files, remembered in `memory` (a JSON file)."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        try:
            self._known: dict[str, list] = json.loads(memory.read_text("utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def file(self, file: Path) -> str:
        """The digest, read again only where size, time or inode changed."""
        stat = file.stat()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(file.resolve()))
        if known and known[:3] == mark:
            return known[3]
        digest = bundle.sha256(file)
        self._known[str(file.resolve())] = [*mark, digest]
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        self._memory.write_text(json.dumps(self._known), "utf-8")
        return digest

    def folder(self, folder: Path) -> str:
        """One digest of every file below a folder, by path."""
        files = sorted(f for f in folder.rglob("*") if f.is_file() and ".git" not in f.parts)
        return hashlib.sha256("".join(f"{self.file(f)}  {f.relative_to(folder)}\n" for f in files).encode()).hexdigest()


def environment(*more: str) -> dict[str, str]:
    """Versions that may change a result, those of the packages `more` too."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code(script: Path) -> str:
    """Digest of a command line and of every module of ours that it imports, directly or not."""
    seen: dict[Path, str] = {}
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file in seen or not file.is_file():
            continue
        tree = ast.parse(file.read_text("utf-8"))
        seen[file] = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
        waiting += [module for node in ast.walk(tree) for module in _imported(node, file)]
    listed = "".join(f"{digest}  {file.name}\n" for file, digest in sorted(seen.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


def _imported(node: ast.AST, file: Path) -> list[Path]:
    """Files of ours that an import statement may mean."""
    if isinstance(node, ast.Import):
        return [SCRIPTS / f"{alias.name.replace('.', '/')}.py" for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    stem = (node.module or "").replace(".", "/")
    base = (file.parent if node.level else SCRIPTS) / stem if stem else file.parent
    return [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
