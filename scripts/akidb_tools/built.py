"""Names of models enter; the folders of the bundles that `make models` built of them leave, a model's root first.

A model without its fp32 root is refused; a variant that is not there is named and left out. Reads no file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import bundle, five_models
from .errors import BadInput


def bundles(names: str, folder: Path, say: Callable[[str], None]) -> list[Path]:
    """`names`: `all`, or names with commas between."""
    asked = [name for name in names.split(",") if name]
    models = five_models.MODELS if asked == ["all"] else [five_models.find(name) for name in asked]
    listed = [folder / model.folder(variant) for model in models for variant in five_models.VARIANTS]
    missing = [it.name for it in listed if not (it / bundle.MANIFEST).is_file()]
    command = "make models" + ("" if asked == ["all"] else f" MODELS={names}")
    roots = [name for name in missing if name.endswith(f"-{five_models.VARIANTS[0]}")]
    if roots or not listed:
        raise BadInput(f"not built yet below {folder}: {', '.join(roots) or 'no model named'}; run `{command}` first")
    if missing:
        say(f"note: {', '.join(missing)} not built; `{command}` says why")
    return [it for it in listed if it.name not in missing]
