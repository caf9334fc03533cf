"""Sources that yield every frame, in order, read in the calling thread: files, a pipe, an iterable."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError
from edgecrack.images import UNUSABLE, read_image
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.connections import PipeConnection, raw_format
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.options import SourceOptions, flipped
from edgecrack.runtime.video import is_cut_short

_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
_opening = threading.Lock()  # OpenCV's log level is the process's
_log = logging.getLogger("edgecrack")

# FFmpeg writes to stderr what we raise or log ourselves; it reads this when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_TRIES = 1000  # attempts to decode another frame before a file counts as ended; each skips a damaged packet


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
        """Raises SourceError or FrameError, naming what cannot be read; SourceError for a closed source."""
        if self._closed:
            raise SourceError(f"{self.name} is closed; open it again")
        frames = self._frames()
        while not self._stopped and (frame := next(frames, None)) is not None:
            self.read += 1
            yield replace(frame, image=flipped(frame.image, self._options.flip)) if self._options.flip else frame

    def stop(self) -> None:
        """End the iteration at the next frame; does not wait. May be called from any thread or a signal handler."""
        self._stopped = True

    def close(self) -> None:
        """Close the source; a second call does nothing."""
        self._closed = True

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """Yield the requested frames in order, reading each when its turn comes."""


class ImageSource(InOrder):
    """Image files, read one by one on iteration; their sizes may differ.

    Images that cannot be decoded, or have over 8 bits per channel, are dropped as "damaged"; their indices are left out.
    """

    rate = None

    def __init__(self, name: str, paths: list[Path], options: SourceOptions) -> None:
        super().__init__(options)
        self.name = name
        self.paths = paths
        self.count = None if options.loop else _left(len(paths), options)

    def _frames(self) -> Iterator[Frame]:
        """Raises DamagedImage or FrameError if a whole pass gives no image."""
        paths = itertools.cycle(self.paths) if self._options.loop else self.paths
        whole = len(self.paths) if self._options.loop else math.ceil(len(self.paths) / self._options.every)
        damaged: set[Path] = set()
        in_a_row = 0
        for index, path in _wanted(enumerate(paths), self._options):
            if self._stopped:
                return
            try:
                image = read_image(path)
            except UNUSABLE as error:
                self.read += 1
                self.dropped["damaged"] += 1
                in_a_row += 1
                if in_a_row == whole:
                    raise
                if path not in damaged:  # in a loop it comes again
                    _log.warning("%s; it is dropped", error)
                damaged.add(path)
            else:
                in_a_row = 0
                yield Frame(image, index, None, str(path))


class VideoSource(InOrder):
    """A video file, read through OpenCV's FFmpeg.

    Packets that cannot be decoded are dropped as "damaged" and get no index.

    Attributes:
        truncated_at: the number of frames decoded, if the file declares more or ends in the middle; None otherwise.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        """Raises SourceError when `path` is not a video, or too damaged to be opened."""
        super().__init__(options)
        self.name = str(path)
        self.truncated_at: int | None = None
        self._path = path
        self._capture, self._resting = _capture(path), False
        self._rate = _rate_of(path, self._capture)
        # The rate of the frames handed out, so that a video recorded from them plays at the original speed.
        self.rate = self._rate and self._rate / options.every
        self._declared = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        expected = self._expected()
        self.count = None if expected is None else _left(expected, options)
        self._next = 0  # index of the next frame
        self._decoded = 0  # frames decoded in this pass through the file
        self._time: float | None = None
        self._lacks = False  # whether it was said that frames are missing

    def rest(self) -> None:
        """Close the file, which takes memory and threads, until the first frame is requested."""
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
        """Decode the next frame, skipping damaged packets; returns False at the end of the file."""
        for damaged in range(_TRIES):
            if self._capture.grab():
                if damaged:
                    self._drop_damaged(damaged)
                return True
        return False

    def _drop_damaged(self, count: int) -> None:
        if self._next < self._options.first:  # already counted by the run that is being resumed
            return
        if not self.dropped["damaged"]:
            after = "" if self._time is None else f" after {self._time:.2f} s"
            _log.warning("%s is damaged%s; frames that cannot be decoded are dropped", self.name, after)
        self.read += count
        self.dropped["damaged"] += count

    def _before_end(self) -> bool:
        """Record the timestamp of the frame just decoded; return whether it is before the requested end."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        self._time = seconds if seconds >= 0 else None  # OpenCV 4 reports no timestamp for some Matroska files
        stands = seconds == 0 < self._decoded  # as of raw H.264, which has none at all
        if self._rate and (stands or (self._time is None and (self._options.start or self._options.end))):
            self._time = self._decoded / self._rate
        self._decoded += 1
        return self._options.end is None or self._time is None or self._time < self._options.end

    def _finish(self) -> None:
        if not self.read and not self._options.first:
            between = f" from {self._options.start:g} s" if self._options.start else ""
            length = f"; it is {self._declared / self._rate:.1f} s long" if self._declared > 0 and self._rate else ""
            raise SourceError(f"no frame of {self.name} can be decoded{between}{length}")
        self._check_end()

    def _check_end(self) -> None:
        # By time, not by index: with a variable frame rate, the declared count is the duration times the rate.
        declared, rate = max(0, self._declared), self._rate or math.inf
        asked = math.inf if self._options.end is None else self._options.end
        is_whole = asked == math.inf
        if self._time is not None and self._time < min(asked, declared / rate) - 2 / rate:
            self.truncated_at = self._decoded
            why = "it is truncated or trimmed, or its sound is longer"
            _log.warning("%s ends after %d of %d frames: %s", self.name, self._decoded, declared, why)
        elif is_whole and is_cut_short(self._path):
            self.truncated_at = self._decoded
            _log.warning("%s ends in the middle, after %d frames: it is truncated", self.name, self._decoded)
        elif (
            is_whole and declared - self._decoded - self.dropped["damaged"] > max(2, declared / 50) and not self._lacks
        ):
            self._lacks = True  # said once, not after each pass of a loop
            why = "its rate varies, or parts of it are damaged"
            _log.warning("%s has %d frames where its length means %d: %s", self.name, self._decoded, declared, why)

    def _expected(self) -> int | None:
        """The number of frames in the requested part; None if the file does not say."""
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
        """Close the file; a second call does nothing."""
        super().close()
        self._capture.release()
        self._resting = False


class PipeSource(InOrder):
    """Raw images on standard input, none of them dropped: a pipe makes its writer wait."""

    rate = count = None

    def __init__(self, name: str, options: SourceOptions) -> None:
        """`name` is `raw:WIDTHxHEIGHT`. Raises SpecError otherwise, SourceError when standard input is a terminal."""
        super().__init__(options)
        self.name = name
        self._pipe = PipeConnection(raw_format(name)[0])

    @property
    def ready(self) -> bool:
        """Whether data of the next image, or the end of the pipe, can be read without waiting."""
        return self._stopped or self._pipe.ready

    def _frames(self) -> Iterator[Frame]:
        while not self._stopped:
            try:
                image = self._pipe.read()
            except TimeoutError:
                continue
            except EOFError:
                if not self.read and not self._options.first:
                    raise SourceError(
                        "no picture came on standard input; did the program that writes it fail?"
                    ) from None
                return
            if image is None:
                self.read += 1
                self.dropped["damaged"] += 1
                continue
            number = self._options.first + self.read
            if number % self._options.every:
                self.read += 1
                self.dropped["every"] += 1
            else:
                yield Frame(image, number, None, self.name, time.monotonic(), time.time())


class IterableSource(InOrder):
    """Frames from a Python iterable."""

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
    """Every N-th item, from the first that is requested."""
    return itertools.islice(numbered, options.every * _before(options), None, options.every)


def _left(count: int, options: SourceOptions) -> int:
    """How many of `count` frames are handed out."""
    return max(0, math.ceil(count / options.every) - _before(options))


def _before(options: SourceOptions) -> int:
    """The number of frames selected by `every` that precede the first requested one."""
    return math.ceil(options.first / options.every)


def _rate_of(path: Path, capture: cv2.VideoCapture) -> float | None:
    """The frame rate; of a raw stream, which has no length, what the stream itself says: OpenCV answers 25 for each."""
    if capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0:
        with suppress(ImportError, OSError, ValueError, IndexError):
            import av

            with av.open(str(path.absolute())) as file:
                if rate := file.streams.video[0].guessed_rate:
                    return float(rate)
    return capture.get(cv2.CAP_PROP_FPS) or None


def _capture(path: Path) -> cv2.VideoCapture:
    name = str(path.absolute())  # absolute: FFmpeg would take text before a : in a bare name for a protocol
    try:
        name.encode()
    except UnicodeEncodeError as error:  # OpenCV would abort the process
        raise SourceError(f"the name of {str(path)!a} is not UTF-8; rename it") from error
    with _opening:
        level = _set_log_level(0)
        try:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        finally:
            _set_log_level(level)
    if not capture.isOpened():
        if not path.is_file():  # it existed when the run began
            raise SourceError(f"{path} is not there any more")
        raise SourceError(f"{path} is not a video that OpenCV can read, or is truncated ({path.stat().st_size} bytes)")
    return capture
