"""OpenVINO on the CPU: the default where there is no NVIDIA GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgecrack.runtime.backends.calls import Answer, Calls, check_ends, library_errors
from edgecrack.runtime.onnx_metadata import read_spec

# `import openvino` reports each use to a server and leaves a client id in the home folder. Where this module is not to be
# had it takes a stub that does neither.
if sys.modules.setdefault("openvino_telemetry", cast(Any, None)) is None:
    import openvino

    del sys.modules["openvino_telemetry"]
else:
    import openvino


@cache
def _core() -> openvino.Core:
    """One for the process, and never freed: its CPU plugin gives the thread that loads it a signal stack, and takes the
    memory back, but not the stack, when another thread lets go of it. The next Ctrl-C would then end the process.
    """
    return openvino.Core()


def compiled(path: Path, **options: str) -> openvino.CompiledModel:
    """The model on the CPU; of the default options only the precision is another. Raises what OpenVINO does."""
    # The default precision may be bf16, and then answers differ between machines.
    return _core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", **options})


# How many calls are computed side by side, sharing the cores. One has all of them and is answered soonest; two wait less for
# each other's slowest core. One call more is in flight, ready to begin while the host prepares the next frame.
_STREAMS = {"latency": 1, "throughput": 2}


class OpenVinoBackend(Calls):
    """An ONNX on OpenVINO's CPU device, two calls in flight, or three with the hint "throughput"."""

    name = "openvino"

    def __init__(self, path: Path, hint: str = "latency") -> None:
        super().__init__(read_spec(path))
        self._path, self._hint = path, hint
        self.depth = _STREAMS[hint] + 1
        with library_errors(self.name, f"load {path}"):
            # Not pinned to cores: decoder and host take turns with it.
            model = compiled(path, NUM_STREAMS=str(_STREAMS[hint]), ENABLE_CPU_PINNING="NO")
            ends = [*model.inputs, *model.outputs]
            check_ends(self.spec, {end.any_name: (end.element_type.to_dtype().name, tuple(end.shape)) for end in ends})
            self._requests = [model.create_infer_request() for _ in range(self.depth)]
        self._idle = list(self._requests)

    def clone(self) -> OpenVinoBackend:
        """The file opened again; see `Backend.clone`."""
        self._check_open()
        return OpenVinoBackend(self._path, self._hint)

    def _start(self, frames: NDArray[np.uint8]) -> Callable[[], Answer]:
        request = self._idle[-1]
        with suppress(RuntimeError):  # it runs where Ctrl-C came between its start and the end of this function
            request.wait()
        frames = np.require(frames, requirements="W")  # a copy where they may only be read: it shares no other memory
        request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
        request.start_async()
        self._idle.pop()
        return partial(self._finish, request, frames)

    def _finish(self, request: openvino.InferRequest, frames: NDArray[np.uint8]) -> Answer:
        try:
            request.wait()
            return np.array(request.get_output_tensor().data, np.uint8)  # copied: the request writes there again
        finally:
            self._idle.append(request)

    def _release(self) -> None:
        for request in self._requests:
            with suppress(RuntimeError):  # of a call whose answer is dropped anyway
                request.wait()
        self._requests = self._idle = []
