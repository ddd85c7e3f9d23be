"""The arrow check finds made-up violations in a temporary tree, and only those."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import check_arrows


@pytest.fixture
def tree(tmp_path):
    """Writes sources; returns a function that gives the violations as (file, line, what)."""

    def _tree(files: dict[str, str]) -> list[tuple[str, int, str]]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")
        found = [*check_arrows.check_rooms(tmp_path), *check_arrows.check_foreign(tmp_path)]
        return sorted((v.file, v.line, v.what) for v in found)

    return _tree


def test_allowed_arrows_are_silent(tree):
    files = {
        "sidecar/src/app.rs": "use crate::{http::Server, engine, telemetry};\n",
        "sidecar/src/http.rs": "use crate::batcher::Batcher;\nuse crate::http::error::E;\nmod error;\n",
        "sidecar/src/engine/onnx.rs": "use ort::session::Session;\nuse super::Engine;\n",
        "control-plane/src/api/models.rs": "use crate::db::models;\n",
        "control-plane/src/db/models.rs": "use sqlx::query_as;\n",
        "control-plane/src/grpc.rs": "use tonic::Status;\n",
        "proto/src/lib.rs": "use prost::Message;\n",
    }
    assert tree(files) == []


@pytest.mark.parametrize(
    "code",
    [
        "use crate::http::Answer;",
        "fn f() { crate::http::answer(); }",
        "use crate::{\n    metrics,\n    http::{self, Answer},\n};",
        "use super::http::Answer;",
        "mod tests {\n    use super::super::http;\n}",
    ],
)
def test_engine_may_not_see_http(code, tree):
    files = {"sidecar/src/engine.rs": f"//! Engine.\n{code}\n"}
    line = 2 + code[: code.index("http")].count("\n")
    assert tree(files) == [("sidecar/src/engine.rs", line, "names crate::http")]


@pytest.mark.parametrize(
    ("file", "target"),
    [
        ("sidecar/src/batcher/policy.rs", "http"),
        ("sidecar/src/telemetry.rs", "http"),
        ("control-plane/src/db/models.rs", "api"),
        ("control-plane/src/db.rs", "grpc"),
    ],
)
def test_forbidden_arrows(file, target, tree):
    assert tree({file: f"use crate::{target}::x;\n"}) == [(file, 1, f"names crate::{target}")]


def test_nested_files_reach_the_root_by_two_supers(tree):
    files = {"sidecar/src/engine/onnx.rs": "use super::http::x;\nuse super::super::http::y;\n"}
    # The first is engine::http, a room inside the room; only the second leaves it.
    assert tree(files) == [("sidecar/src/engine/onnx.rs", 2, "names crate::http")]


def test_comments_and_strings_are_no_imports(tree):
    code = (
        "//! See crate::http.\n/* use crate::http; */\n"
        'const A: &str = "crate::http::x";\nconst B: &str = r#"use ort::x "crate::http" "#;\n'
        "fn f<'a>(x: &'a str) -> char { '\"' }\nuse crate::http::real;\n"
    )
    assert tree({"sidecar/src/engine.rs": code}) == [("sidecar/src/engine.rs", 6, "names crate::http")]


def test_unknown_room_must_be_drawn_first(tree):
    assert tree({"sidecar/src/helpers.rs": ""}) == [("sidecar/src/helpers.rs", 1, "room helpers is not in the table")]


@pytest.mark.parametrize(
    ("file", "code", "name"),
    [
        ("sidecar/src/engine.rs", "use ort;\n", "ort"),
        ("sidecar/src/engine.rs", "fn f(s: ort::Session) {}\n", "ort"),
        ("control-plane/src/api.rs", 'let r = sqlx::query!("");\n', "sqlx"),
        ("sidecar/src/http.rs", "#[tonic::async_trait]\n", "tonic"),
        ("cli/src/main.rs", "use prost_types::Timestamp;\n", "prost_types"),
    ],
)
def test_foreign_types_stay_home(file, code, name, tree):
    assert tree({file: code}) == [(file, 1, f"names {name}")]


def test_names_that_only_look_foreign(tree):
    assert tree({"sidecar/src/http.rs": "use crate::http::port::x;\nlet a = sort::by(); short::x();\n"}) == []


def package(name, *dependencies):
    listed = [{"name": n, "kind": k} for n, k in dependencies]
    return {"name": name, "manifest_path": f"/w/{name}/Cargo.toml", "dependencies": listed}


def test_crate_arrows():
    metadata = {
        "packages": [
            package("akidb-domain", ("serde", None), ("akidb-testkit", "dev")),
            package("akidb-proto", ("akidb-domain", None)),
            package("akidb-sidecar", ("akidb-domain", None), ("akidb-proto", None), ("akidb-store", None)),
        ]
    }
    assert check_arrows.check_crates(metadata, Path("/w")) == []
    metadata["packages"] += [
        package("akidb-cli", ("akidb-sidecar", None)),
        package("akidb-store", ("akidb-proto", "dev")),
        package("akidb-loadtest", ("akidb-testkit", None)),
        package("akidb-utils"),
    ]
    found = [(v.file, v.what) for v in check_arrows.check_crates(metadata, Path("/w"))]
    assert found == [
        ("akidb-cli/Cargo.toml", "normal dependency on akidb-sidecar"),
        ("akidb-store/Cargo.toml", "dev dependency on akidb-proto"),
        ("akidb-loadtest/Cargo.toml", "normal dependency on akidb-testkit"),
        ("akidb-utils/Cargo.toml", "crate akidb-utils is not in the table"),
    ]


def test_command_line_exits_1_and_names_the_line(tmp_path):
    """With a stand-in for cargo, as CI would run it."""
    source = tmp_path / "sidecar/src/telemetry.rs"
    source.parent.mkdir(parents=True)
    source.write_text("//! Telemetry.\n\nuse crate::http::Answer;\n")
    cargo = tmp_path / "bin/cargo"
    cargo.parent.mkdir()
    cargo.write_text(f"#!/bin/sh\necho '{json.dumps({'packages': []})}'\n")
    cargo.chmod(0o755)
    command = [sys.executable, "-S", check_arrows.__file__, "--root", tmp_path]
    environment = {**os.environ, "PATH": f"{cargo.parent}:/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    expected = "sidecar/src/telemetry.rs:3: names crate::http (sidecar: telemetry -> http is not allowed)\n"
    assert done.stdout == expected
    source.write_text("//! Telemetry.\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
