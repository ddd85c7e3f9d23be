"""Names enter; which engines the GPU benchmark builds and which shapes it measures leave. Data only.

In order of value: a stage that runs out of time has done the first ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from .five_models import Shape

NARROW = "1x16:1x32:8x64"
MIDDLE = "1x16:256x32:512x64"
WIDE = "1x16:256x128:512x256"
DEEP = "1x16:64x128:64x512"
BATCHES = (1, 8, 16, 32, 64, 256, 512)
TOKENS = (16, 32, 128)
# The shapes that candidates are compared at, the most telling first.
RACE = {"all-MiniLM-L6-v2": ((256, 32), (512, 128), (64, 128)), "": ((64, 128), (8, 128))}
FIVE_BATCHES, FIVE_TOKENS = (1, 8, 16, 32, 64), 32


@dataclass(frozen=True)
class Subject:
    """A model. `like` is the five models' name whose tokenizer, pooling and prompts it has; `shape` seeds it."""

    name: str
    profiles: tuple[str, ...]
    like: str | None = None
    shape: Shape | None = None


MINILM = Subject("all-MiniLM-L6-v2", (WIDE,))
# 12 of UAE-Large's 24 layers: ratios between precisions are those of 24, and an engine builds in half the time.
LARGE = Subject("UAE-Large-V1-12-layers", (DEEP,), "UAE-Large-V1", Shape(12, 1024, 4096, 16))
BERT = Subject("bert-base-uncased", (DEEP,), "bert-base-uncased", Shape(12, 768, 3072, 12))
SMALL = Subject("bge-small-en-v1.5", (DEEP,), "bge-small-en-v1.5", Shape(12, 384, 1536, 12))
# Only where its bundle is given: its weights are a user's own.
STUDENT = Subject("distilled-MiniLM-L3-v2", (WIDE,))
SUBJECTS = {subject.name: subject for subject in (MINILM, LARGE, BERT, SMALL, STUDENT)}
# Of the five models, those that the benchmark has not always got, and why.
LEFT_OUT = {
    STUDENT.name: "its fp32 bundle was not given with --bundle",
    "UAE-Large-V1": "24 layers: only 12 of them were built (UAE-Large-V1-12-layers), to spare build time",
}

# (subject, candidate, profiles or None for the subject's own, mark); INT8 and FP8 have one profile: the engines of two
# round further apart than one with itself (docs/GPU.md).
Wanted = tuple[str, str, tuple[str, ...] | None, str]
_M, _L, _B, _S, _D = MINILM.name, LARGE.name, BERT.name, SMALL.name, STUDENT.name
WANTED: tuple[Wanted, ...] = (
    (_M, "fp16-tanh", (NARROW, MIDDLE, WIDE), ""),
    (_L, "fp16-tanh", None, ""),
    (_L, "int8-mid", None, ""),
    (_L, "int8-most", None, ""),
    (_L, "fp8-ffn-typed", None, ""),
    (_M, "int8-mid", None, ""),
    (_M, "fp8-ffn-typed", None, ""),
    (_L, "int8-all", None, ""),
    (_L, "fp8-all-typed", None, ""),
    (_M, "int8-most", None, ""),
    (_M, "tf32", (WIDE,), ""),
    (_L, "int8-most-typed", None, ""),
    (_L, "int8-plain", None, ""),
    (_L, "fp8-most-typed", None, ""),
    (_M, "fp8-all-typed", None, ""),
    (_M, "int8-mid-typed", None, ""),
    (_M, "int8-up", (WIDE,), ""),
    (_M, "fp16", (WIDE,), ""),
    (_L, "tf32", None, ""),
    (_L, "fp16", None, ""),
    (_M, "fp8-ffn", (WIDE,), ""),
    (_L, "fp8-ffn", None, ""),
    (_L, "fp8-attention-typed", None, ""),
    (_B, "fp16-tanh", None, ""),
    (_B, "int8-mid", None, ""),
    (_B, "fp8-ffn-typed", None, ""),
    (_S, "fp16-tanh", None, ""),
    (_S, "int8-mid", None, ""),
    (_S, "fp8-ffn-typed", None, ""),
    (_D, "fp16-tanh", None, ""),
    (_D, "int8-mid", None, ""),
    (_D, "fp8-ffn-typed", None, ""),
)


def folder(subject: str, candidate: str, mark: str) -> str:
    """The bundle's folder name, and the name of its variant after the model's."""
    return f"{subject}-tensorrt-{candidate}{'-' + mark if mark else ''}"
