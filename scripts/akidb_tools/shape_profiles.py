"""`min:opt:max` shapes of a TensorRT engine enter, as text; checked profiles and ONNX Runtime's options for them leave.

Each shape is `BATCHxTOKENS`. An engine has one profile; an artifact of several holds an engine for each, the narrow
first, the widest last (the *main* one). The Rust side reads the same text. Never knows an engine or a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import BadInput

SHAPE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
MOST_PROFILES = 4
# Two engines of such a graph round further apart than one does with itself: a text's vector would depend more on the
# batch that it came in.
ONE_PROFILE = ("int8", "fp8")
LEAST_TOKENS = 16  # texts are padded up to it: a profile from 1 token on has slower kernels
WANTED = "MIN:OPT:MAX, each BATCHxTOKENS, such as 1x16:64x32:512x256"


@dataclass(frozen=True)
class Shape:
    """Texts a batch, and tokens of each."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}"

    def fits(self, most: Shape) -> bool:
        return self.batch <= most.batch and self.tokens <= most.tokens


@dataclass(frozen=True)
class Profile:
    """Kernels are chosen for `best`; a batch outside `least` to `most` does not run."""

    least: Shape
    best: Shape
    most: Shape

    def __str__(self) -> str:
        return f"{self.least}:{self.best}:{self.most}"

    def holds(self, shape: Shape) -> bool:
        return self.least.fits(shape) and shape.fits(self.most)


def shape(text: str) -> Shape:
    """`64x32`."""
    found = SHAPE.fullmatch(text.strip())
    if not found:
        raise BadInput(f"shape {text!r} is not BATCHxTOKENS, such as 64x32")
    return Shape(int(found[1]), int(found[2]))


def parse(text: str) -> Profile:
    """One profile."""
    parts = text.strip().split(":")
    if len(parts) != 3 or not all(SHAPE.fullmatch(part) for part in parts):
        raise BadInput(f"profile {text!r} is not {WANTED}")
    found = Profile(*(shape(part) for part in parts))
    if not (found.least.fits(found.best) and found.best.fits(found.most)):
        raise BadInput(f"profile {text!r}: each side must have min <= opt <= max")
    return found


def parse_all(texts: Sequence[str], max_tokens: int, precision: str) -> tuple[Profile, ...]:
    """Profiles in the order of the artifact; a text holds one or several with commas; without any, the defaults."""
    found = [parse(part) for text in texts for part in text.split(",")] or list(defaults(max_tokens, precision))
    if len(found) > MOST_PROFILES:
        raise BadInput(f"{len(found)} profiles are too many; give at most {MOST_PROFILES}")
    found.sort(key=lambda p: (p.most.batch * p.most.tokens, p.most.tokens))
    widest = found[-1]
    if len(set(found)) != len(found):
        raise BadInput(f"the same profile twice: {join(found)}")
    if widest.most.tokens < max_tokens:
        raise BadInput(
            f"profile {widest}: the widest one must reach the model's {max_tokens} tokens, or longer texts could not "
            f"be served; say max {widest.most.batch}x{max_tokens}"
        )
    return tuple(found)


def defaults(max_tokens: int, precision: str) -> tuple[Profile, ...]:
    """A wide one for everything and, for float precisions of models that take more than 64 tokens, a narrow one for
    lone texts.
    """
    least = Shape(1, min(LEAST_TOKENS, max_tokens))
    wide = Profile(least, Shape(64, min(32, max_tokens)), Shape(512, max_tokens))
    if precision in ONE_PROFILE or max_tokens <= 64:
        return (wide,)
    return (Profile(least, Shape(1, 32), Shape(8, 64)), wide)


def join(profiles: Sequence[Profile]) -> str:
    """As the manifest has them."""
    return ",".join(map(str, profiles))


def provider_options(profile: Profile, inputs: Sequence[str]) -> dict[str, str]:
    """ONNX Runtime's three options, over all inputs of the graph."""
    sides = {"min": profile.least, "opt": profile.best, "max": profile.most}
    return {f"trt_profile_{side}_shapes": ",".join(f"{n}:{at}" for n in inputs) for side, at in sides.items()}
