"""The sentence a user knows by heart: `CrackDetector(model).run(frame)`."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError
from edgecrack.fitting import Fit, with_pixels
from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.sources import Source, open_source
from edgecrack.spec import ModelSpec, check_frame, check_threshold

_fit = lru_cache(maxsize=64)(Fit.of)


class CrackDetector(Closing):
    """Finds cracks in frames of any size.

    One call at a time: a second thread that calls meanwhile is refused with an EngineError, and so is a `run` while a
    `stream` is not finished. Give each thread a detector of its own: `clone()`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Backend,
        *,
        threshold: float | None = None,
        backend: str = "auto",
        device: int = 0,
    ) -> None:
        """Load a model file, or take over an open Backend, which `close` then closes.

        `threshold` in (0, 1] takes the place of the model's own; `backend` is "auto", "openvino", "onnxruntime"
        or "tensorrt"; `device` is the GPU that an engine runs on. Raises EngineError, MissingDependency or SpecError.
        """
        self._threshold = None if threshold is None else check_threshold(threshold)
        self.backend = open_backend(model, backend, device=device) if isinstance(model, (str, os.PathLike)) else model
        self._lock = threading.Lock()
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self.backend.spec

    @property
    def threshold(self) -> float:
        """The crack probability from which a pixel is crack, in (0, 1]. Setting it holds for later detections."""
        return self.spec.threshold if self._threshold is None else self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._threshold = check_threshold(threshold)

    def run(self, frame: NDArray[np.uint8]) -> Detection:
        """The cracks in one frame, uint8 (H, W, 3) BGR, of any size; a BGRx model takes uint8 (H, W, 4) too.

        One of the size and pixels that the model takes is handed over as it is, without a copy.
        Raises FrameError for anything else, EngineError when the detector is busy, closed or its library fails.
        """
        check_frame(frame, self.spec.pixels)
        with self._turn():
            return self._collect(self._submit([frame]))[0]

    def stream(
        self, source: str | os.PathLike[str] | Source | Iterable[NDArray[np.uint8] | Frame]
    ) -> Generator[tuple[Frame, Detection], None, None]:
        """Each frame of `source`, in order, with its cracks: while one is at the backend, the next is made ready.

        It may be left or closed at any time, and closes the source. An error of the source is raised after the frames
        before it were given out.
        Raises SourceError, FrameError and EngineError.
        """
        in_flight: deque[tuple[list[Frame], _Call]] = deque()
        with self._turn(), open_source(source) as frames:
            coming, end = iter(frames), None
            try:
                while in_flight or end is None:
                    while end is None and len(in_flight) < self.backend.depth:
                        batch, end = _take(coming, self.spec)
                        if batch:
                            in_flight.append((batch, self._submit([frame.image for frame in batch])))
                    if in_flight:
                        batch, call = in_flight.popleft()
                        yield from zip(batch, self._collect(call), strict=True)
            finally:
                for _ in in_flight:
                    with suppress(EngineError):  # left early: the answers are not wanted, only out of the way
                        self.backend.collect()
            if not isinstance(end, StopIteration):
                raise end

    def clone(self) -> CrackDetector:
        """A second detector for another thread, with the threshold that this one has now; each is closed by itself.

        On TensorRT the two share the engine. Raises EngineError when this one is closed or memory is short.
        """
        return CrackDetector(self.backend.clone(), threshold=self._threshold)

    def close(self) -> None:
        """Let go of the model, after the frame that another thread waits for; a second call does nothing."""
        self._closed = True
        self.backend.close()

    def _submit(self, images: list[NDArray[np.uint8]]) -> _Call:
        start = perf_counter()
        fits = [_fit(image.shape[0], image.shape[1], self.spec.input_frame) for image in images]
        fitted = [with_pixels(fit.apply(image), self.spec.pixels) for fit, image in zip(fits, images, strict=True)]
        fitted += fitted[-1:] * (self.spec.batch - len(fitted))
        frames = np.stack(fitted) if len(fitted) > 1 else np.ascontiguousarray(fitted[0])[np.newaxis]
        submitted = perf_counter()
        self.backend.submit(frames)
        return _Call(fits, 1e3 * (submitted - start) / len(images), submitted)

    def _collect(self, call: _Call) -> list[Detection]:
        answers = self.backend.collect()
        inference = 1e3 * (perf_counter() - call.submitted)
        return [
            Detection(
                answer,
                fit,
                self.threshold,
                {"preprocess": call.preprocess, "inference": inference, "postprocess": 0.0},
            )
            for fit, answer in zip(call.fits, answers, strict=False)  # the answers to padding are left over
        ]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._closed:
            raise EngineError("this detector is closed; make a new CrackDetector")
        if not self._lock.acquire(blocking=False):
            raise EngineError(
                "this detector is busy with another run or an unfinished stream; give each thread its own CrackDetector: clone()"
            )
        try:
            yield
        finally:
            self._lock.release()


@dataclass(frozen=True)
class _Call:
    """A batch at the backend; times in milliseconds a frame, but `submitted` in seconds of the clock."""

    fits: list[Fit]
    preprocess: float
    submitted: float


def _take(coming: Iterator[Frame], spec: ModelSpec) -> tuple[list[Frame], Exception | None]:
    """Up to a batch of frames, and what ended the source: StopIteration, its error, or None while it goes on."""
    batch: list[Frame] = []
    while len(batch) < spec.batch:
        try:
            frame = next(coming)
            check_frame(frame.image, spec.pixels)
        except Exception as end:
            return batch, end
        batch.append(frame)
    return batch, None
