"""Bundles enter, by folder or URI; the commands of `akidb` that put them into a control plane's catalog are run.

What the catalog has, by digest, is not sent or read again. Knows no rule of the catalog but this: a quantized artifact
goes into the version of its parent, and a root that differs from the catalogued one begins a new version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from . import bundle, five_models
from .errors import ToolError

# Version -> variant -> digest -> the artifact's state and what it was built for.
Versions = dict[str, dict[str, dict[str, dict]]]

WAITING = ("uploaded", "validated")


class Catalog:
    """`akidb` runs one command and gives what it printed; it raises where that failed."""

    def __init__(self, akidb: Callable[..., str]) -> None:
        self._akidb = akidb

    def add(self, source: str, manifest: Mapping, root: str | None = None) -> bool:
        """Catalogues the bundle at `source` (a folder, or a URI that the server reads); False: it is in service.

        It goes into the version of its parent, else into that of the artifact `root`.
        """
        model, variant = manifest["model"]["name"], manifest["variant"]["name"]
        digest, versions = bundle.artifact_digest(manifest["files"]), self.versions(model)
        there = _holding(versions, {digest})
        # One that waits for a better proof is sent again, with the one it has now.
        if there and not any(it.get(digest, {}).get("state") in WAITING for it in versions[there].values()):
            return False
        home = there or _holding(versions, {manifest["lineage"]["parent_digest"]}) or _holding(versions, {root})
        more = ["--wait"] if "://" in source else []
        after: list[str] = []
        if home:
            # One that cannot take its place leaves the one before in service.
            others = {name: it for name, it in versions[home].get(variant, {}).items() if name != digest}
            alike = _alike(others, manifest) if _may_serve(manifest) else {}
            for replaced in (it for it, at_once in alike.items() if at_once):
                self._akidb("models", "retire", model, replaced)
            after = [it for it, at_once in alike.items() if not at_once]
            more += ["--version", home]
        elif versions:
            number = 1 + max((int(name) for name in versions if name.isdigit()), default=0)
            more += ["--version", str(number), "--set-default"]
        self._akidb("models", "import", source, *more)
        for replaced in after:
            self._akidb("models", "retire", model, replaced)
        return True

    def home(self, model: str, digests: Collection[str]) -> str | None:
        """The version that holds one of these artifacts."""
        return _holding(self.versions(model), digests)

    def versions(self, model: str) -> Versions:
        """The artifacts in service, by version and variant; empty where there is no such model."""
        listed = json.loads(self._akidb("--json", "models", "list", "--limit", "1000"))["models"]
        if five_models.canonical(model) not in {five_models.canonical(it["name"]) for it in listed}:
            return {}
        shown = json.loads(self._akidb("--json", "models", "show", model))
        return {
            version["name"]: {
                variant["name"]: {
                    it["digest"]: {**it["target"], "state": it["state"]}
                    for it in variant["artifacts"]
                    if it["state"] != "retired"
                }
                for variant in version["variants"]
            }
            for version in shown["versions"]
        }


def _holding(versions: Versions, digests: Collection[str | None]) -> str | None:
    found = (name for name, variants in versions.items() if any(set(it) & set(digests) for it in variants.values()))
    return next(found, None)


def _may_serve(manifest: Mapping) -> bool:
    evaluation = manifest.get("evaluation") or {}
    return bool(evaluation.get("passed")) or evaluation.get("kind") == "not_applicable"


def _alike(there: Mapping[str, Mapping], manifest: Mapping) -> dict[str, bool]:
    """Artifacts of the variant that the new one replaces; True: before it comes, since the catalog has one a target.

    An engine for another GPU or TensorRT stays; of two for the same, with other shapes, a sidecar would take either.
    """

    def target(it: Mapping, *keys: str) -> list[str | None]:
        return [it.get(key) or None for key in ("provider", "compute_capability", "tensorrt_version", *keys)]

    new = manifest.get("target") or {}
    alike = {digest: it for digest, it in there.items() if target(it) == target(new)}
    return {digest: target(it, "shape_profile") == target(new, "shape_profile") for digest, it in alike.items()}


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
            raise ToolError(f"`akidb {' '.join(arguments)}` failed with exit code {done.returncode}; it says why above")
        return done.stdout

    return Catalog(akidb)
