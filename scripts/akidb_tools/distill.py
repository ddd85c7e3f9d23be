"""A teacher, a number of layers and texts enter; a trained student in a checkpoint folder leaves. All of it in order.

Nothing is written to the destination before the student is trained and measured on texts it has never seen. Stopped
half-way (Ctrl-C, SIGTERM), the same command goes on from where it was. torch is imported once there is work for it.
"""

from __future__ import annotations

import ctypes
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import (
    __version__,
    bundle,
    distill_cache,
    distill_folder,
    distill_plan,
    distill_state,
    quality,
    tokenizer,
    weights,
)
from .architecture import EncoderConfig
from .distill_inputs import Options, Teacher, Texts, check, fingerprint, gather, read_teacher, require_torch
from .errors import BadInput, Stopped, ToolError

if TYPE_CHECKING:
    from .distill_net import Encoder
    from .distill_train import Progress

MOMENT_TEXTS, RACE_TEXTS = 1_024, 96
TEACHER_SHARE = 1 / 3  # of --max-minutes, for the teacher's states


@dataclass(frozen=True)
class _Job:
    """Everything decided before the heavy work starts."""

    options: Options
    teacher: Teacher
    layers: Sequence[int]
    width: int
    texts: Texts
    say: Callable[[str], None]

    def rows(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Texts as the teacher's ids."""
        encoder = tokenizer.Encoder(self.teacher.tokenizer, self.teacher.max_tokens)
        return [encoder.ids(text) for text in texts]


@dataclass(frozen=True)
class _Trained:
    """A student as far as it came, and what it was trained on."""

    student: Encoder
    progress: Progress
    texts: int
    ran_on: dict[str, str]


def run(options: Options, say: Callable[[str], None]) -> dict:
    """Distils, measures, writes; returns the record (distillation.json) with the sizes."""
    started = time.monotonic()
    check(options)
    output = bundle.check_output(options.output, options.force, distill_folder.RECORD, "distilled checkpoint")
    teacher = read_teacher(options.teacher)
    layers = distill_plan.choose_layers(options.layers, teacher.config, options.student_layers)
    width = distill_plan.check_intermediate(options.student_intermediate, teacher.config)
    require_torch()
    job = _Job(options, teacher, layers, width, gather(options, say), say)
    identity = fingerprint(options, teacher, layers, width, job.texts)
    work, _ = distill_state.open_work(output, identity, options.force)
    cost = distill_plan.layer_cost(teacher.config, len(layers), width)
    say(f"teacher {teacher.label}, {teacher.config.layers} layers; student from {list(layers)}, {cost:.2f}x the cost")
    with stopping() as stop, distill_state.alone(work):
        trained = _train(job, work, stop)
        if trained is None or trained.progress.stopped:
            raise Stopped(f"stopped; the same command goes on from here (unfinished work in {work})")
    evaluation = _evaluate(job, trained.student)
    missed = failures(evaluation)
    if missed and not options.allow_failed:
        raise ToolError(
            f"{'; '.join(missed)}; nothing was written. Train longer (--epochs, --max-minutes), state another gate "
            f"(--min-cosine, --min-recall) or keep it all the same (--allow-failed); the trained state stays in {work}"
        )
    record = _record(job, identity, trained, evaluation)
    record["training"]["run_seconds"] = round(time.monotonic() - started, 1)
    record = distill_folder.write(output, trained.student.arrays(), _card(job), record)
    distill_state.remove(work)
    whole = sum(value.nbytes for value in teacher.tensors.values())
    size = {"student": (output / weights.SINGLE).stat().st_size, "teacher": whole}
    return {**record, "output": str(output), "size": size, "failures": missed}


def _record(job: _Job, identity: dict, trained: _Trained, evaluation: dict) -> dict:
    teacher, progress = job.teacher, trained.progress
    cost = distill_plan.layer_cost(teacher.config, len(job.layers), job.width)
    return {
        "tool": f"distill_model {__version__} (torch {trained.ran_on['torch']})",
        "teacher": {"model": teacher.label, "weights_sha256": teacher.digest, "layers": teacher.config.layers},
        "layers": {
            "student": len(job.layers),
            "teacher_layers": list(job.layers),
            "intermediate": job.width,
            "cost": round(cost, 4),
        },
        "corpus": {"sha256": job.texts.train_digest, "n": len(job.texts.train)},
        "options": identity,
        "training": {
            **trained.ran_on,
            "texts": trained.texts,
            "texts_seen": progress.texts,
            "seconds": round(progress.seconds, 1),
            "losses": progress.losses,
        },
        "evaluation": evaluation,
    }


def failures(evaluation: dict) -> list[str]:
    """Every gate that was missed, in words."""
    return [
        f"{metric} {evaluation[metric]} is below its gate {least}"
        for metric, least in evaluation["gate"].items()
        if evaluation[metric] is None or not evaluation[metric] >= least
    ]


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """A question that is answered yes once SIGTERM or Ctrl-C came; the second Ctrl-C ends the program at once."""
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(job: _Job, work: Path, stop: Callable[[], bool]) -> _Trained | None:
    """From the state in `work` where there is one; None where `stop` came before the first step."""
    _keep_freed_memory()
    import torch

    from . import distill_net, distill_train

    options, teacher, started = job.options, job.teacher, time.monotonic()
    device = _device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = job.rows(job.texts.train)
    master = distill_net.Encoder(teacher.config, teacher.tensors, teacher.pooling, device)
    half = _half_is_faster(master, rows, job.say)
    key = distill_cache.key_of(teacher.digest, rows)

    def states(part: Sequence[np.ndarray]) -> np.ndarray:
        return distill_net.states_of_all(master, part, half=half)

    begun = distill_state.settled(work)
    limited = options.max_minutes is not None and begun is None
    budget = 60 * TEACHER_SHARE * options.max_minutes if limited else math.inf
    rows = rows[:begun]
    wanted = distill_cache.states(options.cache, key, rows, states, say=job.say, stop=stop, seconds=budget)
    if wanted is None:
        return None
    distill_state.settle(work, len(wanted))
    rows, file = rows[: len(wanted)], work / distill_state.STATE
    left = options.max_minutes and max(0.1, options.max_minutes - (time.monotonic() - started) / 60)
    recipe = distill_train.Recipe(
        epochs=options.epochs,
        batch=options.batch,
        rate=options.learning_rate,
        cosine=options.cosine,
        mse=options.mse,
        similarity=options.similarity,
        states=options.states,
        seed=options.seed,
        minutes=left,
        half=half,
    )
    training = distill_train.Training(_untrained(job, master, rows[:MOMENT_TEXTS]), recipe)
    if file.is_file():
        training.load(file)
        job.say(f"resuming at {training.progress.share:.1%}, epoch {training.progress.epoch + 1} of {options.epochs}")
    progress = training.run(rows, wanted, file, job.say, stop)
    training.save(file)
    products = "bfloat16" if training.recipe.half else "float32"
    ran_on = {"device": device, "products": products, "torch": torch.__version__}
    return _Trained(training.student, progress, len(rows), ran_on)


def _keep_freed_memory() -> None:
    """Lets glibc reuse what a step frees: handed back to the kernel, it is zeroed and mapped again by the next one."""
    trim_threshold, mmap_threshold = -1, -3  # mallopt's names for them, from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**30)


def _untrained(job: _Job, master: Encoder, sample: Sequence[np.ndarray]) -> Encoder:
    """The student as it starts: layers and words of the teacher, the feed-forward narrowed."""
    from . import distill_net

    teacher = job.teacher
    narrower = job.width < teacher.config.intermediate
    moments = distill_net.moments(master, sample, job.layers) if narrower else {}
    own = distill_plan.student_tensors(teacher.tensors, job.layers, job.width, moments)
    shape = EncoderConfig(**{**asdict(teacher.config), "layers": len(job.layers), "intermediate": job.width})
    return distill_net.Encoder(shape, own, teacher.pooling, master.device)


def _device(said: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if said == "cuda" and not there:
        raise BadInput("--device cuda: torch finds no CUDA device here; --device cpu trains without one")
    return "cuda" if there and said != "cpu" else "cpu"


def _half_is_faster(master: Encoder, rows: Sequence[np.ndarray], say: Callable[[str], None]) -> bool:
    """Whether bfloat16 products pay on this machine: both take turns on the same texts."""
    from . import distill_net

    sample, seconds = list(rows[:RACE_TEXTS]), {False: [], True: []}
    for _ in range(3):
        for half, taken in seconds.items():
            started = time.monotonic()
            distill_net.embed_all(master, sample, half=half)
            taken.append(time.monotonic() - started)
    speed = {half: len(sample) / min(taken) for half, taken in seconds.items()}
    say(f"teacher: {speed[False]:,.0f} texts/s in float32, {speed[True]:,.0f} in bfloat16; the faster one is used")
    return speed[True] > 1.1 * speed[False]


def _evaluate(job: _Job, student: Encoder) -> dict:
    """Figures against the teacher, both in float32 products."""
    from . import distill_net

    options, teacher = job.options, job.teacher
    job.say(f"measuring on {len(job.texts.held_out):,} held-out texts")
    rows = job.rows(job.texts.held_out)
    master = distill_net.Encoder(teacher.config, teacher.tensors, teacher.pooling, student.device)
    agreed = quality.agreement(distill_net.embed_all(master, rows), distill_net.embed_all(student, rows))
    recall = None if agreed.recall_at_10 is None else round(agreed.recall_at_10, 6)
    evaluation = {
        "kind": "distillation",
        "dataset_digest": job.texts.held_out_digest,
        "n": agreed.n,
        "mean_cosine": round(agreed.mean_cosine, 6),
        "min_cosine": round(agreed.min_cosine, 6),
        "recall_at_10": recall,
        "gate": {"mean_cosine": options.min_cosine, "recall_at_10": options.min_recall},
        "passed": False,
        "tool": f"distill_model {__version__}",
    }
    job.say(f"mean cosine {agreed.mean_cosine:.4f}, min {agreed.min_cosine:.4f}, recall@10 {recall}")
    return {**evaluation, "passed": not failures(evaluation)}


def _card(job: _Job) -> distill_folder.Card:
    teacher, described = job.teacher, job.teacher.checkpoint
    return distill_folder.Card(
        config=distill_plan.student_config(teacher.raw_config, len(job.layers), job.width),
        tokenizer=teacher.tokenizer,
        tokenizer_folder=described.transformer,
        pooling=teacher.pooling,
        dimension=teacher.config.hidden,
        max_tokens=teacher.max_tokens,
        lowercase=described.lowercase,
        license=described.license,
        prompts=described.prompts,
    )
