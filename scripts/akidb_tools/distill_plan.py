"""A teacher's tensors and its activations enter; the student's first tensors and config.json leave. Only numpy.

Which layers a student keeps, which feed-forward neurons, and how the rest is folded in. Never trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .architecture import EncoderConfig
from .errors import BadInput

STEM = "encoder.layer."
FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class Moments:
    """Mean [neurons] and covariance [neurons, neurons] of a layer's feed-forward activations, over real tokens."""

    mean: np.ndarray
    covariance: np.ndarray


def choose_layers(said: str | None, teacher: EncoderConfig, count: int) -> tuple[int, ...]:
    """The teacher's layers that start the student's: as said, or evenly spaced from the first to the last.

    The last is always among the default: without it a student of MiniLM ends 0.05 of cosine lower.
    """
    if teacher.model_type not in FAMILIES:
        raise BadInput(f"a {teacher.model_type} teacher cannot be distilled; supported: {', '.join(FAMILIES)}")
    if not 1 <= count <= teacher.layers:
        raise BadInput(f"--student-layers {count} is outside 1..{teacher.layers}, the layers the teacher has")
    if said is None:
        return (teacher.layers - 1,) if count == 1 else tuple(int(x) for x in np.linspace(0, teacher.layers - 1, count))
    try:
        layers = tuple(int(part) for part in said.split(","))
    except ValueError as error:
        raise BadInput(f"--layers {said!r} is not a list of numbers like 0,2,5") from error
    rising = list(layers) == sorted(set(layers))
    if len(layers) != count or not rising or not 0 <= layers[0] <= layers[-1] < teacher.layers:
        raise BadInput(f"--layers {said} must be {count} different rising numbers out of 0..{teacher.layers - 1}")
    return layers


def check_intermediate(said: int | None, teacher: EncoderConfig) -> int:
    """Width of the student's feed-forward; the teacher's own unless said."""
    if said is None:
        return teacher.intermediate
    if not 1 <= said <= teacher.intermediate:
        raise BadInput(f"--student-intermediate {said} is outside 1..{teacher.intermediate}, the teacher's width")
    return said


def layer_cost(teacher: EncoderConfig, layers: int, intermediate: int) -> float:
    """Multiplications of the student's linear layers a token, as a share of the teacher's."""
    per_layer = 4 * teacher.hidden**2 + 2 * teacher.hidden * intermediate
    return layers * per_layer / (teacher.layers * (4 * teacher.hidden**2 + 2 * teacher.hidden * teacher.intermediate))


def student_tensors(
    tensors: Mapping[str, np.ndarray],
    layers: Sequence[int],
    intermediate: int,
    moments: Mapping[int, Moments],
) -> dict[str, np.ndarray]:
    """The student before training; `moments` by teacher layer, needed only where the feed-forward gets narrower."""
    chosen = {name: value for name, value in tensors.items() if not name.startswith(STEM)}
    for own, theirs in enumerate(layers):
        prefix = f"{STEM}{theirs}."
        part = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if len(part["intermediate.dense.bias"]) != intermediate:
            part |= narrow(part, moments[theirs], intermediate)
        chosen |= {f"{STEM}{own}.{name}": value for name, value in part.items()}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in chosen.items()}


def narrow(part: Mapping[str, np.ndarray], moments: Moments, width: int) -> dict[str, np.ndarray]:
    """A feed-forward of `width` neurons: those whose varying output weighs most stay.

    What the others gave is predicted from the ones kept (least squares over the measured covariance) and added to
    their output weights; the mean that is left goes into the bias.
    """
    out = part["output.dense.weight"].astype(np.float64)
    mean, covariance = moments.mean, moments.covariance
    weight = np.diag(covariance) * np.square(out).sum(axis=0)
    kept = np.sort(np.argsort(-weight, kind="stable")[:width])
    gone = np.setdiff1d(np.arange(len(mean)), kept)
    own = covariance[np.ix_(kept, kept)]
    ridge = 1e-4 * max(np.trace(own) / width, 1e-12)
    share = np.linalg.solve(own + ridge * np.eye(width), covariance[np.ix_(kept, gone)] @ out[:, gone].T).T
    return {
        "intermediate.dense.weight": part["intermediate.dense.weight"][kept],
        "intermediate.dense.bias": part["intermediate.dense.bias"][kept],
        "output.dense.weight": out[:, kept] + share,
        "output.dense.bias": part["output.dense.bias"] + out[:, gone] @ mean[gone] - share @ mean[kept],
    }


def student_config(teacher: dict, layers: int, intermediate: int) -> dict:
    """config.json of the student: the teacher's with the two sizes changed."""
    kept = {key: value for key, value in teacher.items() if key not in ("_name_or_path", "transformers_version")}
    return {**kept, "num_hidden_layers": layers, "intermediate_size": intermediate}
