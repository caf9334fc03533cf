"""Where frames come from: files, cameras, and anything in Python that yields frames."""

from __future__ import annotations

import glob
import itertools
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast, overload, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.images import IMAGE_SUFFIXES, list_images, read_image
from edgecrack.runtime.account import Counted
from edgecrack.runtime.address import redacted, redacted_path, scheme_of
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.connections import SCHEMES, PipeConnection, camera_described, open_camera, raw_format
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.options import SourceOptions, flipped
from edgecrack.runtime.several import together

if TYPE_CHECKING:
    from typing_extensions import Self

_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
_log = logging.getLogger("edgecrack")
_DEFAULT = SourceOptions()

# FFmpeg writes to stderr what we raise or log in our own words; it reads this when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@runtime_checkable
class Source(Protocol):
    """Frames to be read once, in order, as from an open file; leaving the `with` block closes it."""

    @property
    def name(self) -> str:
        """What it reads."""

    @property
    def rate(self) -> float | None:
        """Frames a second where it is a video, else None."""

    @property
    def count(self) -> int | None:
        """How many frames it holds, as far as it says."""

    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


@runtime_checkable
class CountedSource(Source, Protocol):
    """A source that a string names, or several: it counts, and it can be stopped."""

    @property
    def read(self) -> int:
        """The frames that came so far; of files only those that `SourceOptions.every` takes."""

    @property
    def dropped(self) -> Counter[str]:
        """How many of them were not handed out, by cause."""

    @property
    def parts(self) -> Sequence[Counted]:
        """What it is made of: cameras, or the files that are read one after the other; nothing where it is one file."""

    def stop(self) -> None:
        """End the iteration at the next frame, from any thread or a signal handler; does not wait."""


Named: TypeAlias = "str | os.PathLike[str] | CountedSource"
AnySource: TypeAlias = "Named | Source | Sequence[Named] | Iterable[NDArray[np.uint8] | Frame]"
_NAMED = (str, os.PathLike, CountedSource)


@overload
def open_source(source: Named | Sequence[Named], options: SourceOptions = ...) -> CountedSource: ...
@overload
def open_source(source: AnySource, options: SourceOptions = ...) -> Source: ...
def open_source(source: AnySource, options: SourceOptions = _DEFAULT) -> Source:
    """The frames of a file, a camera, several of either, or Python code.

    `source` is an image file, a folder of images, a glob pattern, a video file; a camera: `0` or `/dev/video0`,
    `rtsp://`, `http://` (MJPEG), `udp://`, `rtmp://`, `srt://`, `csi://0`, `gst:PIPELINE`, `raw:1920x1080@30` (BGR bytes
    on standard input; without `@30` a pipe whose writer waits, of which no frame is dropped); or an iterable that gives
    frames as uint8 (H, W, 3) BGR, or as `Frame` where they have a time. An open Source is given back.

    A list or tuple of strings is several sources: files, read one after the other, or cameras, read together. Where
    cameras need options of their own, it is one of what `open_source` gave.

    Of files and iterables every frame comes, in order; of cameras the newest, see `LiveSource`.
    Raises SourceError, naming it without passwords, when there is nothing or nothing readable; FrameError for a single
    array, SpecError for an option that the source cannot do and for cameras and files in one list, MissingDependency.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, np.ndarray) and source.ndim < 4:
        raise FrameError("wanted a source of frames, got one array; put it in a list: [frame]")
    if isinstance(source, (str, os.PathLike)):
        return _open_named(os.fspath(source), options)
    if isinstance(source, (list, tuple)) and source and all(isinstance(part, _NAMED) for part in source):
        return _open_several(source, options)
    options.check("an iterable of frames", {"flip"})
    return _IterableSource(cast("Iterable[NDArray[np.uint8] | Frame]", source), options)


def _open_several(sources: Sequence[Named], options: SourceOptions) -> CountedSource:
    if len(sources) == 1:
        return open_source(sources[0], options)
    if options.loop:
        raise SpecError("several sources are read once, not in a loop")
    for source, count in Counter(map(_place, sources)).items():
        if count > 1:
            raise SpecError(f"wanted several sources, got one twice: {redacted(source)}")
    with ExitStack() as opened:
        parts = [opened.enter_context(open_source(source, options)) for source in sources]
        for part in parts:
            if isinstance(part, VideoSource):
                part.rest()
        joined = together(parts)
        opened.pop_all()
    return joined


def _place(source: Named) -> str:
    """What names a source, however its path was written."""
    text = str(source)
    return text if isinstance(source, CountedSource) or scheme_of(text) else str(Path(text).resolve())


def _open_named(source: str, options: SourceOptions) -> CountedSource:
    source = source.strip() if scheme_of(source.strip()) else source
    scheme = scheme_of(source)
    if not scheme:
        try:
            return _open_files(source, options)
        except SourceError:
            raise
        except OSError as error:  # a folder that may not be looked into, a name that is too long
            raise SourceError(f"cannot read {redacted_path(source)}: {error.strerror or error}") from error
    if scheme not in SCHEMES:
        raise SourceError(
            f"cannot read {scheme}:// sources; wanted a file, folder or pattern, or one of {', '.join(sorted(SCHEMES))}"
        )
    if scheme == "raw" and "@" not in source:
        options.check("raw without a rate", {"flip"})
        return PipeSource(source, options)
    return open_camera(source, options)


def described(source: str, options: SourceOptions = _DEFAULT) -> str:
    """How `source` would be read, without passwords: a command to try a GStreamer pipeline with, else a line of words.

    A camera is not connected; of files it raises what `open_source` raises.
    """
    if scheme_of(source) in SCHEMES:
        return camera_described(source, options)
    with _open_named(source, options) as files:
        return f"{files.name} through OpenCV" + (f", {files.count} frames" if files.count else "")


def _open_files(text: str, options: SourceOptions) -> CountedSource:
    path = Path(text)
    if path.is_file() and not _is_image(path):
        options.check("a video file", {"flip", "loop", "start", "end"})
        return VideoSource(path, options)
    options.check("a source of images", {"flip", "loop"})
    if path.is_dir():
        return ImageSource(text, list_images(path), options)
    if path.is_file():
        return ImageSource(text, [path], options)
    if not glob.has_magic(text):
        raise SourceError(f"no file or folder {redacted_path(text)}")
    matches = glob.glob(text, recursive=True)  # noqa: PTH207 (the pattern may begin at the root)
    found = sorted(match for match in map(Path, matches) if _is_image(match))
    if not found:
        raise SourceError(f"no image matches {redacted_path(text)}; wanted one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageSource(text, found, options)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


class _InOrder(Closing, ABC):
    """A source that hands out every frame, by the thread that asks for it."""

    parts = ()

    def __init__(self, options: SourceOptions) -> None:
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self._options = options
        self._stopped = False

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError or FrameError naming what cannot be read."""
        frames = self._frames()
        while not self._stopped and (frame := next(frames, None)) is not None:
            self.read += 1
            yield replace(frame, image=flipped(frame.image, self._options.flip)) if self._options.flip else frame

    def stop(self) -> None:
        """End the iteration at the next frame, from any thread or a signal handler; does not wait."""
        self._stopped = True

    @abstractmethod
    def _frames(self) -> Iterator[Frame]:
        """The frames that are wanted, in order, each read when its turn comes."""


class ImageSource(_InOrder):
    """Image files, each read when its turn comes; their sizes may differ."""

    rate = None

    def __init__(self, name: str, paths: list[Path], options: SourceOptions = _DEFAULT) -> None:
        super().__init__(options)
        self.name = name
        self.paths = paths
        self.count = None if options.loop else _left(len(paths), options)

    def _frames(self) -> Iterator[Frame]:
        paths = itertools.cycle(self.paths) if self._options.loop else self.paths
        for index, path in _wanted(enumerate(paths), self._options):
            yield Frame(read_image(path), index, None, str(path))


class VideoSource(_InOrder):
    """A video file, through OpenCV's FFmpeg.

    Attributes:
        truncated_at: the frames that were read, when that is fewer than the file declares; None otherwise.
    """

    def __init__(self, path: Path, options: SourceOptions = _DEFAULT) -> None:
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
            while self._capture.grab() and self._before_end():
                if self._options.start is not None and (self._time or 0) < self._options.start:
                    continue
                index, self._next = self._next, self._next + 1
                if index < self._options.first or index % self._options.every:
                    continue
                done, image = self._capture.retrieve()
                if not done:
                    break
                yield Frame(np.asarray(image, np.uint8), index, self._time, self.name)
            self._finish()
            if not self._options.loop:
                return
            self._capture.release()
            self._capture, self._decoded = _capture(self._path), 0

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
        if self._options.end is None:
            self._check_end()

    def _check_end(self) -> None:
        # By time and not by number: where frames are not evenly spaced, the count is the duration times the rate.
        declared = self._declared if self._declared > 0 else 0
        if self._time is None or not (declared and self._rate) or self._time >= (declared - 2) / self._rate:
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
        self._capture.release()
        self._resting = False


class PipeSource(_InOrder):
    """Raw pictures on standard input, none of them lost for lack of time: a pipe makes its writer wait."""

    rate = count = None

    def __init__(self, name: str, options: SourceOptions) -> None:
        """`name` is `raw:WIDTHxHEIGHT`. Raises SpecError for another, SourceError when standard input is a terminal."""
        super().__init__(options)
        self.name = name
        self._pipe = PipeConnection(raw_format(name)[0])

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


class _IterableSource(_InOrder):
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
        raise SourceError(f"{path} is not a video that OpenCV can read, or is truncated ({path.stat().st_size} bytes)")
    return capture
