"""A student, texts as ids and the teacher's states of them enter; the trained student, or a state to resume, leaves.

Losses: cosine and squared error of the vectors, squared error of the in-batch similarity matrix, and the relative
squared error of each token's last hidden state, which says more of a text than its one vector. The plan of batches
depends on seed and epoch alone, so a resumed run goes through the same ones. Needs torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .distill_cache import States
from .distill_net import WORDS, Encoder, batch

WINDOW = 64  # batches that are sorted by length together
WARM_UP = 0.05
SAVE_SECONDS, SAY_SECONDS = 60, 15


@dataclass(frozen=True)
class Recipe:
    """How to train; `minutes`: the learning rate reaches its end by then, whatever was seen."""

    epochs: int
    batch: int
    rate: float
    cosine: float
    mse: float
    similarity: float
    states: float
    seed: int
    minutes: float | None
    half: bool


@dataclass
class Progress:
    """How far it is; `seconds` of training, over all runs."""

    epoch: int = 0
    step: int = 0
    texts: int = 0
    seconds: float = 0.0
    share: float = 0.0
    losses: list[float] = field(default_factory=list)
    stopped: bool = False


def plan(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of an epoch: shuffled, like lengths together within a window, the batches shuffled again."""
    random = np.random.RandomState([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), size * WINDOW):
        window = order[start : start + size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[n : n + size] for n in range(0, len(window), size)]
    return [batches[n] for n in random.permutation(len(batches)) if len(batches[n]) > 1]


def rate_at(share: float) -> float:
    """Factor on the learning rate: a short rise, then half a cosine down to 0; `share` of the way, 0 to 1."""
    return min(1.0, share / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def loss_of(got: torch.Tensor, wanted: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Both [batch, dimension], unit vectors."""
    loss = recipe.cosine * (1 - (got * wanted).sum(1)).mean()
    loss = loss + recipe.mse * (got - wanted).square().sum(1).mean()
    return loss + recipe.similarity * F.mse_loss(got @ got.T, wanted @ wanted.T)


def state_loss(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Both [tokens, width]: squared error of each token's state by its own size, then their mean."""
    return ((got - wanted).square().sum(1) / wanted.square().sum(1)).mean()


class Training:
    """Student, optimisers and progress, which a state file keeps."""

    def __init__(self, student: Encoder, recipe: Recipe) -> None:
        self.student, self.recipe, self.progress = student, recipe, Progress()
        weights = student.parameters
        for value in weights.values():
            value.requires_grad_(True)
        self._dense = [value for name, value in weights.items() if name != WORDS]
        matrices, vectors = [v for v in self._dense if v.ndim > 1], [v for v in self._dense if v.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        self._optimisers = [
            torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True),
            torch.optim.SparseAdam([weights[WORDS]], lr=recipe.rate, betas=(0.9, 0.98)),
        ]

    def save(self, file: Path) -> None:
        """Writes the state beside `file`, then in its place."""
        part = file.with_suffix(".part")
        state = {
            "weights": {name: value.detach() for name, value in self.student.parameters.items()},
            "optimisers": [o.state_dict() for o in self._optimisers],
            "progress": vars(self.progress),
            "half": self.recipe.half,
            "minutes": self.recipe.minutes,
        }
        torch.save(state, part)
        part.replace(file)

    def load(self, file: Path) -> None:
        """Goes on from a state file, with the products and the time it began with."""
        state = torch.load(file, map_location=self.student.device, weights_only=True)
        with torch.no_grad():
            for name, value in self.student.parameters.items():
                value.copy_(state["weights"][name])
        for optimiser, kept in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        self.progress = Progress(**{**state["progress"], "stopped": False})
        self.recipe = replace(self.recipe, half=state["half"], minutes=state["minutes"])

    def run(
        self,
        rows: Sequence[np.ndarray],
        wanted: States,
        file: Path,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> Progress:
        """Trains to the end, or until `stop` says so; the state in `file` is never older than a minute."""
        lengths = np.array([len(row) for row in rows])
        self._pulse = _Pulse(self.progress, say)
        saved = time.monotonic()
        for chosen, total in self._steps(lengths):
            started = time.monotonic()
            self._step([rows[n] for n in chosen], torch.from_numpy(wanted.of(chosen)))
            self.progress.texts += len(chosen)
            self.progress.seconds += time.monotonic() - started
            self._advance(total)
            self._pulse.beat(total * self.recipe.epochs)
            self.progress.stopped = stop()
            if self.progress.stopped or time.monotonic() - saved > SAVE_SECONDS:
                self.save(file)
                saved = time.monotonic()
            if self.progress.stopped or self.progress.share >= 1:
                break
        return self.progress

    def _steps(self, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """What is left of the plan: (texts of a batch, batches in an epoch)."""
        while self.progress.epoch < self.recipe.epochs:
            batches = plan(lengths, self.recipe.batch, self.recipe.seed, self.progress.epoch)
            while self.progress.step < len(batches):
                yield batches[self.progress.step], len(batches)
            self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0

    def _advance(self, total: int) -> None:
        p, recipe = self.progress, self.recipe
        p.step += 1
        by_plan = (p.epoch * total + p.step) / (recipe.epochs * total)
        p.share = max(by_plan, p.seconds / (60 * recipe.minutes) if recipe.minutes else 0.0)

    def _step(self, rows: list[np.ndarray], wanted: torch.Tensor) -> None:
        student, factor = self.student, rate_at(max(self.progress.share, 1e-4))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.rate * factor
        ids, mask = batch(rows, student.device)
        with torch.autocast(student.device, torch.bfloat16, enabled=self.recipe.half):
            got = student.states(ids, mask)
        wanted = wanted.to(student.device)
        padded = torch.zeros_like(got)
        padded[mask] = wanted
        loss = loss_of(student.pool(got, mask), student.pool(padded, mask), self.recipe)
        if self.recipe.states:
            loss = loss + self.recipe.states * state_loss(got[mask], wanted)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._dense, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        self._pulse.losses.append(float(loss.detach()))


class _Pulse:
    """Says loss, speed and time left now and then."""

    def __init__(self, progress: Progress, say: Callable[[str], None]) -> None:
        self.losses: list[float] = []
        self._progress, self._say = progress, say
        self._since, self._texts = time.monotonic(), progress.texts

    def beat(self, steps: int) -> None:
        now, p = time.monotonic(), self._progress
        if now - self._since < SAY_SECONDS and p.share < 1:
            return
        loss = float(np.mean(self.losses))
        speed = (p.texts - self._texts) / max(now - self._since, 1e-9)
        left = p.seconds * (1 - p.share) / max(p.share, 1e-9)
        at = f"training {p.share:6.1%}  epoch {p.epoch + 1}"
        self._say(f"{at}  loss {loss:.4f}  {speed:,.0f} texts/s  {left:,.0f} s left")
        p.losses.append(round(loss, 5))
        self.losses, self._since, self._texts = [], now, p.texts
