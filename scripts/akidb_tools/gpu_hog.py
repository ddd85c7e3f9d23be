"""An amount to leave enters; the rest of a GPU's memory is taken while a block runs. Plain allocations only."""

from __future__ import annotations

import ctypes

from .errors import ToolError


class Hog:
    """Holds the device's memory by plain allocations."""

    def __init__(self, leave: int) -> None:
        self._leave, self._held, self.taken = leave, [], 0

    def __enter__(self) -> Hog:
        self._driver = ctypes.CDLL("libcuda.so.1")
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._check(self._driver.cuInit(0))
        self._check(self._driver.cuDeviceGet(ctypes.byref(device), 0))
        self._check(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device))
        self._check(self._driver.cuCtxPushCurrent_v2(self._context))
        step = 2**30
        while step >= 2**24:
            free, total, pointer = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_ulonglong()
            self._check(self._driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
            if free.value < step + self._leave or self._driver.cuMemAlloc_v2(
                ctypes.byref(pointer), ctypes.c_size_t(step)
            ):
                step //= 2
                continue
            self._held.append(pointer)
            self.taken += step
        return self

    def __exit__(self, *_: object) -> None:
        for pointer in self._held:
            self._driver.cuMemFree_v2(pointer)

    def _check(self, code: int) -> None:
        if code:
            raise ToolError(f"CUDA driver error {code} while taking the GPU's memory")
