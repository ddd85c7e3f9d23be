"""A graph and a profile enter; an EPContext file built with TensorRT's own Python API leaves, or what is in an engine.

ONNX Runtime's provider can neither allow FP8 to the builder (flag FP8) nor build strongly typed networks, which the FP8
candidates need. The `tensorrt` module of the same version is optional: without it only those candidates are refused.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from .errors import BadInput, ToolError
from .gpu_machine import gpus
from .shape_profiles import Profile

DOMAIN = "com.microsoft"
FLAGS = {"fp16": ("FP16",), "int8": ("FP16", "INT8"), "fp8": ("FP16", "FP8")}


def module() -> object | None:
    """TensorRT's Python module, or None."""
    for name in ("tensorrt", "tensorrt_bindings"):
        try:
            return __import__(name)
        except (ImportError, OSError):
            continue
    return None


def build(
    model: onnx.ModelProto,
    inputs: Sequence[str],
    profile: Profile,
    output: Path,
    *,
    precision: str,
    typing: str,
    timing_cache: Path | None = None,
    level: int = 3,
) -> tuple[float, list[dict]]:
    """Writes `output`; returns seconds and the engine's layers."""
    trt = module()
    if trt is None:
        raise BadInput(
            "this candidate needs TensorRT's Python module, of the version of libnvinfer: pip install tensorrt"
        )
    started = time.monotonic()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typing == "strong" else 0
    network = builder.create_network(strong)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = "; ".join(str(parser.get_error(n)) for n in range(parser.num_errors))
        raise ToolError(f"TensorRT's parser refused the graph: {errors}")
    config = builder.create_builder_config()
    config.builder_optimization_level = level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in () if typing == "strong" else FLAGS.get(precision, ()):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    shapes = builder.create_optimization_profile()
    for name in inputs:
        sides = [(s.batch, s.tokens) for s in (profile.least, profile.best, profile.most)]
        shapes.set_shape(name, *sides)
    config.add_optimization_profile(shapes)
    cache_file = timing_cache / "native.timing" if timing_cache else None
    cache = config.create_timing_cache(cache_file.read_bytes() if cache_file and cache_file.is_file() else b"")
    config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ToolError(f"TensorRT could not build the engine: {logger.last or 'no reason given'}")
    plan = bytes(plan)
    if cache_file:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        cache_file.write_bytes(bytes(cache.serialize()))
    output.write_bytes(wrap(plan, model, _capability()).SerializeToString())
    return time.monotonic() - started, layers(trt, logger, plan)


def wrap(plan: bytes, model: onnx.ModelProto, capability: str) -> onnx.ModelProto:
    """An ONNX file of one EPContext node with the plan inside, as ONNX Runtime's provider writes them."""
    names_in, names_out = [i.name for i in model.graph.input], [o.name for o in model.graph.output]
    node = helper.make_node("EPContext", names_in, names_out, name="engine", domain=DOMAIN)
    facts = {
        "main_context": 1,
        "embed_mode": 1,
        "ep_cache_context": plan,
        "hardware_architecture": capability.replace(".", ""),
        "onnx_model_filename": "model.onnx",
        "source": "TensorrtExecutionProvider",
    }
    node.attribute.extend(helper.make_attribute(name, value) for name, value in facts.items())
    graph = helper.make_graph([node], "engine", list(model.graph.input), list(model.graph.output))
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="akidb-tools")


def plan_of(file: Path) -> bytes:
    """The engine inside an EPContext file."""
    node = onnx.load(file, load_external_data=False).graph.node[0]
    return next(a.s for a in node.attribute if a.name == "ep_cache_context")


def layers(trt: object, logger: object, plan: bytes) -> list[dict]:
    """Name, kind, tactic and formats of each layer, as TensorRT's inspector has them."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return []
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    found = json.loads(text).get("Layers", [])
    return [_layer(item) if isinstance(item, dict) else {"name": str(item)} for item in found]


def _layer(item: dict) -> dict:
    formats = [part.get("Format/Datatype", "?") for part in item.get("Outputs", [])]
    return {
        "name": item.get("Name", "")[:200],
        "kind": item.get("LayerType", ""),
        "tactic": str(item.get("TacticName") or item.get("TacticValue") or "")[:200],
        "outputs": formats,
    }


def precisions(found: Sequence[dict]) -> dict[str, int]:
    """How many layers write which type."""
    return dict(Counter(kind for layer in found for kind in layer.get("outputs", [])))


def _logger(trt: object) -> object:
    class Logger(trt.ILogger):
        """Keeps the last error, which the API itself does not give."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: object, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.last = message
                print(f"TensorRT: {message}", flush=True)

    return Logger()


def _capability() -> str:
    return gpus()[0]["compute_capability"]
