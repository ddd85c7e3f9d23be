"""The `--model` argument enters; a local folder (or ONNX file) and a name for it leave.

Tried in order: a path, an installed Python package that carries a checkpoint, the local Hugging Face cache, the hub.
Never imports the package it looks into.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import BadInput
from .weights import INDEX, SINGLE

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "README.md", "*/config.json"]
HUB_SKIP = ["onnx/*", "openvino/*"]


@dataclass(frozen=True)
class Source:
    """`onnx` is set where the model is an ONNX file to be finished; `label` goes into the manifest."""

    folder: Path
    onnx: Path | None
    label: str
    name: str


def resolve(model: str) -> Source:
    """Finds `model`, or refuses with everything that was tried."""
    path = Path(model).expanduser()
    if path.exists():
        return _local(path.resolve())
    tried = [f"the path {path}"]
    if re.fullmatch(r"[A-Za-z_][\w-]*", model):
        package = model.replace("-", "_")
        tried.append(f"the Python package {package}")
        folder = _in_package(package)
        if folder:
            return _from_folder(folder, package, package)
    if path.is_absolute() or not HUB_ID.match(model) or path.suffix in (".onnx", ".safetensors"):
        raise BadInput(f"model {model!r} was not found; tried {', '.join(tried)}; give --model FOLDER or FILE.onnx")
    return _from_folder(_from_hub(model, tried), model, model.rsplit("/", 1)[-1])


def _local(path: Path) -> Source:
    if path.is_dir():
        return _from_folder(path, path.name, path.name)
    if path.suffix != ".onnx":
        raise BadInput(f"{path} is a file but not an .onnx one; give the checkpoint's folder")
    name = path.parent.name if path.stem == "model" else path.stem
    return Source(folder=path.parent, onnx=path, label=path.name, name=name)


def _from_folder(folder: Path, label: str, name: str) -> Source:
    """Safetensors win over an ONNX file in the same folder: the reference vectors come from them either way."""
    graphs = sorted(folder.glob("*.onnx"))
    if (folder / "config.json").is_file() and not graphs:
        return Source(folder, None, label, name)
    # sentence-transformers may keep the encoder in a folder of its own; `checkpoint` finds it.
    if (folder / SINGLE).is_file() or (folder / INDEX).is_file() or (folder / "modules.json").is_file():
        return Source(folder, None, label, name)
    if len(graphs) > 1:
        names = ", ".join(g.name for g in graphs)
        raise BadInput(f"{folder} holds several ONNX files ({names}): give one of them as --model")
    if graphs:
        return Source(folder, graphs[0], label, name)
    raise BadInput(f"{folder} is not a checkpoint: it has neither config.json with {SINGLE} nor an .onnx file")


def _in_package(package: str) -> Path | None:
    """The package's own folder or one directly under it that holds a checkpoint."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in [Path(root), *sorted(p for p in Path(root).iterdir() if p.is_dir())]:
            if (folder / "config.json").is_file() or list(folder.glob("*.onnx")):
                return folder
    return None


def _from_hub(model: str, tried: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    wanted = {"allow_patterns": HUB_FILES, "ignore_patterns": HUB_SKIP}
    tried.append("the local Hugging Face cache")
    try:
        return Path(snapshot_download(model, local_files_only=True, **wanted))
    except Exception:  # noqa: BLE001 - any failure means "not in the cache"; the hub is asked next
        tried.append("the Hugging Face hub")
    try:
        return Path(snapshot_download(model, **wanted))
    except Exception as error:  # network, authorisation and "no such id" all end here, with the cause named
        cause = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise BadInput(
            f"model {model!r} was not found; tried {', '.join(tried)} ({type(error).__name__}: {cause}). "
            "Download the checkpoint where there is a network and give its folder: --model FOLDER"
        ) from error
