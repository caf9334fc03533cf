"""TensorRT on an NVIDIA GPU: two calls in flight, each a CUDA graph of upload, net and download in a stream of its own."""

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
from edgecrack.tensorrt_library import forget_lines, with_log

_log = logging.getLogger("edgecrack.tensorrt")


class ExecutionContext(Protocol):
    """What a frame needs of TensorRT's `IExecutionContext`."""

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        """Where on the GPU an input is read from or an output written to; False when it cannot be."""

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        """Put the net's work into a stream; False when it cannot be."""


class SharedEngine:
    """An engine on its GPU, used by a backend and its clones. The last that lets go frees it."""

    def __init__(
        self,
        spec: ModelSpec,
        cuda: Cuda,
        make_context: Callable[[], ExecutionContext],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_context` and, when no context is left, `release` are called inside `cuda.current()`.

        `cuda` is closed after `release`.
        """
        self.spec, self.cuda = spec, cuda
        self._make_context, self._release = make_context, release
        # one that may be taken again: while a context is made rubbish may be collected, a forgotten clone among it
        self._lock = threading.RLock()
        self._users = 0

    def context(self) -> ExecutionContext:
        """A new execution context: one a stream. Raises EngineError."""
        with self._lock:
            return self._make_context()

    def hold(self) -> None:
        """Count one more user."""
        with self._lock:
            self._users += 1

    def let_go(self) -> None:
        """Count one less; after the last, free the engine and the GPU."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        try:
            with suppress(EngineError), self.cuda.current():  # a GPU that is gone has nothing left to free
                self._release()
        finally:
            with suppress(EngineError):
                self.cuda.close()


class TensorRtBackend(Calls):
    """An engine on an NVIDIA GPU, two calls in flight: one uploads while the other computes.

    A frame is copied once into pinned memory, and its answer once out of it.
    """

    name = "tensorrt"
    depth = 2

    def __init__(self, engine: SharedEngine, *, graphs: bool = True, zero_copy: bool | None = None) -> None:
        """Make the slots and run each once.

        `graphs`: whether to capture each slot's work, so that a call costs one launch. `zero_copy`: whether the GPU works
        on the host's memory, without upload and download; None for where that costs nothing, as on a Jetson.
        Raises EngineError, and lets go of the engine, when the GPU has too little memory or fails.
        """
        super().__init__(engine.spec)
        self.engine, self._cuda = engine, engine.cuda
        self._graphs = graphs
        self.zero_copy = engine.cuda.zero_copy if zero_copy is None else zero_copy
        self._slots: list[_Slot] = []
        engine.hold()
        try:
            with self._cuda.current():
                for _ in range(self.depth):
                    self._slots.append(_Slot(engine, graph=graphs, zero_copy=self.zero_copy))
        except BaseException:
            self.close()
            raise
        self._idle = list(self._slots)

    def __del__(self) -> None:
        with suppress(Exception):  # nobody would hear of it
            self.close()

    @property
    def captured(self) -> bool:
        """Whether a call is one graph launch; else its parts are launched one by one."""
        return all(slot.captured for slot in self._slots)

    def clone(self) -> TensorRtBackend:
        """A second backend for another thread, on the same engine, with slots of its own. Raises EngineError."""
        with self._lock:  # a close meanwhile could free the engine
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
        self.engine.let_go()


class _Slot:
    """One call in flight: a stream, an execution context, and memory for its frames and answers at both ends."""

    def __init__(self, engine: SharedEngine, *, graph: bool, zero_copy: bool) -> None:
        cuda = self._cuda = engine.cuda
        self._shape, self._zero_copy = engine.spec.input_shape, zero_copy
        with ExitStack() as stack:
            self._stream = cuda.stream()
            stack.callback(cuda.destroy_stream, self._stream)
            self._frames, self._frames_there = self._buffers(stack, math.prod(self._shape))
            self._answers, self._answers_there = self._buffers(stack, math.prod(self._shape[:3]))
            self._context: ExecutionContext | None = engine.context()
            stack.callback(self._forget_context)
            for name, address in ((INPUT, self._frames_there), (OUTPUT, self._answers_there)):
                if not self._context.set_tensor_address(name, address):
                    raise _complaint(f"does not take memory for {name}")
            self._enqueue()  # once before it is captured: what the first launch allocates cannot be
            cuda.synchronise(self._stream)
            self._executable = self._captured() if graph else None
            if self._executable is not None:
                stack.callback(cuda.destroy_executable, self._executable)
            self._all = stack.pop_all()

    @property
    def captured(self) -> bool:
        return self._executable is not None

    def start(self, frames: NDArray[np.uint8]) -> None:
        """Put the work on `frames`, uint8 of the spec's input shape, into the stream. They are copied."""
        np.copyto(self._frames.array.reshape(self._shape), frames)
        if self._executable is None:
            self._enqueue()
        else:
            self._cuda.launch(self._executable, self._stream)

    def answer(self) -> Answer:
        """Wait for the work: the answer, uint8 (N, H, W), a copy."""
        self._cuda.synchronise(self._stream)
        answer: Answer = self._answers.array.reshape(self._shape[:3]).copy()
        return answer

    def close(self) -> None:
        """Wait for the work, then free what it used, the last made first, all of it even when some fails."""
        with suppress(EngineError):
            self._cuda.synchronise(self._stream)
        with suppress(EngineError):
            self._all.close()

    def _buffers(self, stack: ExitStack, size: int) -> tuple[Pinned, int]:
        """`size` bytes of the host and the address of those that the GPU works on."""
        pinned = self._cuda.pin(size, mapped=self._zero_copy)
        stack.callback(self._cuda.unpin, pinned)
        pinned.array.fill(0)  # the first launch works on it
        if pinned.mapped is not None:
            return pinned, pinned.mapped
        address = self._cuda.allocate(size)
        stack.callback(self._cuda.free, address)
        return pinned, address

    def _enqueue(self) -> None:
        if not self._zero_copy:
            self._cuda.upload(self._frames_there, self._frames, self._stream)
        forget_lines()
        if not self._context or not self._context.execute_async_v3(self._stream):
            raise _complaint("cannot start on a frame")
        if not self._zero_copy:
            self._cuda.download(self._answers, self._answers_there, self._stream)

    def _captured(self) -> int | None:
        """What launches the work of a call at once; None where it cannot be captured."""
        try:
            return capture(self._cuda, self._stream, self._enqueue)
        except EngineError as error:
            _log.info("frames are launched without a CUDA graph: %s", error)
            return None

    def _forget_context(self) -> None:
        self._context = None


def _complaint(what: str) -> EngineError:
    return EngineError(with_log(f"TensorRT {what}"))
