"""TensorRT on an NVIDIA GPU: two calls in flight, each a CUDA graph (upload, inference, download) on its own stream."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError
from edgecrack.runtime.backends.calls import Answer, Calls
from edgecrack.runtime.backends.cuda import Cuda, Pinned, capture
from edgecrack.spec import INPUT, OUTPUT, ModelSpec
from edgecrack.tensorrt_library import clear_errors, with_log

_log = logging.getLogger("edgecrack.tensorrt")


class ExecutionContext(Protocol):
    """The part of TensorRT's `IExecutionContext` used here."""

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        """Set the GPU address that an input is read from or an output written to; returns False on failure."""

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        """Enqueue inference on a stream; returns False on failure."""


class SharedEngine:
    """An engine on its GPU, shared by a backend and its clones; reference-counted, the last user frees it."""

    def __init__(
        self,
        spec: ModelSpec,
        cuda: Cuda,
        make_context: Callable[[], ExecutionContext],
        free: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_context` is called inside `cuda.current()`; so is `free`, when no context is left.

        `cuda` is closed after `free`.
        """
        self.spec, self.cuda = spec, cuda
        self._make_context, self._free = make_context, free
        # reentrant: while a context is made, garbage collection may finalise a forgotten clone
        self._lock = threading.RLock()
        self._users = 0

    def context(self) -> ExecutionContext:
        """Make a new execution context; each stream needs its own. Raises EngineError."""
        with self._lock:
            return self._make_context()

    def acquire(self) -> None:
        """Add a user."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Remove a user; after the last one, free the engine and release the GPU."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        try:
            with suppress(EngineError), self.cuda.current():  # a lost GPU has nothing left to free
                self._free()
        finally:
            with suppress(EngineError):
                self.cuda.close()


class TensorRtBackend(Calls):
    """An engine on an NVIDIA GPU, two calls in flight: one uploads while the other computes.

    A frame is copied once into pinned memory and its answer once out of it.
    """

    name = "tensorrt"
    depth = 2

    def __init__(self, engine: SharedEngine, *, graphs: bool = True, zero_copy: bool | None = None) -> None:
        """Make the slots and run each once.

        `graphs`: whether to capture each slot's work as a CUDA graph, so that a call costs one launch. `zero_copy`:
        whether the GPU works directly on host memory, without upload and download; None enables it where that costs
        nothing, as on a Jetson. Raises EngineError, and releases the engine, when the GPU has too little memory or
        fails.
        """
        super().__init__(engine.spec)
        self.engine, self._cuda = engine, engine.cuda
        self._graphs = graphs
        self.zero_copy = engine.cuda.zero_copy if zero_copy is None else zero_copy
        self._slots: list[_Slot] = []
        engine.acquire()
        try:
            with self._cuda.current():
                for _ in range(self.depth):
                    self._slots.append(_Slot(engine, graph=graphs, zero_copy=self.zero_copy))
        except BaseException:
            self.close()
            raise
        self._idle = list(self._slots)

    def __del__(self) -> None:
        with suppress(Exception):  # an exception here would reach nobody
            self.close()

    @property
    def captured(self) -> bool:
        """Whether a call is a single CUDA graph launch; otherwise its parts are launched one by one."""
        return all(slot.captured for slot in self._slots)

    def clone(self) -> TensorRtBackend:
        """Make a second backend for another thread, on the same engine with its own slots. Raises EngineError."""
        with self._lock:  # or a concurrent close could free the engine
            self._check_open()
            return TensorRtBackend(self.engine, graphs=self._graphs, zero_copy=self.zero_copy)

    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        slot = self._idle[-1]
        with self._cuda.current():
            slot.start(frames)
        self._idle.pop()
        return partial(self._finish, slot)

    def _finish(self, slot: _Slot) -> Answer:
        try:
            with self._cuda.current():
                return slot.answer()
        finally:
            self._idle.append(slot)

    def _release(self) -> None:
        with suppress(EngineError), self._cuda.current():
            for slot in self._slots:
                slot.close()
        self._slots = self._idle = []
        self.engine.release()


class _Slot:
    """One call in flight: a stream, an execution context, and host and device buffers for its frames and answers."""

    def __init__(self, engine: SharedEngine, *, graph: bool, zero_copy: bool) -> None:
        cuda = self._cuda = engine.cuda
        self._shape, self._zero_copy = engine.spec.input_shape, zero_copy
        with ExitStack() as stack:
            self._stream = cuda.stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._host_input, self._device_input = self._buffers(stack, math.prod(self._shape))
            self._host_output, self._device_output = self._buffers(stack, math.prod(self._shape[:3]))
            self._context: ExecutionContext | None = engine.context()
            stack.callback(self._forget_context)
            for name, address in ((INPUT, self._device_input), (OUTPUT, self._device_output)):
                if not self._context.set_tensor_address(name, address):
                    raise _error(f"does not take memory for {name}")
            self._enqueue()  # run once before capture: the first launch allocates memory, which cannot be captured
            cuda.synchronise(self._stream)
            self._executable = self._capture() if graph else None
            if self._executable is not None:
                stack.callback(cuda.destroy_executable, self._executable)
            self._all = stack.pop_all()

    @property
    def captured(self) -> bool:
        return self._executable is not None

    def start(self, frames: NDArray[np.uint8]) -> None:
        """Copy `frames`, uint8 of the spec's input shape, and enqueue the work on the stream."""
        np.copyto(self._host_input.array.reshape(self._shape), frames)
        if self._executable is None:
            self._enqueue()
        else:
            self._cuda.launch(self._executable, self._stream)

    def answer(self) -> Answer:
        """Wait for the work and return a copy of the answer, uint8 (N, H, W)."""
        self._cuda.synchronise(self._stream)
        answer: Answer = self._host_output.array.reshape(self._shape[:3]).copy()
        return answer

    def close(self) -> None:
        """Wait for the work, then free all resources in reverse order, even when freeing some fails."""
        with suppress(EngineError):
            self._cuda.synchronise(self._stream)
        with suppress(EngineError):
            self._all.close()

    def _buffers(self, stack: ExitStack, size: int) -> tuple[Pinned, int]:
        """Allocate `size` bytes on the host, and return them with the address of the memory that the GPU works on."""
        pinned = self._cuda.pin(size, mapped=self._zero_copy)
        stack.callback(self._cuda.unpin, pinned)
        pinned.array.fill(0)  # the first launch reads it
        if pinned.mapped is not None:
            return pinned, pinned.mapped
        address = self._cuda.allocate(size)
        stack.callback(self._cuda.free, address)
        return pinned, address

    def _enqueue(self) -> None:
        if not self._zero_copy:
            self._cuda.upload(self._device_input, self._host_input, self._stream)
        clear_errors()
        if not self._context or not self._context.execute_async_v3(self._stream):
            raise _error("cannot start on a frame")
        if not self._zero_copy:
            self._cuda.download(self._host_output, self._device_output, self._stream)

    def _capture(self) -> int | None:
        """Capture the work of a call as an executable graph; None if it cannot be captured."""
        try:
            return capture(self._cuda, self._stream, self._enqueue)
        except EngineError as error:
            _log.info("frames are launched without a CUDA graph: %s", error)
            return None

    def _forget_context(self) -> None:
        self._context = None


def _error(what: str) -> EngineError:
    return EngineError(with_log(f"TensorRT {what}"))
