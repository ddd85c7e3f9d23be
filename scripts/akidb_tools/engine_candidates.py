"""Names enter, ways to build an engine leave: rewrites, QDQ placement, types, builder. Data only.

The GPU benchmark builds and measures them; `PREFERRED` is what a plain `--precision` builds, best first by what was
measured on Hopper (docs/GPU.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from .engine_qdq import ATTENTION, Placement
from .errors import BadInput

FUSED = ("scale", "qkv", "gelu", "pool")
FUSED_TANH = ("scale", "qkv", "gelu-tanh", "pool")
PRECISIONS = ("fp32", "tf32", "fp16", "int8", "fp8")


@dataclass(frozen=True)
class Candidate:
    """`placement` is None for float engines. `builder`: "onnxruntime", or "tensorrt" (its own Python API).

    `typing`: "weak" (the builder picks types, bounded by flags) or "strong" (types are those written in the graph).
    """

    name: str
    precision: str
    summary: str
    rewrites: tuple[str, ...] = ()
    placement: Placement | None = None
    typing: str = "weak"
    builder: str = "onnxruntime"


def _of(name: str, summary: str, roles: str = "", **settings: object) -> Candidate:
    precision = name.partition("-")[0]
    smooth, most_error = settings.pop("smooth", precision == "int8"), settings.pop("most_error", None)
    placement = Placement(tuple(roles.split()), bool(smooth), most_error) if roles else None
    return Candidate(name, precision, summary, placement=placement, **settings)


_TYPED = {"builder": "tensorrt", "typing": "strong"}
# Layers whose measured error is greater stay float16: most feed-forward outputs of MiniLM.
_GOOD = 0.005
_BEST = {"rewrites": FUSED_TANH, "most_error": _GOOD}
_ALL = [
    _of("fp32", "as exported, TF32 off"),
    _of("tf32", "as exported, TF32 on"),
    _of("fp16", "as exported, FP16 allowed"),
    _of(
        "fp16-fused", "one product for query, key and value, Gelu as one operator, pooling as a product", rewrites=FUSED
    ),
    _of("fp16-tanh", "as fp16-fused, Gelu by tanh", rewrites=FUSED_TANH),
    _of("fp16-typed", "as fp16-tanh, types written in the graph", rewrites=FUSED_TANH, **_TYPED),
    _of(
        "int8-plain",
        "all but the feed-forward output, nothing smoothed",
        "qkv out up",
        smooth=False,
        rewrites=FUSED_TANH,
    ),
    _of("int8-mid", "query, key, value and feed-forward input, smoothed", "qkv up", rewrites=FUSED_TANH),
    _of("int8-up", "all but the feed-forward output, smoothed", "qkv out up", rewrites=FUSED_TANH),
    _of("int8-most", "all but the attention's output, smoothed, without the worst", "qkv up down", **_BEST),
    _of("int8-all", "every linear layer, smoothed, without the worst", "qkv out up down", **_BEST),
    _of("int8-mid-typed", "as int8-mid, float16 beside it", "qkv up", rewrites=FUSED_TANH, **_TYPED),
    _of("int8-most-typed", "as int8-most, float16 beside it", "qkv up down", **_BEST, **_TYPED),
    _of("fp8-ffn", "feed-forward only", "up down"),
    _of("fp8-all", "every linear layer", "qkv out up down"),
    _of("fp8-ffn-typed", "feed-forward only, float16 beside it", "up down", rewrites=FUSED_TANH, **_TYPED),
    _of(
        "fp8-most-typed",
        "query, key, value and feed-forward, float16 beside",
        "qkv up down",
        rewrites=FUSED_TANH,
        **_TYPED,
    ),
    _of("fp8-all-typed", "every linear layer, float16 beside", "qkv out up down", rewrites=FUSED_TANH, **_TYPED),
    _of(
        "fp8-attention-typed",
        "every linear layer and both products of attention, float16 beside",
        f"qkv out up down {ATTENTION}",
        **_TYPED,
    ),
]
CANDIDATES = {candidate.name: candidate for candidate in _ALL}
PREFERRED = {"fp32": "fp32", "tf32": "tf32", "fp16": "fp16-tanh", "int8": "int8-mid", "fp8": "fp8-ffn-typed"}


def choose(precision: str, name: str | None) -> Candidate:
    """The candidate of a command line; what does not go together is refused."""
    if name is None:
        return CANDIDATES[PREFERRED[precision]]
    if name not in CANDIDATES:
        fitting = ", ".join(c.name for c in _ALL if c.precision == precision)
        raise BadInput(f"--candidate {name!r} is not known; for --precision {precision}: {fitting}")
    if CANDIDATES[name].precision != precision:
        raise BadInput(f"--candidate {name} makes {CANDIDATES[name].precision}, not --precision {precision}")
    return CANDIDATES[name]
