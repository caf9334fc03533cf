"""ONNX Runtime on the CPU: the numeric reference, and the fallback if OpenVINO is missing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.onnx_session import session
from edgecrack.runtime.backends.calls import Answer, Calls, check_io, library_errors
from edgecrack.runtime.onnx_metadata import read_spec
from edgecrack.spec import INPUT, OUTPUT


class OnnxRuntimeBackend(Calls):
    """An ONNX model on ONNX Runtime's CPU provider, two calls in flight: one in a worker thread, one queued."""

    name = "onnxruntime"
    depth = 2

    def __init__(self, path: Path) -> None:
        super().__init__(read_spec(path))
        self._path = path
        with library_errors(self.name, f"load {path}"):
            self._session = session(path)
            ends = [*self._session.get_inputs(), *self._session.get_outputs()]
            check_io(self.spec, {end.name: (end.type[len("tensor(") : -1], tuple(end.shape)) for end in ends})
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="edgecrack-onnxruntime")

    def clone(self) -> OnnxRuntimeBackend:
        """Open the file again; see `Backend.clone`."""
        self._check_open()
        return OnnxRuntimeBackend(self._path)

    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        running: Future[Any] = self._worker.submit(self._session.run, [OUTPUT], {INPUT: frames})
        return partial(_answer, running)

    def _release(self) -> None:
        try:  # before Python 3.13, a `shutdown` interrupted by Ctrl-C makes the next one abort the process
            self._worker.submit(int).result()
        finally:
            self._worker.shutdown(wait=False)
        self._worker.shutdown()
        del self._session


def _answer(running: Future[Any]) -> Answer:
    return np.asarray(running.result()[0], np.uint8)
