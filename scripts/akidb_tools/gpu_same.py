"""Part `vectors` of the stage `http`: texts of many lengths enter, alone and in batches, by several clients at once.
How far apart any text's vectors were leaves.

The first vectors come from a sidecar that has just begun, one text at a time; the others while shapes become CUDA
graphs, contexts take turns and batches hold what came together.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .errors import ToolError
from .gpu_point import totals
from .gpu_services import Sidecar
from .gpu_sides import Lineup, serving
from .gpu_stage import Stage
from .quality import row_cosines

WORDS = (
    "the",
    "of",
    "shipping",
    "container",
    "measured",
    "river",
    "pump",
    "valve",
    "pressure",
    "record",
    "index",
    "glass",
)
TEXTS, LONGEST = 512, 120
CLIENTS, SECONDS = 8, 6.0
SIZES = (1, 4, 16, 64)


@dataclass
class Seen:
    """What the clients found, each under the lock."""

    least: float = 1.0
    vectors: int = 0
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def vectors(stage: Stage, served: Lineup) -> None:
    """Every vector that came later is compared with the text's first."""
    count, seconds = (16, 2.0) if stage.rehearse else (TEXTS, SECONDS)
    texts = made(count, 12 if stage.rehearse else LONGEST)
    with serving(stage, "vectors", served) as (running, side):
        first = np.array([_embed(running, [text])[0] for text in texts])
        seen, ends = Seen(), time.monotonic() + seconds
        known = (texts, first)
        clients = [threading.Thread(target=_client, args=(running, known, seen, ends, n)) for n in range(CLIENTS)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        graphs = round(totals(running.metrics()).get("akidb_engine_cuda_graphs_total", 0))
    if seen.failed:
        raise ToolError(f"{len(seen.failed)} requests failed: {seen.failed[0]}")
    facts = {"least_cosine": math.floor(seen.least * 1e7) / 1e7, "vectors": seen.vectors, "texts": count}
    entry = {"variant": side.variant, "precision": side.precision, **facts, "cuda_graphs": graphs}
    stage.results.put("vectors", {**entry, "rehearsal": stage.rehearse})
    least, of = facts["least_cosine"], facts["vectors"]
    stage.say(f"vectors {side.variant}: least cosine {least} of {of:,}, {graphs} CUDA graphs")


def made(count: int, longest: int) -> list[str]:
    """Texts of 1 to `longest` words, the shortest first."""
    source = random.Random(7)
    return [" ".join(source.choices(WORDS, k=1 + n * longest // count)) for n in range(count)]


def _client(running: Sidecar, known: tuple[list[str], np.ndarray], seen: Seen, ends: float, seed: int) -> None:
    (texts, first), source = known, random.Random(seed)
    while time.monotonic() < ends and not seen.failed:
        size = min(source.choice(SIZES), len(texts))
        # Neighbours are of like length: their shapes come again and become graphs.
        start = source.randrange(len(texts) - size + 1)
        try:
            got = _embed(running, texts[start : start + size])
            least = float(row_cosines(first[start : start + size], np.array(got)).min())
        except Exception as error:  # noqa: BLE001 - in a thread; it is told when all have ended
            with seen.lock:
                seen.failed.append(f"{type(error).__name__}: {error}")
            return
        with seen.lock:
            seen.least, seen.vectors = min(seen.least, least), seen.vectors + size


def _embed(running: Sidecar, texts: Sequence[str]) -> list[list[float]]:
    status, answer = running.embed({"texts": list(texts)})
    if status != 200:
        raise ToolError(f"status {status}: {answer}")
    return answer["embeddings"]
