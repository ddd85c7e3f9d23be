"""A graph and a profile enter; an EPContext file built by ONNX Runtime's TensorRT provider leaves, or a ready session.

Every way in which a provider can silently not be the one asked for is a refusal here: Python's sessions fall back to
another provider by themselves. Booleans are `True` and `False`: the provider takes no other spelling.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from .errors import BadInput, ToolError
from .shape_profiles import Profile, provider_options

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
PROVIDERS = {"tensorrt": TENSORRT, "cuda": CUDA, "cpu": CPU}
LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")


def version() -> str | None:
    """`10.6.0` of the TensorRT library that would be used; None without one."""
    try:
        library = ctypes.CDLL(LIBRARIES[0])
        number = int(library.getInferLibVersion())
    except (OSError, AttributeError):
        return None
    # 10.6.0 is 100600 since TensorRT 10; 8.6.1 was 8601.
    parts = (10_000, 100) if number >= 100_000 else (1_000, 100)
    return f"{number // parts[0]}.{number % parts[0] // parts[1]}.{number % parts[1]}"


def check() -> None:
    """Refuses with everything that is missing to build or run engines."""
    missing = []
    if TENSORRT not in ort.get_available_providers():
        missing.append(
            f"ONNX Runtime {ort.__version__} was built without TensorRT (it has "
            f"{', '.join(ort.get_available_providers())}): install onnxruntime-gpu"
        )
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            missing.append(f"{name} cannot be loaded ({error}): put TensorRT 10's folder on LD_LIBRARY_PATH")
    if not _devices():
        missing.append("no CUDA device: the driver (libcuda.so.1) is not there or shows none")
    if missing:
        raise BadInput("no TensorRT engine can be built or run here: " + "; ".join(missing) + ". See docs/GPU.md")


def _devices() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(found)) != 0:
        return 0
    return found.value


def build(
    model: onnx.ModelProto,
    inputs: Sequence[str],
    profile: Profile,
    output: Path,
    *,
    precision: str,
    timing_cache: Path | None = None,
    level: int = 3,
    device: int = 0,
) -> float:
    """Writes `output` (EPContext, the engine inside); returns the seconds that it took."""
    options = {
        "device_id": str(device),
        "trt_fp16_enable": _flag(precision in ("fp16", "int8", "fp8")),
        "trt_int8_enable": _flag(precision == "int8"),
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": str(output),
        "trt_ep_context_embed_mode": "1",
        "trt_engine_cache_enable": "False",
        "trt_builder_optimization_level": str(level),
        **provider_options(profile, inputs),
    }
    if timing_cache is not None:
        timing_cache.mkdir(parents=True, exist_ok=True)
        options |= {"trt_timing_cache_enable": "True", "trt_timing_cache_path": str(timing_cache)}
    output.unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _tf32(precision != "fp32"):
        file = Path(folder, "model.onnx")
        onnx.save_model(model, file)
        _session(file, [(TENSORRT, options)], TENSORRT)
    check_whole(output)
    return time.monotonic() - started


def check_whole(file: Path) -> None:
    """The file must be one engine: what TensorRT left out would run elsewhere without a word."""
    if not file.is_file():
        raise ToolError(f"ONNX Runtime wrote no EPContext file {file}: the build failed (see the lines above)")
    kinds = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    if kinds != ["EPContext"]:
        raise ToolError(f"TensorRT took only a part of the graph: {file} holds {', '.join(kinds[:8])}, not one engine")


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """NVIDIA's own switch; the library reads it once, so a process builds either fp32 or the others."""
    if not allowed:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    yield


def session(
    file: Path,
    provider: str,
    *,
    device: int = 0,
    tf32: bool = True,
    cuda_graph: bool = False,
    settings: Mapping | None = None,
) -> ort.InferenceSession:
    """Ready to run on exactly that provider; `provider` is tensorrt, cuda or cpu."""
    own: dict[str, str] = {}
    if provider == "tensorrt":
        own = {"device_id": str(device), "trt_cuda_graph_enable": _flag(cuda_graph)}
    elif provider == "cuda":
        own = {
            "device_id": str(device),
            "use_tf32": "1" if tf32 else "0",
            "enable_cuda_graph": "1" if cuda_graph else "0",
        }
    return _session(file, [(PROVIDERS[provider], {**own, **(settings or {})})], PROVIDERS[provider])


def _session(file: Path, providers: list, wanted: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if wanted == CPU:
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # QDQ candidates are emulated
    try:
        # Without its own fallback: that would try the CPU and report only why the CPU cannot run an engine.
        made = ort.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no public base class
        raise ToolError(f"{wanted} refused {file.name}: {words(error)}") from error
    if made.get_providers()[0] != wanted:
        raise ToolError(
            f"{wanted} was asked for and ONNX Runtime fell back to {', '.join(made.get_providers())}: "
            "a library is missing or an option is misspelt (see the lines above)"
        )
    return made


def words(error: Exception, most: int = 800) -> str:
    """What an error says in one line: of a long one the beginning and, since ONNX Runtime says why last, the end."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most // 4]} ... {text[-3 * most // 4 :]}"


def _flag(on: bool) -> str:
    return "True" if on else "False"
