"""Stage `two-gpu`: one engine on one GPU and on two of one host, through the sidecar; texts a second leave."""

from __future__ import annotations

from . import gpu_machine
from .errors import BadInput
from .gpu_http import point, programs, sidecar, sides
from .gpu_stage import Stage

CLIENTS = (16, 32, 64)
BATCH = 256


def run(stage: Stage) -> None:
    """Client batches with base64; the most of each side is compared."""
    programs(stage)
    served, _ = sides(stage)
    count = len(gpu_machine.gpus())
    if count < 2 and not stage.rehearse:
        raise BadInput(f"{count} GPU here: the stage two-gpu needs two of one host")
    best: dict[int, float] = {}
    for ids in ([0], [0, 1]):
        settings = {} if stage.rehearse else {"device_ids": ids}
        with sidecar(stage, f"two-{len(ids)}", [served], **settings) as running:
            for n in (1, 2) if stage.rehearse else CLIENTS:
                if stage.left() < 12:
                    break
                batch = 8 if stage.rehearse else BATCH
                more = ["--clients", str(n), "--batch", str(batch), "--base64"]
                part = f"{len(ids)} GPU"
                entry = point(stage, running, part, served, more, clients=n, batch=batch, base64=True)
                best[len(ids)] = max(best.get(len(ids), 0.0), entry["texts_per_second"])
    if len(best) == 2:
        ratio = best[2] / best[1]
        stage.results.put("two_gpu", (), {"texts_per_second": best, "ratio": ratio, "rehearsal": stage.rehearse})
        stage.say(f"two GPUs: {best[2]:,.0f} texts/s against {best[1]:,.0f}: {ratio:.2f}x")
