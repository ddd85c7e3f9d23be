"""A bundle folder, or an .onnx file with its manifest beside it, enters; a checked description of it leaves.

Every file is checked against its digest before anything is read from it, and a broken or foreign bundle is refused by
name. Writes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from . import bundle, five_models
from .errors import BadInput
from .tokenizer import Encoder

BUILT = Path("build/bundles")


@dataclass(frozen=True)
class Bundle:
    """What is on disk; `digest` names the artifact."""

    manifest_file: Path
    manifest: dict
    digest: str

    @property
    def folder(self) -> Path:
        return self.manifest_file.parent

    @property
    def model(self) -> dict:
        return self.manifest["model"]

    @property
    def engine(self) -> Path:
        return self.file("engine")

    @property
    def output(self) -> str:
        return self.manifest["graph"]["output"]

    def file(self, role: str) -> Path:
        return self.folder / next(f["path"] for f in self.manifest["files"] if f["role"] == role)

    def encoder(self) -> Encoder:
        """The tokenizer, refused where it is not the model's."""
        encoder = Encoder(self.file("tokenizer").read_bytes(), self.model["max_tokens"])
        table = _largest_table(self.engine)
        if table is not None and encoder.vocabulary_size() > table:
            raise BadInput(
                f"{self.file('tokenizer')} knows {encoder.vocabulary_size()} tokens, the engine's word table has "
                f"{table} rows: they do not belong together"
            )
        return encoder

    def load(self) -> onnx.ModelProto:
        """The engine's graph with its weights."""
        return _onnx(self.engine)


def read(path: Path) -> Bundle:
    """The bundle at `path`: a folder, its manifest.json, or an engine file.

    A name that is not there (`models/bert-base-INT8.onnx`) stands for what `make models` built under it.
    """
    path = path.expanduser()
    path = path if path.exists() else _built(path) or path
    file = _manifest_file(path)
    try:
        manifest = json.loads(file.read_text("utf-8"))
        if manifest.get("format") != bundle.FORMAT:
            raise BadInput(f"{file}: format is {manifest.get('format')!r}, expected {bundle.FORMAT!r}")
        files = manifest["files"]
        for entry in files:
            _check_file(file, entry)
        roles = {entry["role"] for entry in files}
        named = manifest["model"]["tokenizer_sha256"], manifest["model"]["embedding_space"], manifest["graph"]["output"]
        found = Bundle(file, manifest, bundle.artifact_digest(files))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not a bundle manifest (docs/BUNDLE.md): {error!r}") from error
    missing = {"engine", "tokenizer", "reference"} - roles
    if missing:
        raise BadInput(f"{file} lists no {', '.join(sorted(missing))} file")
    if bundle.sha256(found.file("tokenizer")) != named[0]:
        raise BadInput(f"{found.file('tokenizer')} is not the tokenizer that {file} names (tokenizer_sha256)")
    return found


def parent_of(child: Bundle, siblings: Path | None = None) -> Bundle:
    """The bundle that `child` was made from, searched by digest beside it."""
    wanted = child.manifest["lineage"].get("parent_digest")
    if not wanted:
        raise BadInput(f"{child.manifest_file} has no parent_digest; name its fp32 bundle: --fp32 A --quantized B")
    around = siblings or (child.folder if child.manifest_file.name != bundle.MANIFEST else child.folder.parent)
    for file in sorted([*around.glob("*/manifest.json"), *around.glob("*manifest.json")]):
        try:
            files = json.loads(file.read_text("utf-8"))["files"]
            if bundle.artifact_digest(files) == wanted:
                return read(file)
        except (ValueError, KeyError, TypeError, OSError):
            continue
    raise BadInput(
        f"the parent of {child.manifest_file} (digest {wanted[:16]}) is not in {around}; "
        "name it: --fp32 A --quantized B"
    )


def _built(path: Path) -> Path | None:
    """`NAME.onnx` or `NAME-INT8.onnx`, the name short or long and in any letter case, among the five models."""
    name, _, variant = path.stem.rpartition("-")
    if variant.lower() not in five_models.VARIANTS:
        name, variant = path.stem, five_models.VARIANTS[0]
    if path.suffix != ".onnx" or five_models.canonical(name) not in map(five_models.canonical, five_models.NAMES):
        return None
    folder = BUILT / five_models.find(name).folder(variant.lower())
    return folder if (folder / bundle.MANIFEST).is_file() else None


def _manifest_file(path: Path) -> Path:
    candidates = [path / bundle.MANIFEST] if path.is_dir() else [path]
    if path.suffix == ".onnx" or not path.exists():
        candidates = [path.with_name(f"{path.stem}.manifest.json"), path.with_name(bundle.MANIFEST)]
    found = next((c for c in candidates if c.is_file() and c.name.endswith("manifest.json")), None)
    if found is None or not path.exists():
        raise BadInput(
            f"{path} is not a bundle (no {' or '.join(c.name for c in candidates)}); "
            "export_onnx.py makes one of a checkpoint or of an ONNX file"
        )
    if found.name == bundle.MANIFEST and path.suffix == ".onnx":
        engines = [f["path"] for f in json.loads(found.read_text("utf-8")).get("files", []) if f["role"] == "engine"]
        if path.name not in engines:
            raise BadInput(f"{found} does not list {path.name}: it belongs to another bundle")
    return found


def _check_file(manifest: Path, entry: dict) -> None:
    path = Path(entry["path"])
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{manifest} names {entry['path']!r}, which leaves the bundle's folder")
    file = manifest.parent / path
    if not file.is_file():
        raise BadInput(f"{file} is missing; {manifest} lists it")
    if bundle.sha256(file) != entry["sha256"]:
        raise BadInput(f"{file} is not the file that {manifest} lists (its sha256 differs): make the bundle again")


def _onnx(file: Path) -> onnx.ModelProto:
    try:
        return onnx.load(file)
    except Exception as error:  # protobuf and path errors share no base class
        raise BadInput(f"{file} is not a readable ONNX model: {str(error).strip().splitlines()[0]}") from error


def _largest_table(engine: Path) -> int | None:
    """Rows of the table that `input_ids` select from; None where the graph has no such Gather."""
    try:
        graph = onnx.load(engine, load_external_data=False).graph
    except Exception as error:  # as in `_onnx`
        raise BadInput(f"{engine} is not a readable ONNX model: {error!r}") from error
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    reads = [n.input[0] for n in graph.node if n.op_type == "Gather" and n.input[1] == "input_ids"]
    return max((rows[name] for name in reads if name in rows), default=None)


def reference_rows(found: Bundle) -> tuple[list[str], np.ndarray]:
    """Texts and vectors of reference.json."""
    document = json.loads(found.file("reference").read_text("utf-8"))
    return document["texts"], np.array(document["vectors"], np.float32)
