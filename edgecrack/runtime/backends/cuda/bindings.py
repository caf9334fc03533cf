"""CUDA through cuda-bindings, NVIDIA's own package: wheels for every platform, including graph support."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
from cuda.bindings import __version__, driver

from edgecrack.errors import EngineError
from edgecrack.runtime.backends.cuda import Pinned, cuda_error, pushed

_ATTRIBUTE = driver.CUdevice_attribute
_NON_BLOCKING = int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
_THREAD_LOCAL = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class BindingsCuda:
    """Implements the protocol `Cuda`, which documents the methods."""

    name = f"cuda-bindings {__version__}"

    def __init__(self, device: int = 0) -> None:
        """Retain the primary context of the GPU with index `device`. Raises EngineError when there is none."""
        _call(driver.cuInit, 0)
        self._device = _call(driver.cuDeviceGet, device)
        self.zero_copy = all(
            _call(driver.cuDeviceGetAttribute, attribute, self._device)
            for attribute in (
                _ATTRIBUTE.CU_DEVICE_ATTRIBUTE_INTEGRATED,
                _ATTRIBUTE.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY,
            )
        )
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        self._closed = False

    def current(self) -> AbstractContextManager[None]:
        return pushed(partial(_call, driver.cuCtxPushCurrent, self._context), partial(_call, driver.cuCtxPopCurrent))

    def memory(self) -> tuple[int, int]:
        free, total = _call(driver.cuMemGetInfo)
        return free, total

    def stream(self) -> int:
        return int(_call(driver.cuStreamCreate, _NON_BLOCKING))

    def synchronise(self, stream: int) -> None:
        _call(driver.cuStreamSynchronize, stream)

    def destroy_stream(self, stream: int) -> None:
        _call(driver.cuStreamDestroy, stream)

    def allocate(self, size: int) -> int:
        return int(_call(driver.cuMemAlloc, size))

    def free(self, address: int) -> None:
        _call(driver.cuMemFree, address)

    def pin(self, size: int, *, mapped: bool = False) -> Pinned:
        address = int(_call(driver.cuMemHostAlloc, size, driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0))
        try:
            there = int(_call(driver.cuMemHostGetDevicePointer, address, 0)) if mapped else None
        except EngineError:
            _call(driver.cuMemFreeHost, address)
            raise
        return Pinned(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)), address, there)

    def unpin(self, pinned: Pinned) -> None:
        _call(driver.cuMemFreeHost, pinned.address)

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        _call(driver.cuMemcpyHtoDAsync, address, pinned.address, pinned.array.nbytes, stream)

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        _call(driver.cuMemcpyDtoHAsync, pinned.address, address, pinned.array.nbytes, stream)

    def begin_capture(self, stream: int) -> None:
        _call(driver.cuStreamBeginCapture, stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        return int(_call(driver.cuStreamEndCapture, stream))

    def destroy_graph(self, graph: int) -> None:
        _call(driver.cuGraphDestroy, graph)

    def executable(self, graph: int) -> int:
        return int(_call(driver.cuGraphInstantiate, graph, 0))

    def launch(self, executable: int, stream: int) -> None:
        _call(driver.cuGraphLaunch, executable, stream)

    def destroy_executable(self, executable: int) -> None:
        _call(driver.cuGraphExecDestroy, executable)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _call(driver.cuDevicePrimaryCtxRelease, self._device)


def _call(function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    """Call a driver `function` and return its results without the code: one value or a list. Raises EngineError."""
    try:
        code, *values = function(*arguments)
    except RuntimeError as error:  # the driver is missing, or too old to have this function
        raise EngineError(f"CUDA failed: {' '.join(str(error).split())}") from error
    if code:
        raise _error(function.__name__, code)
    return values[0] if len(values) == 1 else values


def _error(function: str, code: Any) -> EngineError:
    _, meaning = driver.cuGetErrorString(code)
    return cuda_error(function, (meaning or b"").decode(), code.name)
