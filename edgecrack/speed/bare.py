"""The bare net: the inference library alone, on frames that are already prepared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import Fit, with_pixels
from edgecrack.runtime import open_backend
from edgecrack.runtime.closing import Closing
from edgecrack.spec import ModelSpec
from edgecrack.speed.drive import first_frames

Frames = NDArray[np.uint8]
MODES = "latency", "throughput"


class BareNets(Closing):
    """A model loaded once per mode: "latency", one call at a time, and "throughput", as many as the library likes.

    On OpenVINO these are its two performance hints, called without edgecrack's backend, at the same precision.
    """

    def __init__(self, model: Path, backend: str = "auto", device: int = 0) -> None:
        """Raises what `open_backend` does."""
        with ExitStack() as stack:
            opened = open_backend(model, backend, device=device)
            stack.callback(opened.close)
            self.spec, self.name = opened.spec, opened.name
            self._calls: dict[str, tuple[Callable[[Frames], object], Callable[[], object], int]]
            if opened.name == "openvino":
                opened.close()
                self._calls = {mode: _openvino(model, mode) for mode in MODES}
            else:
                depths = dict(zip(MODES, (1, opened.depth), strict=True))
                self._calls = {mode: (opened.submit, opened.collect, depth) for mode, depth in depths.items()}
            self._stack = stack.pop_all()

    def milliseconds(self, mode: str, frames: list[Frames], calls: int) -> list[float]:
        """Milliseconds from result to result of `calls` calls, pipelined as the mode says; the first is not counted."""
        submit, collect, depth = self._calls[mode]
        ends = []
        for call in range(calls + depth + 1):
            if call >= depth:
                collect()
                ends.append(perf_counter())
            if call <= calls:
                submit(frames[call % len(frames)])
        return list(1e3 * np.diff(ends))

    def close(self) -> None:
        """Release the model."""
        self._stack.close()
        self._calls = {}


def _openvino(model: Path, mode: str) -> tuple[Callable[[Frames], None], Callable[[], None], int]:
    """(start a call, wait for its result, number of calls to keep in flight)."""
    import openvino

    from edgecrack.runtime.backends.openvino import compiled

    net = compiled(model, PERFORMANCE_HINT=mode.upper())
    depth = 1 if mode == MODES[0] else int(net.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    requests = [net.create_infer_request() for _ in range(depth)]
    idle, busy = cycle(requests), cycle(requests)

    def submit(frames: Frames) -> None:
        request = next(idle)
        request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
        request.start_async()

    def collect() -> None:
        next(busy).wait()

    return submit, collect, depth


def ready_frames(source: str, spec: ModelSpec, count: int) -> list[Frames]:
    """The first `count` frames of `source` as inputs of a net of `spec`: uint8 `spec.input_shape`, each frame repeated
    to fill the batch."""
    ready = []
    for frame in first_frames(source, count):
        height, width = frame.image.shape[:2]
        fitted = Fit.of(height, width, spec.input_frame).apply(frame.image)
        ready.append(np.repeat(with_pixels(fitted, spec.pixels)[np.newaxis], spec.batch, axis=0))
    return ready
