"""Engine, tokenizer and reference vectors enter; a finished bundle folder (docs/BUNDLE.md) leaves.

A bundle is built beside its destination and renamed into place, so a reader never sees half of one. Knows nothing of
checkpoints or graphs: every tool that makes an artifact writes it through here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from .errors import BadInput

FORMAT = "akidb.bundle/1"
MANIFEST, ENGINE, TOKENIZER, REFERENCE = "manifest.json", "model.onnx", "tokenizer.json", "reference.json"
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
MIN_REFERENCES = 16


@dataclass(frozen=True)
class Names:
    """What the files of a bundle are called."""

    manifest: str = MANIFEST
    engine: str = ENGINE
    tokenizer: str = TOKENIZER
    reference: str = REFERENCE

    @classmethod
    def beside(cls, stem: str) -> Names:
        """For a bundle that is one engine file with everything else beside it."""
        return cls(f"{stem}.manifest.json", f"{stem}.onnx", f"{stem}.tokenizer.json", f"{stem}.reference.json")


@dataclass(frozen=True)
class Model:
    """The manifest's `model`, without the tokenizer's digest (taken from the written file)."""

    name: str
    source: str | None
    license: str | None
    dimension: int
    max_tokens: int
    pooling: str
    embedding_space: str
    normalized: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    seeded: bool = False


@dataclass(frozen=True)
class Variant:
    """The manifest's `variant`, `target` and `graph`."""

    name: str
    precision: str
    inputs: Sequence[str]
    output: str
    provider: str = "portable"
    compute_capability: str | None = None
    tensorrt_version: str | None = None
    shape_profile: str | None = None


@dataclass(frozen=True)
class Lineage:
    """Where the artifact comes from; `source_files` are (path relative to the source, sha256)."""

    recipe: str
    source_files: Sequence[tuple[str, str]] = ()
    parent_digest: str | None = None
    calibration_digest: str | None = None


def check_name(name: str) -> str:
    """A model name as the manifest allows it."""
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise BadInput(f"model name {name!r} is not 1-128 of A-Z a-z 0-9 . _ -; give another with --name")
    return name


def sha256(file: Path) -> str:
    """Lower-case hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def artifact_digest(files: Sequence[dict]) -> str:
    """The artifact's name everywhere: digest of `sha256sum` lines sorted by path."""
    lines = sorted((f["path"].encode(), f"{f['sha256']}  {f['path']}\n".encode()) for f in files)
    return hashlib.sha256(b"".join(line for _, line in lines)).hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of the bundle in `folder`, by what its manifest lists."""
    try:
        return artifact_digest(json.loads((folder / MANIFEST).read_text("utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no bundle: {error!r}") from error


def fp32_of(weights: str, folder: Path) -> str | None:
    """Digest of the fp32 artifact in `folder` that was written from the safetensors file of this sha256."""
    for file in sorted(folder.glob("*/manifest.json")):
        try:
            manifest = json.loads(file.read_text("utf-8"))
            sources = {entry["sha256"] for entry in manifest["lineage"]["source_files"]}
            if manifest["variant"]["precision"] == "fp32" and weights in sources:
                return artifact_digest(manifest["files"])
        except (ValueError, KeyError, TypeError, OSError):
            continue
    return None


def reference_json(texts: Sequence[str], vectors: np.ndarray) -> bytes:
    """reference.json: 7 significant digits, one vector a line, so that the same input gives the same bytes."""
    if len(texts) < MIN_REFERENCES or len(texts) != len(vectors):
        raise ValueError(f"{len(texts)} texts and {len(vectors)} vectors; at least {MIN_REFERENCES} of each are needed")
    rows = ",\n".join("[" + ",".join(f"{value:.7g}" for value in row) + "]" for row in vectors)
    listed = ",\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return f'{{"texts":[\n{listed}\n],\n"vectors":[\n{rows}\n]}}\n'.encode()


def write_manifest(
    folder: Path,
    model: Model,
    variant: Variant,
    lineage: Lineage,
    evaluation: dict | None,
    *,
    names: Names = Names(),
) -> dict:
    """Lists the files in `folder` (by `names`) and writes the manifest; returns it with `digest` added."""
    files = [_entry(file, names) for file in sorted(folder.iterdir()) if file.name != names.manifest]
    manifest = {
        "format": FORMAT,
        "model": {
            "name": check_name(model.name),
            "source": model.source,
            "license": model.license,
            "dimension": model.dimension,
            "max_tokens": model.max_tokens,
            "pooling": model.pooling,
            "normalized": model.normalized,
            "embedding_space": model.embedding_space,
            "tokenizer_sha256": next(f["sha256"] for f in files if f["role"] == "tokenizer"),
            "prompts": model.prompts,
            "seeded": model.seeded,
        },
        "variant": {"name": variant.name, "precision": variant.precision},
        "target": {
            "provider": variant.provider,
            "compute_capability": variant.compute_capability,
            "tensorrt_version": variant.tensorrt_version,
            "shape_profile": variant.shape_profile,
        },
        "graph": {"inputs": list(variant.inputs), "output": variant.output},
        "files": files,
        "lineage": {
            "parent_digest": lineage.parent_digest,
            "calibration_digest": lineage.calibration_digest,
            "recipe": lineage.recipe,
            "source_files": [{"path": path, "sha256": digest} for path, digest in lineage.source_files],
        },
        "evaluation": evaluation,
        "created_at": _created_at(),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    (folder / names.manifest).write_text(text, "utf-8", newline="\n")
    return {**manifest, "digest": artifact_digest(files)}


def _entry(file: Path, names: Names) -> dict:
    roles = {names.tokenizer: "tokenizer", names.reference: "reference", names.engine: "engine"}
    return {
        "path": file.name,
        "role": roles.get(file.name, "engine_data"),
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
    }


def _created_at() -> str:
    """Now, or SOURCE_DATE_EPOCH where a build must repeat to the byte."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.fromtimestamp(int(fixed), UTC) if fixed else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise BadInput(f"SOURCE_DATE_EPOCH={fixed!r} is not a number of seconds") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_output(output: Path, force: bool, mark: str = MANIFEST, kind: str = "bundle") -> Path:
    """The destination, refused where writing would destroy something; called before any work is done.

    `mark` is the file by which a folder is known to be of the `kind` that `force` may replace.
    """
    output = Path(os.path.realpath(output.expanduser()))
    if not output.exists():
        return output
    if not output.is_dir():
        raise BadInput(f"output {output} is a file; give a folder")
    if not any(output.iterdir()):
        return output
    if not force:
        raise BadInput(f"output {output} exists; give another --output, or --force to replace it")
    if not (output / mark).is_file():
        raise BadInput(f"output {output} is not a {kind} (no {mark}); --force replaces {kind}s only")
    return output


def check_output_file(output: Path, force: bool) -> Path:
    """As `check_output` for `X.onnx` with its companions beside it."""
    output = Path(os.path.realpath(output.expanduser()))
    names = Names.beside(output.stem)
    there = [
        n for n in (names.engine, names.manifest, names.tokenizer, names.reference) if (output.parent / n).exists()
    ]
    if there and not force:
        raise BadInput(f"output {output.parent / there[0]} exists; give another --output, or --force to replace it")
    if output.is_dir():
        raise BadInput(f"output {output} is a folder; give FILE.onnx or a folder without that ending")
    return output


@contextmanager
def placing(output: Path) -> Iterator[Path]:
    """A temporary folder whose files move beside `output` when the block ends without an error, the manifest last."""
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
    manifest = Names.beside(output.stem).manifest
    try:
        yield work
        (output.parent / manifest).unlink(missing_ok=True)
        for file in sorted(work.iterdir(), key=lambda f: f.name == manifest):
            file.chmod(0o644)
            file.replace(output.parent / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place when the block ends without an error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".part", dir=output.parent))
    try:
        yield work
        for file in (f for f in work.rglob("*") if f.is_file()):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.chmod(0o644)
        work.chmod(0o755)
        _swap(work, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, output: Path) -> None:
    if not output.exists():
        work.rename(output)
        return
    old = work.with_suffix(".old")
    output.rename(old)
    try:
        work.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)
