"""A GPU's number enters; its load, memory, power and clock, sampled while a block runs, leave. NVML by ctypes.

Without the library (or on boards with a part of it) figures are None, never zero.
"""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType

EVERY = 0.1


class _Rates(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Sampler:
    """`with Sampler() as seen: ...`, then `seen.means()`."""

    def __init__(self, device: int = 0) -> None:
        self._samples: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._library, self._handle = _open(device)

    def __enter__(self) -> Sampler:
        if self._handle is not None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def means(self) -> dict[str, float] | None:
        """Percent busy, MiB in use, watts and MHz; a figure that the board does not give is left out."""
        if not self._samples:
            return None
        keys = {key for sample in self._samples for key in sample}
        found = {key: [s[key] for s in self._samples if key in s] for key in sorted(keys)}
        return {key: round(sum(values) / len(values), 1) for key, values in found.items()}

    def _run(self) -> None:
        while not self._stop.is_set():
            self._samples.append(self._sample())
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
    handle = ctypes.c_void_p()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetHandleByIndex_v2(device, ctypes.byref(handle)) != 0:
        return None, None
    return nvml, handle
