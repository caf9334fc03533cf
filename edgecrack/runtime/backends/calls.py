"""What every backend does with its calls: check, count, answer in order, and speak of errors in one line."""

from __future__ import annotations

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


class Calls(ABC):
    """The part of a `Backend` that no library changes; a library says how to start a call and how to let go.

    One thing at a time: a close from another thread waits for the call that is being started or waited for, since it
    frees what that works on. Between a submit and its collect nothing is held.
    """

    name: str
    depth: int

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._shape = spec.input_shape
        self._waiting: deque[Callable[[], Answer]] = deque()
        self._closed = False
        self._lock = threading.RLock()  # reentrant: forgotten backends are closed whenever garbage is collected

    def submit(self, frames: NDArray[np.uint8]) -> None:
        """Start on uint8 (N, H, W, C); see `Backend.submit`."""
        with self._lock:
            self._check_open()
            if len(self._waiting) >= self.depth:
                raise EngineError(f"{self.depth} calls are in flight, as many as {self.name} takes; collect one first")
            if frames.shape != self._shape or frames.dtype != np.uint8 or not frames.flags.c_contiguous:
                raise FrameError(f"wanted contiguous uint8 {self._shape}, got {frames.dtype} {frames.shape}")
            with library_errors(self.name, "start on a frame"):
                self._waiting.append(self._start(frames))

    def collect(self) -> Answer:
        """Wait for the oldest call; see `Backend.collect`."""
        with self._lock:
            self._check_open()
            if not self._waiting:
                raise EngineError("nothing is in flight; submit a frame first")
            wait = self._waiting.popleft()
            with library_errors(self.name, "run the model"):
                return wait()

    def close(self) -> None:
        """Wait for what is in flight, drop its answers and let go of the model; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._release()
            self._waiting.clear()  # not before: a call that runs reads the frames that it holds

    @abstractmethod
    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        """Start a call; the function that waits for its answer, uint8 (N, H, W). It holds `frames` until then."""

    @abstractmethod
    def _release(self) -> None:
        """Wait for the calls that run and let go of everything."""

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"this {self.name} model is closed; open it again")


def check_ends(spec: ModelSpec, ends: dict[str, tuple[str, tuple[object, ...]]]) -> None:
    """Raise EngineError unless the inputs and outputs of a graph, name -> (type, shape), are what `spec` promises."""
    shape = spec.input_shape
    wanted = {INPUT: ("uint8", shape), OUTPUT: ("uint8", shape[:3])}
    if ends != wanted:
        raise EngineError(f"its graph is not what its spec says: wanted {wanted}, got {ends}; export it again")


@contextmanager
def library_errors(name: str, doing: str) -> Iterator[None]:
    """Turn what the library `name` raises into an EngineError with the words that say what happened."""
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
    ]  # where, in OpenVINO's source
    return " ".join(told or lines or ["it says nothing more"])[:300]
