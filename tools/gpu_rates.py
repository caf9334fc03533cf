"""Speed of a backend, end to end and bare, and the test images for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice, repeat
from time import perf_counter

import numpy as np
from gpu_page import expect
from numpy.typing import NDArray

from edgecrack.errors import EngineError
from edgecrack.fitting import with_pixels
from edgecrack.runtime import CrackDetector
from edgecrack.runtime.backends.cuda import capture
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend

RATE, JITTER = 0.90, 1.3  # least ratio of end to end to the bare engine; greatest ratio of p99 to p50


def rates(backend: TensorRtBackend, trtexec: float | None = None, frames: int = 500) -> str:
    """Frames per second end to end and bare, and latencies; bare is trtexec's batches per second, if it was run."""
    size = backend.spec.input_frame
    image = with_pixels(noise(0, size.height, size.width), backend.spec.pixels)  # as a video converter delivers them
    detector = CrackDetector(backend)
    bare = bare_rate(backend.engine) if trtexec is None else trtexec
    bare *= backend.spec.batch
    what = "the captured graph alone" if trtexec is None else "trtexec"

    def stream() -> None:
        for _ in detector.stream(islice(repeat(image), frames)):
            pass

    stream()
    rate = frames / seconds(stream)
    times = sorted(latencies(detector, image, frames))
    middle, late = times[len(times) // 2], times[int(0.99 * len(times))]
    text = (
        f"{rate:.0f} frames/s, {rate / bare:.2f} of {what} ({bare:.0f}); "
        f"p50 {1e3 * middle:.2f} ms, p99 {1e3 * late:.2f} ms, ratio {late / middle:.2f}"
    )
    return expect(rate >= RATE * bare and late <= JITTER * middle, text)


def bare_rate(engine: SharedEngine, lanes: int = 2, frames: int = 500) -> float:
    """Batches per second of upload, net and download alone, as graphs in `lanes` streams that take turns."""
    cuda = engine.cuda
    with cuda.current(), ExitStack() as stack:
        tracks = [lane(stack, engine) for _ in range(lanes)]

        def run() -> None:
            for index in range(frames + lanes):
                stream, executable = tracks[index % lanes]
                cuda.synchronise(stream)
                if index < frames:
                    cuda.launch(executable, stream)

        run()
        return frames / seconds(run)


def lane(stack: ExitStack, engine: SharedEngine) -> tuple[int, int]:
    """A stream, and the executable graph that processes a frame in it."""
    cuda, context, shape = engine.cuda, engine.context(), engine.spec.input_shape
    kept = [context]  # until its graph is destroyed, which works in its memory
    stack.callback(kept.clear)
    stream = cuda.stream()
    stack.callback(cuda.destroy_stream, stream)
    ends = []
    for name, size in (("frames", int(np.prod(shape))), ("probability", int(np.prod(shape[:3])))):
        pinned, there = cuda.pin(size), cuda.allocate(size)
        stack.callback(cuda.unpin, pinned)
        stack.callback(cuda.free, there)
        pinned.array.fill(0)
        context.set_tensor_address(name, there)
        ends.append((pinned, there))
    (frames, frames_there), (answers, answers_there) = ends

    def work() -> None:
        cuda.upload(frames_there, frames, stream)
        if not context.execute_async_v3(stream):
            raise EngineError("TensorRT cannot start on a frame")
        cuda.download(answers, answers_there, stream)

    work()
    cuda.synchronise(stream)
    executable = capture(cuda, stream, work)
    stack.callback(cuda.destroy_executable, executable)
    return stream, executable


def seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def latencies(detector: CrackDetector, image: NDArray[np.uint8], count: int) -> list[float]:
    """Seconds that each `run` takes."""
    return [seconds(lambda: void(detector.run(image))) for _ in range(count)]


def void(_: object) -> None: ...


def noise(seed: int, height: int = 512, width: int = 512) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mean(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    means: NDArray[np.uint8] = (image.sum(2, dtype=np.uint32) // 3).astype(np.uint8)
    return means
