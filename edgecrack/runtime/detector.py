"""The main entry point: `CrackDetector(model).run(frame)`."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError, FrameError, SpecError
from edgecrack.fitting import Placement, with_pixels
from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.in_order import PipeSource
from edgecrack.runtime.live import LiveSource
from edgecrack.runtime.region import parse_region
from edgecrack.runtime.sources import AnySource, open_source
from edgecrack.runtime.tiling import check_tile, place
from edgecrack.spec import ModelSpec, check_frame, check_threshold

Pieces = Iterator[tuple["_PendingFrame", NDArray[np.uint8]] | None]  # None: a camera or pipe has nothing new


class CrackDetector(Closing):
    """Detects cracks in frames of any size.

    Handles one call at a time: a call from another thread meanwhile raises EngineError, and so does a `run` while a
    `stream` is unfinished. Give each thread its own detector: `clone()`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Backend,
        *,
        threshold: float | None = None,
        backend: str = "auto",
        device: int = 0,
        hint: str = "latency",
        tile: str = "fit",
        roi: str | None = None,
    ) -> None:
        """Load a model file, or take over an open Backend, which `close` then closes.

        `threshold` in (0, 1] overrides the model's own; `backend` is "auto", "openvino", "onnxruntime" or "tensorrt";
        `device` is the index of the GPU that an engine runs on; `hint` is "latency", or "throughput" for the most
        frames per second from files: see `open_backend`.

        `tile` sets how frames larger than the model input are processed: "fit" scales them, "tile" cuts them into
        overlapping tiles, and "auto" tiles where scaling would go below the smallest scale that the net was trained at,
        and logs its choice. `roi` limits detection to a region of interest, such as "rows:0.4-0.9" or the corners of a
        polygon, "x,y x,y x,y", in pixels or as fractions of the frame; outside it the probability is 0.
        Raises EngineError, MissingDependency or SpecError.
        """
        self._threshold = None if threshold is None else check_threshold(threshold)
        self._tile, self._roi = check_tile(tile), roi
        region = None if roi is None else parse_region(roi)
        if isinstance(model, (str, os.PathLike)):
            model = open_backend(model, backend, device=device, hint=hint)
        if not isinstance(getattr(model, "spec", None), ModelSpec):
            raise EngineError(f"wanted the path of a model file, or an open Backend, got {type(model).__name__}")
        self.backend = model
        self._place = lru_cache(maxsize=16)(partial(place, spec=self.spec, tile=tile, roi=region))
        self._lock = threading.Lock()
        self._closed = False
        self._cameras: LiveSource | None = None
        self._needs_drain = False  # calls may be in flight whose answers nobody will collect

    @property
    def spec(self) -> ModelSpec:
        """The specification of the model."""
        return self.backend.spec

    @property
    def tile(self) -> str:
        """How frames larger than the model input are processed: "fit", "tile" or "auto"."""
        return self._tile

    @property
    def roi(self) -> str | None:
        """The region of interest as it was given."""
        return self._roi

    @property
    def threshold(self) -> float:
        """The lowest probability at which a pixel counts as crack, in (0, 1]. Setting it affects later detections."""
        return self.spec.threshold if self._threshold is None else self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        self._threshold = check_threshold(threshold)

    def run(self, frame: NDArray[Any]) -> Detection:
        """Detect the cracks in one frame, uint8 (H, W, 3) BGR, of any size; a BGRx model also takes uint8 (H, W, 4).

        A frame that has the model's input size and pixel format is passed on without a copy.
        Raises FrameError for any other array, EngineError when the detector is busy or closed or its library fails,
        SpecError when the region of interest lies outside the frame.
        """
        check_frame(frame, self.spec.pixels)
        with self._turn():
            ((_, detection),) = self._detections([Frame(frame, 0, None, "")])
        return detection

    def stream(self, source: AnySource) -> Generator[tuple[Frame, Detection], None, None]:
        """Yield each frame of `source` with its detection, in order, preparing the next frame while the backend works.

        `source` is anything that `open_source` takes, including several cameras. A batch is filled with the tiles or
        frames that come next; with cameras, only with frames that have already arrived. With an iterable of frames, a
        detection is yielded only after the frames of one or two more calls have been read, which are not copied: yield
        a new array for each (`buffer.copy()`), and call `run` if you need each detection at once. The stream may be left
        or closed at any time; it then closes the source, which ends the threads of its cameras. From another thread, end
        it by the `stop` of what `open_source` returns. An error of the source is raised after the frames before it have
        been yielded.
        Raises SourceError, FrameError, EngineError and SpecError, the last when the region of interest lies outside a
        frame; if that is because a camera's frames changed size, they are dropped instead.
        """
        with self._turn(), open_source(source) as frames:
            self._cameras = frames if isinstance(frames, LiveSource) else None
            try:
                yield from self._detections(frames)
            finally:
                self._cameras = None

    def stream_to(self, source: AnySource, *receivers: Callable[[Frame, Detection], object]) -> int:
        """Pass each frame of `source` and its detection to all `receivers`, such as a sink's `write`; return the count.

        See `stream`; an exception raised by a receiver ends it.
        """
        count = 0
        with closing(self.stream(source)) as stream:
            for frame, detection in stream:
                count += 1
                for receive in receivers:
                    receive(frame, detection)
        return count

    def clone(self) -> CrackDetector:
        """Make a second detector for another thread, with the current threshold; each must be closed separately.

        On TensorRT the two share the engine. Raises EngineError when this one is closed or there is too little memory.
        """
        return CrackDetector(self.backend.clone(), threshold=self._threshold, tile=self.tile, roi=self.roi)

    def close(self) -> None:
        """Release the model, once no other thread waits for a frame, and the cameras of an unfinished stream.

        A second call does nothing.
        """
        self._closed = True
        if cameras := self._cameras:  # something, such as a notebook, may still hold an unfinished stream
            cameras.close()
        self.backend.close()

    def _detections(self, frames: Iterable[Frame]) -> Generator[tuple[Frame, Detection], None, None]:
        """Yield each frame with its detection, in order, keeping as many calls in flight as the backend takes.

        With cameras that may drop frames it is only one: a second would wait for the first while its frames grew old.
        """
        if self._needs_drain:
            self._drain()
        pending: deque[_PendingFrame] = deque()
        in_flight: deque[list[_PendingFrame]] = deque()
        pieces, end = self._pieces(frames, pending), None
        fresh = frames if isinstance(frames, LiveSource) and frames.drops else None
        depth = 1 if fresh else self.backend.depth
        self._needs_drain = True
        try:
            while in_flight or end is None:
                end = end or self._fill(in_flight, pieces, depth)
                if in_flight:
                    self._collect(in_flight.popleft())
                if fresh:  # keeps the backend busy while the caller handles the detections
                    end = end or self._fill(in_flight, pieces, depth)
                while pending and pending[0].is_done:
                    work = pending.popleft()
                    if fresh and work.is_overdue:
                        fresh.leave_out(work.frame, "stale")
                        continue
                    handed = time.monotonic()
                    yield work.frame, work.detection(self.threshold)
                    if fresh:  # a slow caller gets newer frames; a slow net drops none
                        for waiting in pending:
                            if not waiting.is_overdue and fresh.is_stale(waiting.frame, handed):
                                waiting.is_overdue = True
                                fresh.put_first(waiting.frame)
            self._needs_drain = False
        finally:
            if self._needs_drain:  # left early: collect the answers only to discard them
                self._drain()
        if not isinstance(end, StopIteration):
            raise end

    def _drain(self) -> None:
        """Collect and discard all answers in flight, including one whose recipient was interrupted by Ctrl-C."""
        for _ in range(self.backend.depth):
            with suppress(EngineError):  # fewer calls are in flight, or the library failed
                self.backend.collect()
        self._needs_drain = False

    def _fill(self, in_flight: deque[list[_PendingFrame]], pieces: Pieces, depth: int) -> Exception | None:
        """Submit calls until `depth` are in flight; returns what ended the source, see `_take`."""
        end = None
        while end is None and len(in_flight) < depth:
            call, end = _take(pieces, self.spec.batch)
            if not call:
                break
            in_flight.append(self._submit(call))
        return end

    def _pieces(self, frames: Iterable[Frame], pending: deque[_PendingFrame]) -> Pieces:
        """Yield the pieces of each frame in order, made on demand; the frame's work is appended to `pending`.

        Yields None while a camera or pipe has no new frame and there is work under way that can be finished first.
        """
        seen: set[str] = set()  # the sources that had a frame containing the region of interest
        for frame in frames:
            if not isinstance(frame, Frame):
                raise FrameError(f"wanted a source that yields Frame, got {type(frame).__name__}")
            check_frame(frame.image, self.spec.pixels)
            start = perf_counter()
            try:
                work = _PendingFrame(frame, self._place(*frame.image.shape[:2]))
            except SpecError as error:
                if frame.source not in seen or not isinstance(frames, LiveSource):
                    raise
                frames.leave_out(frame, "outside", str(error))  # its size changed, and may change back
                continue
            seen.add(frame.source)
            pending.append(work)
            if isinstance(frames, LiveSource):  # let as many wait as fill a call, but no more: they would grow old
                frames.make_room(math.ceil(self.spec.batch / work.placement.count))
            for piece in work.placement.pieces(frame.image):
                piece = with_pixels(piece, self.spec.pixels)
                work.preprocess += perf_counter() - start
                yield work, piece
                start = perf_counter()
            while pending and _waits(frames):
                yield None

    def _submit(self, call: list[tuple[_PendingFrame, NDArray[np.uint8]]]) -> list[_PendingFrame]:
        """Submit up to a batch of pieces, padded to a full one; returns the work that each belongs to."""
        start = perf_counter()
        pieces = [piece for _, piece in call]
        pieces += pieces[-1:] * (self.spec.batch - len(pieces))
        frames = np.stack(pieces) if len(pieces) > 1 else np.ascontiguousarray(pieces[0])[np.newaxis]
        submitted = perf_counter()
        self.backend.submit(frames)
        for work, _ in call:
            work.preprocess += (submitted - start) / len(call)
            work.submitted = work.submitted or submitted
        return [work for work, _ in call]

    def _collect(self, call: list[_PendingFrame]) -> None:
        answers = self.backend.collect()
        collected = perf_counter()
        for work, answer in zip(call, answers, strict=False):  # the answers to padding are ignored
            work.answers.append(answer)
            work.inference = collected - work.submitted

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._closed:
            raise EngineError("this detector is closed; make a new CrackDetector")
        if not self._lock.acquire(blocking=False):
            raise EngineError(
                "this detector is busy with another run or an unfinished stream: close() the stream, or give each thread its own "
                "CrackDetector: clone()"
            )
        try:
            yield
        finally:
            self._lock.release()


@dataclass(eq=False)
class _PendingFrame:
    """A frame whose pieces are being processed; durations in seconds, `submitted` is a `perf_counter` time."""

    frame: Frame
    placement: Placement
    answers: list[NDArray[np.uint8]] = field(default_factory=list)
    preprocess: float = 0.0
    submitted: float = 0.0
    inference: float = 0.0
    is_overdue: bool = False  # it grew stale while the caller had other things to do

    @property
    def is_done(self) -> bool:
        return len(self.answers) == self.placement.count

    def detection(self, threshold: float) -> Detection:
        answer = self.answers[0] if len(self.answers) == 1 else np.stack(self.answers)
        speed = {"preprocess": 1e3 * self.preprocess, "inference": 1e3 * self.inference, "postprocess": 0.0}
        return Detection(answer, self.placement, threshold, speed)


def _waits(frames: Iterable[Frame]) -> bool:
    """Whether the next frame has not arrived yet: work at hand is finished first, or a lost camera would hold it up."""
    return isinstance(frames, (LiveSource, PipeSource)) and not frames.ready


def _take(pieces: Pieces, batch: int) -> tuple[list[tuple[_PendingFrame, NDArray[np.uint8]]], Exception | None]:
    """Take up to a batch of pieces; also return what ended the source: StopIteration, its error, or None."""
    call: list[tuple[_PendingFrame, NDArray[np.uint8]]] = []
    try:
        for piece in pieces:
            if piece is not None:
                call.append(piece)
            if piece is None or len(call) == batch:
                return call, None
    except Exception as error:
        return call, error
    return call, StopIteration()  # a caught one would keep the frame alive until garbage collection
