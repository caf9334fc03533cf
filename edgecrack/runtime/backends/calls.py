"""Base class of all backends: checks and counts calls, answers them in order, and reports errors in one line."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError, FrameError
from edgecrack.spec import INPUT, OUTPUT, ModelSpec

Answer = NDArray[np.uint8]
SPAWN = 'start processes by multiprocessing.get_context("spawn") and open the model in each'


class Calls(ABC):
    """The library-independent part of a `Backend`; subclasses define how to start a call and how to release the model.

    Methods are serialised by a lock: a close from another thread waits for the call that is being started or collected,
    since it frees what that works on. The lock is not held between a submit and its collect.

    The libraries' threads do not survive a fork, so that a child would wait for them for ever: there, calls are refused.
    """

    name: str
    depth: int

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._shape = spec.input_shape
        self._waiting: deque[Callable[[], Answer]] = deque()
        self._closed = False
        self._process = os.getpid()
        self._lock = threading.RLock()  # reentrant: garbage collection may close a forgotten backend at any time

    def submit(self, frames: NDArray[np.uint8]) -> None:
        """Start a call on uint8 (N, H, W, C); see `Backend.submit`."""
        self._check_process()
        with self._lock:
            self._check_open()
            if len(self._waiting) >= self.depth:
                raise EngineError(f"{self.depth} calls are in flight, as many as {self.name} takes; collect one first")
            if frames.shape != self._shape or frames.dtype != np.uint8 or not frames.flags.c_contiguous:
                raise FrameError(f"wanted contiguous uint8 {self._shape}, got {frames.dtype} {frames.shape}")
            with library_errors(self.name, "start on a frame"):
                self._waiting.append(self._start(frames))

    def collect(self) -> Answer:
        """Wait for the oldest call and return its answer; see `Backend.collect`."""
        self._check_process()
        with self._lock:
            self._check_open()
            if not self._waiting:
                raise EngineError("nothing is in flight; submit a frame first")
            wait = self._waiting.popleft()
            with library_errors(self.name, "run the model"):
                return wait()

    def close(self) -> None:
        """Wait for the calls in flight, discard their answers and release the model; a second call does nothing."""
        if self._process != os.getpid():  # nor can the lock be waited for: another thread may have held it at the fork
            self._closed = True
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._release()
            self._waiting.clear()  # not before: a running call still reads the frames kept alive here

    @abstractmethod
    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        """Start a call; return a function that waits for its answer, uint8 (N, H, W), and keeps `frames` alive."""

    @abstractmethod
    def _release(self) -> None:
        """Wait for running calls and release everything."""

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"this {self.name} model is closed; open it again")

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise EngineError(f"this {self.name} model was opened before the process forked; {SPAWN}")


def check_io(spec: ModelSpec, ends: dict[str, tuple[str, tuple[object, ...]]]) -> None:
    """Raise EngineError unless a graph's inputs and outputs, name -> (type, shape), are those that `spec` promises."""
    shape = spec.input_shape
    wanted = {INPUT: ("uint8", shape), OUTPUT: ("uint8", shape[:3])}
    if ends != wanted:
        raise EngineError(f"its graph is not what its spec says: wanted {wanted}, got {ends}; export it again")


@contextmanager
def library_errors(name: str, doing: str) -> Iterator[None]:
    """Convert exceptions of the library `name` to an EngineError with the informative part of their message."""
    try:
        yield
    except (EngineError, ImportError):
        raise
    except Exception as error:  # the libraries raise RuntimeError and private types alike
        raise EngineError(f"{name} cannot {doing}: {_telling_words(str(error))}") from error


def _telling_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("Exception from ", "Check '"))
    ]  # locations in OpenVINO's source
    return " ".join(told or lines or ["it says nothing more"])[:300]
