"""`--model` of an engine build enters; the fp32 bundle (or the QDQ bundle of that precision) to build from leaves.

A quantized CPU bundle is followed to its fp32 parent by lineage: its integer products are not what TensorRT builds
from. Compiled engines and raw TensorRT plans are refused by name. Builds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from . import bundle_reader
from .bundle_reader import Bundle
from .errors import BadInput

PLAN_MARKS = (b"ftrt", b"ptrt")  # how serialized engines of TensorRT begin
PLAN_ENDINGS = (".plan", ".engine", ".trt")
QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class EngineSource:
    """`bundle` is built from; `fp32` is what the engine is measured against; `traced` says how it was found."""

    bundle: Bundle
    fp32: Bundle
    traced: str | None

    @property
    def is_qdq(self) -> bool:
        return self.bundle.digest != self.fp32.digest


def find(model: Path, precision: str) -> EngineSource:
    """The bundle to build from, or a refusal that says what was given and what to give."""
    model = model.expanduser()
    _refuse_plan(model)
    given = bundle_reader.read(model)
    if given.manifest["target"]["provider"] == "tensorrt" or _is_compiled(given.engine):
        raise BadInput(
            f"{given.engine} is a compiled TensorRT engine ({given.manifest['variant']['name']}): an engine is built "
            "from the fp32 bundle, not from another engine; give its parent "
            f"(digest {str(given.manifest['lineage']['parent_digest'])[:16]})"
        )
    own = given.manifest["variant"]["precision"]
    if own == "fp32":
        return EngineSource(given, given, None)
    parent = bundle_reader.parent_of(given)
    if parent.manifest["variant"]["precision"] != "fp32":
        raise BadInput(f"the parent of {given.manifest_file} is {parent.manifest_file}, which is not fp32")
    if own == precision and _is_qdq(given):
        return EngineSource(given, parent, None)
    why = f"{given.manifest['variant']['name']} ({own} for {given.manifest['target']['provider']})"
    return EngineSource(parent, parent, f"{why} was traced to its fp32 parent {parent.folder.name} by lineage")


def _refuse_plan(model: Path) -> None:
    if not model.is_file():
        return
    with model.open("rb") as stream:
        start = stream.read(4)
    if start in PLAN_MARKS:
        raise BadInput(
            f"{model} is a raw TensorRT plan: it says neither which model nor which weights are in it and runs on the "
            "one TensorRT version and GPU that it was built on. Give the fp32 bundle or its .onnx file instead"
        )
    if model.suffix not in (".onnx", ".json") and not _is_onnx(model):
        raise BadInput(
            f"{model} is neither a bundle nor an ONNX file"
            f"{' (nor a TensorRT plan, whatever its name says)' if model.suffix in PLAN_ENDINGS else ''}; "
            "give the fp32 bundle or its .onnx file"
        )


def _is_onnx(file: Path) -> bool:
    try:
        return bool(onnx.load(file, load_external_data=False).graph.node)
    except Exception:  # noqa: BLE001 - protobuf's errors share no base class; all of them mean "no"
        return False


def _is_compiled(engine: Path) -> bool:
    try:
        graph = onnx.load(engine, load_external_data=False).graph
    except Exception as error:  # as above
        raise BadInput(f"{engine} is not a readable ONNX model: {error!r}") from error
    return any(node.op_type == "EPContext" for node in graph.node)


def _is_qdq(found: Bundle) -> bool:
    """Standard Q/DQ pairs only: what TensorRT takes."""
    nodes = onnx.load(found.engine, load_external_data=False).graph.node
    return any(n.op_type in QDQ for n in nodes) and all(n.domain in ("", "ai.onnx") for n in nodes)
