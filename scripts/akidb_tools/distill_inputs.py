"""A command line's options enter; the teacher, the texts and everything else decided before the work starts leave.

Refuses here what cannot be used, before a minute is spent. Needs no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import architecture, bundle, checkpoint, corpus, corpus_train, source, text_sets, tokenizer, weights
from .architecture import EncoderConfig
from .checkpoint import Checkpoint
from .errors import BadInput

CORPUS, CACHE = Path("build/corpus"), Path("build/distill-cache")
# What a student states of itself; the catalog holds it to these (docs/BUNDLE.md).
GATE = {"mean_cosine": 0.93, "recall_at_10": 0.75}
INSTALL = "make distill-setup (or: pip install --no-deps -r scripts/requirements-distill.txt)"


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    teacher: str
    student_layers: int
    output: Path
    epochs: int = 7
    student_intermediate: int | None = None
    layers: str | None = None
    corpus: Path | None = None
    test_dataset: Path | None = None
    evaluate: int = 2_000
    batch: int = 64
    learning_rate: float = 7e-4
    cosine: float = 1.0
    mse: float = 1.0
    similarity: float = 5.0
    states: float = 1.0
    min_cosine: float = GATE["mean_cosine"]
    min_recall: float = GATE["recall_at_10"]
    device: str = "auto"
    threads: int | None = None
    seed: int = 0
    max_minutes: float | None = None
    cache: Path = CACHE
    allow_failed: bool = False
    force: bool = False


@dataclass(frozen=True)
class Teacher:
    """What was found under the teacher's name."""

    label: str
    checkpoint: Checkpoint
    config: EncoderConfig
    raw_config: dict
    tensors: dict[str, np.ndarray]
    digest: str
    pooling: str
    max_tokens: int
    tokenizer: bytes


@dataclass(frozen=True)
class Texts:
    """Training and held-out texts, with the digests of their files."""

    train: list[str]
    train_digest: str
    held_out: list[str]
    held_out_digest: str


def check(options: Options) -> None:
    """Refuses numbers that cannot be meant."""
    least = {"epochs": 1, "batch": 2, "evaluate": bundle.MIN_REFERENCES, "threads": 1}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise BadInput(f"--{name} {value}: at least {low}")
    if not 0 < options.learning_rate < 1:
        raise BadInput(f"--learning-rate {options.learning_rate} is outside 0..1; 0.0007 is the default")
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise BadInput(f"--max-minutes {options.max_minutes}: more than 0")
    others = min(options.similarity, options.states)
    if min(options.cosine, options.mse, others) < 0 or options.cosine + options.mse <= 0:
        raise BadInput(
            "--cosine, --mse, --similarity and --states are weights of the losses: none below 0, cosine or mse above"
        )
    for name in ("min_cosine", "min_recall"):
        if not 0 <= getattr(options, name) <= 1:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(options, name)} is outside 0..1")


def require_torch() -> None:
    """Says what installs torch where it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise BadInput(f"distillation needs torch, which is not installed here: {INSTALL}")


def read_teacher(model: str) -> Teacher:
    """The checkpoint, checked as the exporter checks it."""
    found = source.resolve(model)
    described = checkpoint.read(found.folder)
    if found.onnx or not weights.weight_files(described.transformer):
        raise BadInput(f"{model} has no {weights.SINGLE}: a teacher's weights are needed, not only its graph")
    file = described.transformer / "config.json"
    config = architecture.encoder_config(file)
    files = weights.require_weight_files(described.transformer)
    tensors = weights.load(files)
    cleaned = tokenizer.clean(described.transformer / "tokenizer.json", described.lowercase)
    most = min(described.max_tokens or config.max_positions, config.max_positions)
    architecture.check_tensors(config, tensors, tokenizer.Encoder(cleaned, most).vocabulary_size())
    if described.pooling is None:
        raise BadInput(f"{found.folder} has no 1_Pooling/config.json: how the teacher pools is not known")
    digests = [bundle.sha256(file) for file in files]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    raw = json.loads(file.read_text("utf-8"))
    return Teacher(found.label, described, config, raw, tensors, digest, described.pooling, most, cleaned)


def gather(options: Options, say: Callable[[str], None]) -> Texts:
    """Training texts (built where missing) and held-out ones; no text is in both."""
    data, proof = options.corpus, options.test_dataset
    if data is None:
        proof = proof or CORPUS / corpus.TEST
        if not (CORPUS / corpus.TEST).is_file():
            say(f"no --corpus: building it in {CORPUS}")
            corpus.build(corpus.Options(output=CORPUS), say)
        data = CORPUS / corpus_train.TRAIN
        if not data.is_file():
            corpus_train.build(CORPUS, corpus_train.TRAIN_TEXTS, 0, say)
    train = text_sets.read(data)
    if proof is None:
        held = [t for t in train.texts if hashlib.sha256(f"held out\n{t}".encode()).digest()[0] < 32]
        digest = train.digest
    else:
        dataset = text_sets.read(proof)
        held, digest = dataset.texts, dataset.digest
    known = set(held)
    usable = [text for text in train.texts if text not in known]
    if len(usable) < text_sets.LEAST_TEXTS or len(held) < bundle.MIN_REFERENCES:
        raise BadInput(
            f"{data}: {len(usable)} texts to train with and {len(held)} to measure on are too few "
            f"(at least {text_sets.LEAST_TEXTS} and {bundle.MIN_REFERENCES})"
        )
    return Texts(usable, train.digest, held[: options.evaluate], digest)


def fingerprint(options: Options, teacher: Teacher, layers: Sequence[int], width: int, texts: Texts) -> dict:
    """Everything that decides the student: a run resumes only where all of it is the same."""
    names = ("epochs", "batch", "learning_rate", "cosine", "mse", "similarity", "states", "seed", "max_minutes")
    kept = {name: value for name, value in asdict(options).items() if name in names}
    return {
        **kept,
        "teacher_weights": teacher.digest,
        "layers": list(layers),
        "intermediate": width,
        "train_texts": texts.train_digest,
        "test_texts": texts.held_out_digest,
    }
