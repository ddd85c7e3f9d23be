"""A teacher's digest and rows of ids enter; its last hidden states leave, from the cache where they were made before.

Kept in blocks, so that an interrupted run loses one block at most; about 768 bytes a token of a 384-wide teacher. A
cache is found by the teacher's weights and the ids themselves: nothing else decides a state.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 2048
SAY_SECONDS = 15


@dataclass(frozen=True)
class States:
    """The hidden states of the first texts, float16, read from the disk as they are asked for."""

    blocks: list[np.ndarray]
    starts: np.ndarray  # where each text begins in its block
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def of(self, chosen: Sequence[int]) -> np.ndarray:
        """float32 [tokens of all chosen texts, width], text after text."""
        parts = (self.blocks[n // BLOCK][self.starts[n] : self.starts[n] + self.lengths[n]] for n in chosen)
        return np.concatenate(list(parts)).astype(np.float32)


def key_of(teacher_digest: str, rows: Sequence[np.ndarray]) -> str:
    """Digest of everything that decides the states."""
    made = hashlib.sha256(f"{teacher_digest}\nstates\n".encode())
    for row in rows:
        made.update(len(row).to_bytes(4, "little") + row.astype("<i4").tobytes())
    return made.hexdigest()[:32]


def states(
    folder: Path,
    key: str,
    rows: Sequence[np.ndarray],
    run: Callable[[Sequence[np.ndarray]], np.ndarray],
    *,
    say: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
    seconds: float = math.inf,
) -> States | None:
    """None where `stop` ended it early. `run` is asked for the blocks that are missing: [tokens, width] of some rows.

    Making them takes about `seconds` at most: past that, only the first rows have states (one block at least).
    """
    place = folder / f"teacher-{key}"
    place.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(row) for row in rows])
    blocks: list[np.ndarray] = []
    made, started, said = 0, time.monotonic(), time.monotonic()
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        file = place / f"{start:09}.npy"
        kept = _read(file, int(lengths[start : start + BLOCK].sum()))
        if kept is None:
            if stop():
                return None
            if blocks and time.monotonic() - started > seconds:
                say(f"teacher: {start:,} of {len(rows):,} texts must do, more would leave too little time to train")
                break
            _write(file, run(part).astype(np.float16))
            kept = np.load(file, mmap_mode="r", allow_pickle=False)
            made += len(part)
            if time.monotonic() - said > SAY_SECONDS:
                said, speed = time.monotonic(), made / (time.monotonic() - started)
                done = start + len(part)
                say(f"teacher {done / len(rows):6.1%}  {speed:,.0f} texts/s  {(len(rows) - done) / speed:,.0f} s left")
        blocks.append(kept)
    count = min(len(rows), len(blocks) * BLOCK)
    say(f"teacher states of {count:,} texts: {made:,} made, {count - made:,} from the cache {place.name}")
    ends = [np.cumsum(lengths[start : start + BLOCK]) for start in range(0, count, BLOCK)]
    return States(blocks, np.concatenate(ends) - lengths[:count], lengths[:count])


def _read(file: Path, tokens: int) -> np.ndarray | None:
    try:
        kept = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return kept if kept.ndim == 2 and len(kept) == tokens and np.isfinite(kept).all() else None


def _write(file: Path, block: np.ndarray) -> None:
    part = file.with_suffix(".part")
    with part.open("wb") as stream:
        np.save(stream, block, allow_pickle=False)
    part.replace(file)
