"""A teacher's digest and rows of ids enter; its vectors leave, from the cache where they were made before.

Kept in blocks, so that an interrupted run loses one block at most. A cache is found by the teacher's weights, the ids
themselves and the pooling: nothing else decides a vector.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

BLOCK = 2048
SAY_SECONDS = 15


def key_of(teacher_digest: str, rows: Sequence[np.ndarray], pooling: str) -> str:
    """Digest of everything that decides the vectors."""
    made = hashlib.sha256(f"{teacher_digest}\n{pooling}\n".encode())
    for row in rows:
        made.update(len(row).to_bytes(4, "little") + row.astype("<i4").tobytes())
    return made.hexdigest()[:32]


def vectors(
    folder: Path,
    key: str,
    rows: Sequence[np.ndarray],
    embed: Callable[[Sequence[np.ndarray]], np.ndarray],
    *,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
    seconds: float = math.inf,
) -> np.ndarray | None:
    """float16 [rows, dimension]; None where `stop` ended it early. `embed` is asked for the blocks that are missing.

    Making them takes about `seconds` at most: past that, only the first rows have vectors (one block at least).
    """
    place = folder / f"teacher-{key}"
    place.mkdir(parents=True, exist_ok=True)
    blocks: list[np.ndarray] = []
    made, started, said = 0, time.monotonic(), time.monotonic()
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        file = place / f"{start:09}.npy"
        kept = _read(file, len(part))
        if kept is None:
            if stop():
                return None
            if blocks and time.monotonic() - started > seconds:
                say(f"teacher: {start:,} of {len(rows):,} texts must do, more would leave too little time to train")
                break
            kept = embed(part).astype(np.float16)
            _write(file, kept)
            made += len(part)
            if time.monotonic() - said > SAY_SECONDS:
                said, speed = time.monotonic(), made / (time.monotonic() - started)
                done = start + len(part)
                say(f"teacher {done / len(rows):6.1%}  {speed:,.0f} texts/s  {(len(rows) - done) / speed:,.0f} s left")
        blocks.append(kept)
    whole = np.concatenate(blocks)
    say(f"teacher vectors of {len(whole):,} texts: {made:,} made, {len(whole) - made:,} from the cache {place.name}")
    return whole


def _read(file: Path, count: int) -> np.ndarray | None:
    try:
        kept = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.ndim == 2 and len(kept) == count and np.isfinite(kept).all() else None


def _write(file: Path, block: np.ndarray) -> None:
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.save(stream, block, allow_pickle=False)
    part.replace(file)
