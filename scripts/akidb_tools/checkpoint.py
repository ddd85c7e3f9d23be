"""A checkpoint folder's small files enter; what they say about pooling, limits, prompts and licence leaves.

Every value that the exporter cannot honour is refused here by name: an embedding that is silently different from the
checkpoint's own is the worst result this tool could give. Reads no weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import BadInput
from .pooling import POOLINGS

MODULES = ("Transformer", "Pooling", "Normalize")
SEEDED = "akidb_seeded"  # key of config.json that `seeded` writes
UNLIMITED = 1_000_000  # tokenizers write 1e30 for "no limit"
SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0"}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder says. `files` are the ones that were read, for the lineage; None or empty: not stated."""

    folder: Path
    transformer: Path
    pooling: str | None
    max_tokens: int | None
    lowercase: bool
    license: str | None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    files: tuple[Path, ...] = ()
    seeded: bool = False


def read(folder: Path) -> Checkpoint:
    """Pooling, limits, prompts and licence of `folder` (sentence-transformers layout or a plain one)."""
    seen: list[Path] = []
    transformer, pooling_folder = _modules(folder, seen)
    sentence = read_json(transformer / "sentence_bert_config.json", seen, {})
    tokenizer = read_json(transformer / "tokenizer_config.json", seen, {})
    limits = [sentence.get("max_seq_length"), tokenizer.get("model_max_length")]
    stated = [int(v) for v in limits if isinstance(v, int | float) and 0 < v < UNLIMITED]
    settings = read_json(folder / "config_sentence_transformers.json", seen, {})
    prompts = settings.get("prompts") or {}
    config = read_json(transformer / "config.json", [], {})
    return Checkpoint(
        folder=folder,
        transformer=transformer,
        pooling=_pooling(pooling_folder / "config.json", seen),
        max_tokens=stated[0] if stated else None,
        lowercase=bool(sentence.get("do_lower_case", False)),
        license=_license(folder / "README.md"),
        prompts={str(k): str(v) for k, v in prompts.items() if v is not None},
        default_prompt=settings.get("default_prompt_name"),
        files=tuple(seen),
        seeded=bool(config.get(SEEDED)),
    )


def read_json(file: Path, seen: list[Path], absent: dict | list) -> dict | list:
    """A JSON file of the same kind as `absent`, which stands for a missing one; `seen` collects the ones there."""
    if not file.is_file():
        return absent
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}") from error
    if not isinstance(value, type(absent)):
        raise BadInput(f"{file} holds {type(value).__name__}, expected {type(absent).__name__}")
    seen.append(file)
    return value


def _modules(folder: Path, seen: list[Path]) -> tuple[Path, Path]:
    """Folders of the transformer and the pooling; modules that would change the vector are refused."""
    modules = read_json(folder / "modules.json", seen, [])
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in MODULES:
            known = ", ".join(MODULES)
            raise BadInput(f"{folder / 'modules.json'}: module {kind} is not supported; supported: {known}")
        path = str(module.get("path", ""))
        if Path(path).is_absolute() or ".." in Path(path).parts or "\\" in path:
            raise BadInput(f"{folder / 'modules.json'}: path {path!r} leaves the checkpoint's folder")
        paths[kind] = path
    return folder / paths["Transformer"], folder / paths["Pooling"]


def _pooling(file: Path, seen: list[Path]) -> str | None:
    raw = read_json(file, seen, {})
    if not raw:
        return None
    if raw.get("include_prompt", True) is False:
        raise BadInput(f"{file}: include_prompt = false (prompt left out of the mean) is not supported")
    short = {"mean_tokens": "mean", "cls_token": "cls"}
    modes = [short.get(k[13:], k[13:]) for k, on in raw.items() if k.startswith("pooling_mode_") and on is True]
    stated = raw.get("pooling_mode", modes)
    modes = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise BadInput(
            f"{file}: pooling mode {' + '.join(modes) or 'none'} is not supported; supported: {', '.join(POOLINGS)}"
        )
    return modes[0]


def _license(readme: Path) -> str | None:
    """`license:` of a model card's front matter, as an SPDX id where it is a known one."""
    if not readme.is_file():
        return None
    matter = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", errors="replace"), re.DOTALL)
    found = matter and re.search(r"^license:\s*['\"]?([\w.+-]+)", matter[1], re.MULTILINE)
    if not found or found[1].lower() in ("other", "unknown"):
        return None
    return SPDX.get(found[1].lower(), found[1])
