"""OpenVINO on the CPU: the default without an NVIDIA GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError
from edgecrack.runtime.backends.calls import SPAWN, Answer, Calls, check_io, library_errors
from edgecrack.runtime.onnx_metadata import read_spec

# `import openvino` sends telemetry and stores a client id in the home folder. If its telemetry module cannot be
# imported, it falls back to a stub that does neither.
if sys.modules.setdefault("openvino_telemetry", cast(Any, None)) is None:
    import openvino

    del sys.modules["openvino_telemetry"]
else:
    import openvino


@cache
def _core() -> tuple[openvino.Core, int]:
    """The process-wide Core, never freed, and the process that made it.

    The Core's CPU plugin sets a signal stack for the thread that loads it; if another thread frees the Core, that memory is
    freed but the stack stays set, and the next Ctrl-C would end the process.
    """
    return openvino.Core(), os.getpid()


def compiled(path: Path, **options: str) -> openvino.CompiledModel:
    """Compile the model for the CPU; only the precision differs from the defaults.

    Raises what OpenVINO does, and EngineError in the child of a process that used OpenVINO: its threads did not survive.
    """
    core, process = _core()
    if process != os.getpid():
        raise EngineError(f"OpenVINO was used before the process forked; {SPAWN}")
    # The default precision may be bf16, which makes answers differ between machines.
    return core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **options})


# How many calls run in parallel, sharing the cores. A single one has all cores and is answered soonest; two lose less
# time waiting for the slowest core. One more call is in flight, ready to start while the host prepares the next frame.
_STREAMS = {"latency": 1, "throughput": 2}


class OpenVinoBackend(Calls):
    """An ONNX model on OpenVINO's CPU device, two calls in flight, or three with the hint "throughput"."""

    name = "openvino"

    def __init__(self, path: Path, hint: str = "latency") -> None:
        super().__init__(read_spec(path))
        self._path, self._hint = path, hint
        self.depth = _STREAMS[hint] + 1
        with library_errors(self.name, f"load {path}"):
            # Not pinned to cores, which it shares with the decoder and the host code.
            model = compiled(path, NUM_STREAMS=str(_STREAMS[hint]), ENABLE_CPU_PINNING="NO")
            ends = [*model.inputs, *model.outputs]
            check_io(self.spec, {end.any_name: (end.element_type.to_dtype().name, tuple(end.shape)) for end in ends})
            self._requests = [model.create_infer_request() for _ in range(self.depth)]
        self._idle = list(self._requests)

    def clone(self) -> OpenVinoBackend:
        """Open the file again; see `Backend.clone`."""
        self._check_open()
        return OpenVinoBackend(self._path, self._hint)

    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        request = self._idle[-1]
        with suppress(RuntimeError):  # still running if Ctrl-C came between its start and the end of this function
            request.wait()
        frames = np.require(frames, requirements="W")  # copies read-only arrays, whose memory OpenVINO does not share
        request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
        request.start_async()
        self._idle.pop()
        return partial(self._finish, request, frames)

    def _finish(self, request: openvino.InferRequest, frames: NDArray[np.uint8]) -> Answer:
        try:
            request.wait()
            return np.array(request.get_output_tensor().data, np.uint8)  # a copy: the request reuses this memory
        finally:
            self._idle.append(request)

    def _release(self) -> None:
        for request in self._requests:
            with suppress(RuntimeError):  # its answer is discarded anyway
                request.wait()
        self._requests = self._idle = []
