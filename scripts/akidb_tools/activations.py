"""An fp32 model and token ids enter; what each group of linear layers reads leaves: ranges and a sample of rows.

Padding never counts. Deterministic for the same ids and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from .linear_layers import Group
from .parity import padded
from .runtime import session

BATCH = 16


@dataclass
class Seen:
    """Of one group's input: least and most value by channel, and some of its rows, float32 [rows, depth]."""

    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray


def collect(
    model: ModelProto,
    found: Sequence[Group],
    texts: Sequence[np.ndarray],
    *,
    rows_wanted: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Seen]:
    """Runs the texts once; returns what each group, by name, has read."""
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(helper.make_tensor_value_info(g.input, TensorProto.FLOAT, None) for g in found)
    engine = session(probe)
    del probe
    inputs = [i.name for i in engine.get_inputs()]
    wanted = [g.input for g in found]
    order = sorted(range(len(texts)), key=lambda n: (len(texts[n]), n))
    random = np.random.RandomState(seed)
    share = min(1.0, rows_wanted / max(1, sum(len(t) for t in texts)))
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    rows: dict[str, list[np.ndarray]] = {g.name: [] for g in found}
    for start in range(0, len(order), BATCH):
        batch = [texts[n] for n in order[start : start + BATCH]]
        feed = padded(batch, inputs)
        mask = padded(batch, ["attention_mask"])["attention_mask"].astype(bool).ravel()
        values = engine.run(wanted, feed)
        chosen = np.flatnonzero(mask)
        chosen = chosen[random.random_sample(len(chosen)) < share]
        for group, value in zip(found, values, strict=True):
            flat = value.reshape(-1, value.shape[-1])
            least, most = flat[mask].min(axis=0), flat[mask].max(axis=0)
            low[group.name] = np.minimum(low.get(group.name, least), least)
            high[group.name] = np.maximum(high.get(group.name, most), most)
            rows[group.name].append(flat[chosen])
        if start // BATCH % 16 == 15:
            say(f"calibration: {start + len(batch):,} of {len(texts):,} texts")
    mixed = random.permutation(sum(map(len, rows[found[0].name])))  # the first rows are not those of short texts
    return {g.name: Seen(low[g.name], high[g.name], np.concatenate(rows[g.name])[mixed]) for g in found}
