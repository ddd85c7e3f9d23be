"""A GPU's number enters; its load, memory, power and clock, sampled while a block runs, leave. NVML by ctypes.

Without the library (or on boards with a part of it) figures are None, never zero.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from types import TracebackType

from . import gpu_machine

EVERY = 0.1


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Sampler:
    """`with Sampler() as seen: ...`, then `seen.means()`. `device` is CUDA's number, as this process sees it."""

    def __init__(self, device: int = 0) -> None:
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = 0.0
        self._library, self._handle = _open(device)

    def __enter__(self) -> Sampler:
        if self._handle is not None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended = time.monotonic()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def means(self, last: float | None = None) -> dict[str, float] | None:
        """Percent busy, MiB in use, watts and MHz; a figure that the board does not give is left out.

        `last`: only of the last seconds of the block, where programs start at its beginning.
        """
        samples = [s for at, s in self._samples if last is None or self._ended - last <= at <= self._ended]
        if not samples:
            return None
        keys = {key for sample in samples for key in sample}
        found = {key: [s[key] for s in samples if key in s] for key in sorted(keys)}
        return {key: round(sum(values) / len(values), 1) for key, values in found.items()}

    def _run(self) -> None:
        while not self._stop.is_set():
            self._samples.append((time.monotonic(), self._sample()))
            time.sleep(EVERY)

    def _sample(self) -> dict[str, float]:
        nvml, handle, found = self._library, self._handle, {}
        rates, memory, value = _Rates(), _Memory(), ctypes.c_uint()
        if nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0:
            found["busy_percent"] = float(rates.gpu)
        if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
            found["memory_mib"] = memory.used / 2**20
        if nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(value)) == 0:
            found["watts"] = value.value / 1e3
        if nvml.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(value)) == 0:  # 1: the SM clock
            found["sm_mhz"] = float(value.value)
        return found


def _open(device: int) -> tuple[object, ctypes.c_void_p | None]:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, None
    handle, named = ctypes.c_void_p(), visible(device)
    if nvml.nvmlInit_v2() != 0:
        return None, None
    if named.isdigit():
        found = nvml.nvmlDeviceGetHandleByIndex_v2(int(named), ctypes.byref(handle))
    else:
        found = nvml.nvmlDeviceGetHandleByUUID(named.encode(), ctypes.byref(handle))
    return (nvml, handle) if found == 0 else (None, None)


def visible(device: int) -> str:
    """What NVML calls CUDA's device: CUDA counts only those of CUDA_VISIBLE_DEVICES, NVML counts all."""
    named = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return named[device] if device < len(named) else str(device)


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [part.strip() for part in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if part.strip()]
    return [str(number) for number in range(len(gpu_machine.gpus()))]
