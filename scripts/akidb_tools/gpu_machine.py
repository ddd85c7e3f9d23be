"""Nothing enters; what the machine is leaves: CPU, GPUs, driver, CUDA, TensorRT and ONNX Runtime, with an identity.

The identity is the one that the Rust benchmarks give the same machine (domain/src/benchmark.rs, `Machine::identity`).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
from pathlib import Path

import onnxruntime as ort

from . import tensorrt_provider

# Instruction sets that decide the speed of 8- and 16-bit products, as the Rust benchmark lists them.
CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "i8mm",
    "asimddp",
    "bf16",
)
QUERY = ("name", "compute_cap", "driver_version", "memory.total", "uuid")


def gpus() -> list[dict]:
    """Name, compute capability, driver and memory of each; empty without an NVIDIA driver."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    keys = ("name", "compute_capability", "driver", "memory_mib", "uuid")
    return [dict(zip(keys, row, strict=True)) for row in rows if len(row) == len(keys)]


def cuda_driver() -> str | None:
    """`13.0`: the newest CUDA that the driver serves."""
    try:
        found = ctypes.c_int(0)
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    return f"{found.value // 1000}.{found.value % 1000 // 10}"


def machine() -> dict:
    """As `machines[]` of results.json has it (docs/BENCHMARKS.md), with `cuda` and `gpus` beside."""
    info = _cpuinfo()
    found = gpus()
    facts = {
        "cpu": info.get("model name") or info.get("Processor") or os.uname().machine,
        "cores": len(os.sched_getaffinity(0)),
        "threads": len(os.sched_getaffinity(0)),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in (info.get("flags") or info.get("Features") or "").split()],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "onnxruntime": ort.__version__,
        "gpu": found[0]["name"] if found else None,
        "compute_capability": found[0]["compute_capability"] if found else None,
        "driver": found[0]["driver"] if found else None,
        "tensorrt": tensorrt_provider.version(),
    }
    return {"id": identity(facts), **facts, "cuda": cuda_driver(), "gpus": len(found)}


def identity(facts: dict) -> str:
    """12 hex digits; memory counts in whole GiB."""
    text = json.dumps  # quotes and escapes plain ASCII as Rust's `{:?}` does

    def optional(value: str | None) -> str:
        return "None" if value is None else f"Some({text(value)})"

    flags = ", ".join(text(flag) for flag in facts["cpu_flags"])
    parts = [
        'id: ""',
        f"cpu: {text(facts['cpu'])}",
        f"cores: {facts['cores']}",
        f"threads: {facts['threads']}",
        f"cpu_flags: [{flags}]",
        f"memory_bytes: {(facts['memory_bytes'] + (1 << 29)) >> 30}",
        f"onnxruntime: {text(facts['onnxruntime'])}",
        *(f"{key}: {optional(facts[key])}" for key in ("gpu", "compute_capability", "driver", "tensorrt")),
    ]
    return hashlib.sha256(f"Machine {{ {', '.join(parts)} }}".encode()).hexdigest()[:12]


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
