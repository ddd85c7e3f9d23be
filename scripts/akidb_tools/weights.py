"""A folder with safetensors enters, float32 arrays by their Hugging Face names (head prefix removed) leave.

Never unpickles: a `pytorch_model.bin` is refused by name, because reading it runs code.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import BadInput

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BASE_PREFIXES = ("bert.", "roberta.", "distilbert.", "model.")
# Parts of a checkpoint that an embedding does not use.
UNUSED = ("pooler.", "cls.", "lm_head.", "vocab_", "classifier.")
FLOATS = {"F64", "F32", "F16", "BF16"}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted; empty where there are none."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{folder / INDEX} is not a safetensors index: {error!r}") from error
    for name in names:
        if Path(name).name != name:
            raise BadInput(f"{folder / INDEX} names the file {name!r}, which is not a plain name in its own folder")
        if not (folder / name).is_file():
            raise BadInput(f"{folder / INDEX} names {name}, which is missing: download the checkpoint again")
    return [folder / name for name in names]


def require_weight_files(folder: Path) -> list[Path]:
    """As `weight_files`, refusing a folder without any."""
    files = weight_files(folder)
    if files:
        return files
    if list(folder.glob("pytorch_model*.bin")):
        raise BadInput(
            f"{folder} holds its weights only as pytorch_model.bin, which runs code when read; "
            "convert them first: save_pretrained(..., safe_serialization=True) writes model.safetensors"
        )
    raise BadInput(f"{folder} has no {SINGLE} (nor {INDEX})")


def load(files: list[Path]) -> dict[str, np.ndarray]:
    """All tensors but the unused heads, as float32."""
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as archive:
                for name in archive.keys():  # noqa: SIM118 - not a dict, iterating it is not offered
                    short = _base_name(name)
                    if short.startswith(UNUSED) or short.endswith("position_ids"):
                        continue
                    dtype = archive.get_slice(name).get_dtype()
                    if dtype not in FLOATS:
                        raise BadInput(f"{file.name}: tensor {name} is {dtype}; only {sorted(FLOATS)} can be exported")
                    tensors[short] = np.asarray(archive.get_tensor(name)).astype(np.float32)
        except SafetensorError as error:
            raise BadInput(f"{file} is not a readable safetensors file: {error}") from error
    return tensors


def _base_name(name: str) -> str:
    for prefix in BASE_PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name
