#!/usr/bin/env python3
"""Who may import whom: the workspace enters, violations as `file:line: what (arrow)` leave, exit 1 if there are any.

Three checks: arrows between crates (`cargo metadata`), arrows between the rooms of the two services (`crate::ROOM` in
their sources), and foreign types that stay in their room. The tables below are the design; the code only reads them.
Standard library only, so that CI runs it before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Crate -> the workspace crates it may depend on.
CRATES: dict[str, set[str]] = {
    "akidb-domain": set(),
    "akidb-proto": {"akidb-domain"},
    "akidb-store": {"akidb-domain"},
    "akidb-sidecar": {"akidb-domain", "akidb-proto", "akidb-store"},
    "akidb-control-plane": {"akidb-domain", "akidb-proto", "akidb-store"},
    "akidb-cli": {"akidb-domain", "akidb-proto"},
    "akidb-loadtest": {"akidb-domain", "akidb-proto"},
    "akidb-testkit": set(),
}
# Everyone may use it in tests, nobody in a product.
DEV_ONLY = "akidb-testkit"

# Service folder -> room -> the rooms it may name; a room is the first path component under src. `lib` and `main` are
# not rooms, "*" sees everything. A room without a line here is a violation: draw its arrows first.
ALL = {"*"}
ROOMS: dict[str, dict[str, set[str]]] = {
    "sidecar": {
        "app": ALL,
        "config": set(),
        "http": {
            "config",
            "router",
            "tokenizer",
            "batcher",
            "models",
            "telemetry",
            "serving",
            "metrics",
            "clock",
            "traces",
            "lease",
        },
        "router": {"config", "serving", "metrics", "clock", "lease"},
        "tokenizer": {"config", "metrics", "clock"},
        "batcher": {"config", "engine", "telemetry", "metrics", "clock", "traces"},
        "control": {"config", "models", "router", "telemetry", "serving", "metrics", "backoff", "clock", "lease"},
        "models": {
            "config",
            "artifacts",
            "tokenizer",
            "batcher",
            "engine",
            "telemetry",
            "serving",
            "metrics",
            "backoff",
            "clock",
        },
        "artifacts": {"config", "metrics", "backoff", "clock"},
        "engine": {"config", "metrics", "clock"},
        "telemetry": {"config", "metrics", "clock", "lease"},
        "serving": {"batcher", "tokenizer"},
        "traces": {"config", "clock"},
        "metrics": set(),
        "lease": set(),
        "backoff": set(),
        "clock": set(),
    },
    "control-plane": {
        "app": ALL,
        "config": set(),
        "clock": set(),
        "metrics": set(),
        "signals": set(),
        "arguments": set(),
        "logs": {"config"},
        "db": set(),
        "blobs": set(),
        "data_dir": {"db"},
        "ledger": {"db"},
        "publisher": {"db", "catalog", "experiments", "clock", "metrics"},
        "change": {"db", "publisher"},
        "catalog": {"db", "change"},
        "experiments": {"db", "catalog", "change"},
        "leases": set(),
        "decider": {
            "db",
            "catalog",
            "experiments",
            "change",
            "publisher",
            "leases",
            "grpc",
            "config",
            "clock",
            "metrics",
        },
        "replay": set(),
        "access": {"db", "change", "metrics"},
        "import": {"db", "catalog", "change", "blobs", "publisher", "clock", "metrics"},
        "grpc": {"db", "ledger", "access", "publisher", "leases", "clock", "metrics"},
        "api": {
            "db",
            "ledger",
            "catalog",
            "experiments",
            "change",
            "access",
            "blobs",
            "import",
            "grpc",
            "publisher",
            "clock",
            "metrics",
        },
        "retention": {"db", "config", "clock"},
        "backup": {"db", "data_dir", "change", "publisher", "config", "clock"},
        "token": {"db", "data_dir", "access", "change", "publisher", "config", "clock"},
    },
}

# Foreign crates -> path prefixes (of sources below some `src/`) that may name them.
FOREIGN: dict[tuple[str, ...], tuple[str, ...]] = {
    ("ort",): ("sidecar/src/engine/onnx.rs", "sidecar/src/engine/onnx/"),
    ("opentelemetry", "opentelemetry_otlp", "opentelemetry_sdk"): ("sidecar/src/traces.rs",),
    ("sqlx",): ("control-plane/src/db",),
    ("tonic", "tonic_prost", "prost", "prost_types"): (
        "proto/",
        "sidecar/src/control",
        "sidecar/src/grpc",
        "control-plane/src/grpc",
    ),
}

# Strings and comments are no imports; newlines are kept so that line numbers stay right.
NOT_CODE = re.compile(
    r"""(?P<hashes>\bb?r(?P<n>\#*)".*?"(?P=n)) | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\\n])' | //[^\n]* | /\*.*?\*/""",
    re.DOTALL | re.VERBOSE,
)
NAMED = re.compile(r"(?<![\w$])(?:\$?crate|self::super|super(?:::super)*)\s*::\s*(?P<rest>\{|\w+)")


class Violation(NamedTuple):
    """One broken arrow, as a compiler would print it."""

    file: str
    line: int
    what: str
    arrow: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what} ({self.arrow})"


def check_crates(metadata: dict, root: Path) -> list[Violation]:
    """Arrows between workspace crates, from the output of `cargo metadata --no-deps`."""
    return [v for package in metadata["packages"] for v in _check_package(package, root)]


def _check_package(package: dict, root: Path) -> Iterator[Violation]:
    name, manifest = package["name"], Path(package["manifest_path"])
    file = _relative(manifest, root)
    if name not in CRATES:
        yield Violation(file, 1, f"crate {name} is not in the table", "CRATES in check_arrows.py")
        return
    for dependency in package["dependencies"]:
        to, kind = dependency["name"], dependency.get("kind") or "normal"
        if to not in CRATES or to in CRATES[name] or (to == DEV_ONLY and kind == "dev"):
            continue
        allowed = ", ".join(sorted(CRATES[name])) or "none"
        line = _line_of(manifest, to)
        yield Violation(file, line, f"{kind} dependency on {to}", f"{name} -> {to}; allowed: {allowed}")


def check_rooms(root: Path) -> list[Violation]:
    """Arrows between the rooms of each service."""
    return [
        v for service in ROOMS for file in _sources(root / service / "src") for v in _check_file(root, service, file)
    ]


def _check_file(root: Path, service: str, file: Path) -> Iterator[Violation]:
    parts = file.relative_to(root / service / "src").with_suffix("").parts
    room, table, shown = parts[0], ROOMS[service], _relative(file, root)
    if room in ("lib", "main", "bin"):
        return
    if room not in table:
        yield Violation(shown, 1, f"room {room} is not in the table", f"ROOMS[{service!r}] in check_arrows.py")
        return
    for line, target in _named_rooms(_code(file), depth=len(parts)):
        if target == room or target not in table or table[room] & {target, "*"}:
            continue
        yield Violation(shown, line, f"names crate::{target}", f"{service}: {room} -> {target} is not allowed")


def _named_rooms(code: str, depth: int) -> Iterator[tuple[int, str]]:
    """(line, first path component) of every `crate::X`, also in groups, and of `super::X` that reaches the root."""
    for match in NAMED.finditer(code):
        supers = match[0].count("super")
        # Inside an inline module one more `super` is needed, and those are indented.
        start = code.rfind("\n", 0, match.start()) + 1
        indented = code[start : start + 1].isspace()
        if supers and supers != depth + indented:
            continue
        if match["rest"] != "{":
            yield code.count("\n", 0, match.start()) + 1, match["rest"]
            continue
        for at, name in _group(code, match.end()):
            yield code.count("\n", 0, at) + 1, name


def _group(code: str, at: int) -> Iterator[tuple[int, str]]:
    """Names at the top level of a `{a, b::c, d::{e}}` group whose opening brace ends at `at`."""
    level, wants_name = 1, True
    for token in re.compile(r"[{},]|\w+").finditer(code, at):
        if token[0] == "{":
            level += 1
        elif token[0] == "}":
            level -= 1
            if level == 0:
                return
        elif token[0] == ",":
            wants_name = wants_name or level == 1
        elif level == 1 and wants_name:
            wants_name = False
            yield token.start(), token[0]


def check_foreign(root: Path) -> list[Violation]:
    """Foreign crates named outside the room that owns them. Tests and benches are free."""
    found = []
    for crates, homes in FOREIGN.items():
        pattern = re.compile(rf"(?<![\w:])(?:::)?({'|'.join(crates)})\s*::|\buse\s+(?:::)?({'|'.join(crates)})\b")
        for source in sorted(root.glob("*/src")):
            for file in _sources(source):
                shown = _relative(file, root)
                if shown.startswith(homes):
                    continue
                code = _code(file)
                for match in pattern.finditer(code):
                    name, line = match[1] or match[2], code.count("\n", 0, match.start()) + 1
                    found.append(Violation(shown, line, f"names {name}", f"{name} belongs to {', '.join(homes)}"))
    return found


def _sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.rs")) if folder.is_dir() else []


def _code(file: Path) -> str:
    """The file with strings and comments blanked, line by line."""
    text = file.read_text("utf-8")
    return NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _line_of(manifest: Path, crate: str) -> int:
    lines = manifest.read_text("utf-8").splitlines() if manifest.is_file() else []
    return next((n for n, line in enumerate(lines, 1) if re.match(rf"\s*\[?.*\b{re.escape(crate)}\b", line)), 1)


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def main(arguments: list[str] | None = None) -> int:
    """Runs all checks on `--root`; 0 clean, 1 violations, 2 cargo failed."""
    parser = argparse.ArgumentParser(prog="check_arrows.py", description="Check the import arrows.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root = parser.parse_args(arguments).root.resolve()
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    try:
        metadata = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {' '.join(command)}: {getattr(error, 'stderr', '') or error}", file=sys.stderr)
        return 2
    violations = sorted([*check_crates(json.loads(metadata), root), *check_rooms(root), *check_foreign(root)])
    for violation in violations:
        print(violation)
    print(f"arrows: {len(violations)} violation(s)", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
