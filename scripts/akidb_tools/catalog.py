"""Bundles enter, by folder or URI; the commands of `akidb` that put them into a control plane's catalog are run.

What the catalog has, by digest, is not sent or read again. Knows no rule of the catalog but this: a quantized artifact
goes into the version of its parent, and a root that differs from the catalogued one begins a new version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from . import bundle, five_models
from .errors import ToolError

Versions = dict[str, dict[str, set[str]]]


class Catalog:
    """`akidb` runs one command and gives what it printed; it raises where that failed."""

    def __init__(self, akidb: Callable[..., str]) -> None:
        self._akidb = akidb

    def add(self, source: str, manifest: Mapping) -> bool:
        """Catalogues the bundle at `source` (a folder, or a URI that the server reads); False: it was there."""
        model, variant = manifest["model"]["name"], manifest["variant"]["name"]
        digest, versions = bundle.artifact_digest(manifest["files"]), self.versions(model)
        if any(digest in digests for variants in versions.values() for digests in variants.values()):
            return False
        parent = manifest["lineage"]["parent_digest"]
        home = next((name for name, it in versions.items() if any(parent in digests for digests in it.values())), None)
        more = ["--wait"] if "://" in source else []
        if home:
            for replaced in versions[home].get(variant, ()):
                self._akidb("models", "retire", model, replaced)
            more += ["--version", home]
        elif versions:
            number = 1 + max((int(name) for name in versions if name.isdigit()), default=0)
            more += ["--version", str(number), "--set-default"]
        self._akidb("models", "import", source, *more)
        return True

    def versions(self, model: str) -> Versions:
        """Digests of the artifacts in service, by version and variant; empty where there is no such model."""
        listed = json.loads(self._akidb("--json", "models", "list", "--limit", "1000"))["models"]
        if five_models.canonical(model) not in {five_models.canonical(it["name"]) for it in listed}:
            return {}
        shown = json.loads(self._akidb("--json", "models", "show", model))
        return {
            version["name"]: {
                variant["name"]: {it["digest"] for it in variant["artifacts"] if it["state"] != "retired"}
                for variant in version["variants"]
            }
            for version in shown["versions"]
        }


def command_line() -> str | None:
    """The `akidb` program: as built here, else the one on the path."""
    built = Path("target/release/akidb")
    return str(built) if built.is_file() else shutil.which("akidb")


def by_environment() -> Catalog | None:
    """The catalog that AKIDB_SERVER and AKIDB_TOKEN or AKIDB_TOKEN_FILE name; None where they name none."""
    token = os.environ.get("AKIDB_TOKEN") or os.environ.get("AKIDB_TOKEN_FILE")
    if not (token and os.environ.get("AKIDB_SERVER")):
        return None
    program = command_line()
    if program is None:
        raise ToolError("AKIDB_SERVER is set, but there is no `akidb` program: run `make build`, or unset it")

    def akidb(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ToolError(f"`akidb {' '.join(arguments)}` failed with exit code {done.returncode}")
        return done.stdout

    return Catalog(akidb)
