"""CUDA through pycuda: for machines that already have it, or lack cuda-bindings.

It does not support graphs: those few calls go directly to the driver. Its objects can be freed only while the context
they were created in is current, so they are freed explicitly, inside `current`, and never left to the garbage
collector.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import numpy as np
import pycuda
import pycuda.driver as driver

from edgecrack.cuda_probe import LIBRARY
from edgecrack.errors import EngineError
from edgecrack.runtime.backends.cuda import Pinned, cuda_error, pushed

_ATTRIBUTE = driver.device_attribute
_NON_BLOCKING = 1
_THREAD_LOCAL = 1
_CODES = range(1000)  # contains all error codes of the driver


class PyCuda:
    """Implements the protocol `Cuda`, which documents the methods."""

    name = f"pycuda {pycuda.VERSION_TEXT}"

    def __init__(self, device: int = 0) -> None:
        """Retain the primary context of the GPU with index `device`. Raises EngineError when there is none."""
        self._driver = ctypes.CDLL(LIBRARY)
        self._streams: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        with self._errors():
            driver.init()
            gpu = driver.Device(device)
            self.zero_copy = all(
                gpu.get_attribute(attribute) for attribute in (_ATTRIBUTE.INTEGRATED, _ATTRIBUTE.CAN_MAP_HOST_MEMORY)
            )
            self._context = gpu.retain_primary_context()
        self._closed = False

    def current(self) -> AbstractContextManager[None]:
        return pushed(self._push, self._pop)

    def _push(self) -> None:
        with self._errors():
            self._context.push()

    def _pop(self) -> None:
        try:
            with self._errors():
                driver.Context.pop()
        except EngineError:
            self._declare_dead()
            raise

    def _declare_dead(self) -> None:
        """Release the context. If the GPU is lost, pycuda would abort the process over a context that it cannot pop and
        objects that it cannot free, unless it considers the context dead."""
        self._closed = True
        with suppress(driver.Error):
            self._context.detach()

    def memory(self) -> tuple[int, int]:
        with self._errors():
            free, total = driver.mem_get_info()
        return free, total

    def stream(self) -> int:
        with self._errors():
            stream = driver.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def synchronise(self, stream: int) -> None:
        with self._errors():
            self._streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]  # deleting the object is the only way to destroy it

    def allocate(self, size: int) -> int:
        with self._errors():
            memory = driver.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        with self._errors():
            self._memory.pop(address).free()

    def pin(self, size: int, *, mapped: bool = False) -> Pinned:
        with self._errors():
            array = driver.pagelocked_empty(
                size, np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP if mapped else 0
            )
            address = array.ctypes.data
            self._pinned[address] = array.base
            try:
                there = int(array.base.get_device_pointer()) if mapped else None
            except driver.Error:
                self._pinned.pop(address).free()
                raise
        return Pinned(array, address, there)

    def unpin(self, pinned: Pinned) -> None:
        with self._errors():
            self._pinned.pop(pinned.address).free()

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        with self._errors():
            driver.memcpy_htod_async(address, pinned.array, self._streams[stream])

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        with self._errors():
            driver.memcpy_dtoh_async(pinned.array, address, self._streams[stream])

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        return self._made("cuStreamEndCapture", ctypes.c_void_p(stream), result=1)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphDestroy", ctypes.c_void_p(graph))

    def executable(self, graph: int) -> int:
        return self._made("cuGraphInstantiateWithFlags", ctypes.c_void_p(graph), ctypes.c_ulonglong(0))

    def launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(executable), ctypes.c_void_p(stream))

    def destroy_executable(self, executable: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(executable))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # pycuda releases a primary context only while it is current, or in the thread that created it, and leaves it
        # current there. So it is pushed through pycuda, and then popped directly through the driver.
        try:
            self._push()
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        finally:
            self._declare_dead()

    def _made(self, function: str, *arguments: object, result: int = 0) -> int:
        """Call `function` and return the handle that it writes to its argument at index `result`."""
        handle = ctypes.c_void_p()
        places = [*arguments[:result], ctypes.byref(handle), *arguments[result:]]
        self._call(function, *places)
        return handle.value or 0

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code:
            raise cuda_error(
                function.partition("_")[0], self._words("cuGetErrorString", code), self._words("cuGetErrorName", code)
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Convert pycuda's errors, which contain the driver's description but not the error name, to EngineError."""
        try:
            yield
        except driver.Error as error:
            function, _, meaning = str(error).partition(" failed: ")
            names = (
                self._words("cuGetErrorName", code)
                for code in _CODES
                if self._words("cuGetErrorString", code) == meaning.partition(" - ")[0]
            )
            raise cuda_error(function, meaning, next(names, type(error).__name__)) from error

    def _words(self, function: str, code: int) -> str:
        text = ctypes.c_char_p()
        getattr(self._driver, function)(code, ctypes.byref(text))
        return (text.value or b"").decode()
