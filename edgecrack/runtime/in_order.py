"""Sources of which every frame comes, in order, by the thread that asks for it: files, a pipe, an iterable."""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError
from edgecrack.images import read_image
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.connections import PipeConnection, raw_format
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.options import SourceOptions, flipped

_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
_log = logging.getLogger("edgecrack")

# FFmpeg writes to stderr what we raise or log in our own words; it reads this when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_TRIES = 1000  # to decode one more frame, before a file counts as at its end; each of them passes over a damaged packet


class InOrder(Closing, ABC):
    """A source that hands out every frame."""

    parts = ()
    name: str

    def __init__(self, options: SourceOptions) -> None:
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self._options = options
        self._stopped = self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError or FrameError naming what cannot be read; SourceError for a source that is closed."""
        if self._closed:
            raise SourceError(f"{self.name} is closed; open it again")
        frames = self._frames()
        while not self._stopped and (frame := next(frames, None)) is not None:
            self.read += 1
            yield replace(frame, image=flipped(frame.image, self._options.flip)) if self._options.flip else frame

    def stop(self) -> None:
        """End the iteration at the next frame, from any thread or a signal handler; does not wait."""
        self._stopped = True

    def close(self) -> None:
        """Let go of what is read; a second call does nothing."""
        self._closed = True

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """The frames that are wanted, in order, each read when its turn comes."""


class ImageSource(InOrder):
    """Image files, each read when its turn comes; their sizes may differ."""

    rate = None

    def __init__(self, name: str, paths: list[Path], options: SourceOptions) -> None:
        super().__init__(options)
        self.name = name
        self.paths = paths
        self.count = None if options.loop else _left(len(paths), options)

    def _frames(self) -> Iterator[Frame]:
        paths = itertools.cycle(self.paths) if self._options.loop else self.paths
        for index, path in _wanted(enumerate(paths), self._options):
            yield Frame(read_image(path), index, None, str(path))


class VideoSource(InOrder):
    """A video file, through OpenCV's FFmpeg.

    Frames that cannot be decoded are dropped as "damaged", and get no number.

    Attributes:
        truncated_at: the frames that were read, when that is fewer than the file declares; None otherwise.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        """Raises SourceError when `path` is no video, or so damaged that nothing can be read."""
        super().__init__(options)
        self.name = str(path)
        self.truncated_at: int | None = None
        self._path = path
        self._capture, self._resting = _capture(path), False
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or None
        # Of the frames handed out, so that what is drawn of them takes as long as the road did.
        self.rate = self._rate and self._rate / options.every
        self._declared = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        expected = self._expected()
        self.count = None if expected is None else _left(expected, options)
        self._next = 0  # the number of the next frame to come
        self._decoded = 0  # frames of this turn through the file
        self._time: float | None = None

    def rest(self) -> None:
        """Let go of the file, which takes memory and threads, until the first frame is asked for."""
        self._capture.release()
        self._resting = True

    def _frames(self) -> Iterator[Frame]:
        if self._resting:
            self._capture, self._resting = _capture(self._path), False
        while True:
            while self._grab() and self._before_end():
                if self._options.start is not None and (self._time or 0) < self._options.start:
                    continue
                index, self._next = self._next, self._next + 1
                if index < self._options.first or index % self._options.every:
                    continue
                done, image = self._capture.retrieve()
                if not done:
                    self._drop_damaged(1)
                    continue
                yield Frame(np.asarray(image, np.uint8), index, self._time, self.name)
            self._finish()
            if not self._options.loop:
                return
            self._capture.release()
            self._capture, self._decoded = _capture(self._path), 0

    def _grab(self) -> bool:
        """Decode the next frame, past what is damaged; False at the end of the file."""
        for damaged in range(_TRIES):
            if self._capture.grab():
                if damaged:
                    self._drop_damaged(damaged)
                return True
        return False

    def _drop_damaged(self, count: int) -> None:
        if self._next < self._options.first:  # the run that is gone on with has counted it
            return
        if not self.dropped["damaged"]:
            after = "" if self._time is None else f" after {self._time:.2f} s"
            _log.warning("%s is damaged%s; frames that cannot be decoded are dropped", self.name, after)
        self.read += count
        self.dropped["damaged"] += count

    def _before_end(self) -> bool:
        """Whether the frame that was just decoded is before the end that was asked for; notes its time."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        self._time = seconds if seconds >= 0 else None  # OpenCV 4 has no time for some Matroska files
        self._decoded += 1
        if self._time is None and self._rate and (self._options.start or self._options.end):
            self._time = (self._decoded - 1) / self._rate
        return self._options.end is None or self._time is None or self._time < self._options.end

    def _finish(self) -> None:
        if not self.read and not self._options.first:
            between = f" from {self._options.start:g} s" if self._options.start else ""
            raise SourceError(f"no frame of {self.name} can be decoded{between}")
        self._check_end()

    def _check_end(self) -> None:
        # By time and not by number: where frames are not evenly spaced, the count is the duration times the rate.
        declared = self._declared if self._declared > 0 else 0
        if self._time is None or not (declared and self._rate):
            return
        end = math.inf if self._options.end is None else self._options.end
        if self._time >= min(end, declared / self._rate) - 2 / self._rate:
            return
        self.truncated_at = self._decoded
        _log.warning("%s ends after %d of %d frames: it is truncated", self.name, self._decoded, declared)

    def _expected(self) -> int | None:
        """The frames of the part that was asked for, as far as the file says."""
        if self._declared <= 0 or self._options.loop:
            return None
        if self._options.start is None and self._options.end is None:
            return self._declared
        if not self._rate:
            return None
        seconds = self._declared / self._rate
        end = seconds if self._options.end is None else min(seconds, self._options.end)
        return max(0, round((end - (self._options.start or 0)) * self._rate))

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        super().close()
        self._capture.release()
        self._resting = False


class PipeSource(InOrder):
    """Raw pictures on standard input, none of them lost for lack of time: a pipe makes its writer wait."""

    rate = count = None

    def __init__(self, name: str, options: SourceOptions) -> None:
        """`name` is `raw:WIDTHxHEIGHT`. Raises SpecError for another, SourceError when standard input is a terminal."""
        super().__init__(options)
        self.name = name
        self._pipe = PipeConnection(raw_format(name)[0])

    @property
    def ready(self) -> bool:
        """Whether the writer has begun with the next picture, or is at its end."""
        return self._stopped or self._pipe.ready

    def _frames(self) -> Iterator[Frame]:
        while not self._stopped:
            try:
                image = self._pipe.read()
            except TimeoutError:
                continue
            except EOFError:
                return
            if image is None:
                continue
            number = self._options.first + self.read
            if number % self._options.every:
                self.read += 1
                self.dropped["every"] += 1
            else:
                yield Frame(image, number, None, self.name, time.monotonic(), time.time())


class IterableSource(InOrder):
    """Frames that Python code yields."""

    name = "frames"
    rate = None

    def __init__(self, frames: Iterable[NDArray[np.uint8] | Frame], options: SourceOptions) -> None:
        super().__init__(options)
        self._iterable = frames
        self.count = _left(len(frames), options) if isinstance(frames, Sized) else None

    def _frames(self) -> Iterator[Frame]:
        for index, frame in _wanted(enumerate(self._iterable), self._options):
            yield frame if isinstance(frame, Frame) else Frame(frame, index, None, self.name)


_Any = TypeVar("_Any")


def _wanted(numbered: Iterable[_Any], options: SourceOptions) -> Iterator[_Any]:
    """Each N-th of them, from the first that is wanted."""
    return itertools.islice(numbered, options.every * _before(options), None, options.every)


def _left(count: int, options: SourceOptions) -> int:
    """How many of `count` frames are handed out."""
    return max(0, math.ceil(count / options.every) - _before(options))


def _before(options: SourceOptions) -> int:
    """The frames that `every` takes and that come before the first that is wanted."""
    return math.ceil(options.first / options.every)


def _capture(path: Path) -> cv2.VideoCapture:
    name = str(path.absolute())  # what stands before a : in a name without a folder would be a protocol to FFmpeg
    try:
        name.encode()
    except UnicodeEncodeError as error:  # OpenCV ends the process at it
        raise SourceError(f"the name of {str(path)!a} is not UTF-8; rename it") from error
    level = _set_log_level(0)
    try:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    finally:
        _set_log_level(level)
    if not capture.isOpened():
        if not path.is_file():  # it was, when the run began
            raise SourceError(f"{path} is not there any more")
        raise SourceError(f"{path} is not a video that OpenCV can read, or is truncated ({path.stat().st_size} bytes)")
    return capture
