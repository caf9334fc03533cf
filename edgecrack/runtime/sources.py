"""Where frames come from: images, folders, glob patterns, videos, and anything in Python that yields frames."""

from __future__ import annotations

import glob
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.images import IMAGE_SUFFIXES, list_images, read_image
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.frame import Frame

if TYPE_CHECKING:
    from typing_extensions import Self

_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
_log = logging.getLogger("edgecrack")

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


def open_source(source: str | os.PathLike[str] | Source | Iterable[NDArray[np.uint8] | Frame]) -> Source:
    """The frames of an image file, a folder of images, a glob pattern, a video file or an iterable of frames.

    An iterable gives frames as uint8 (H, W, 3) BGR, or as `Frame` where they have a time. An open Source is given back.
    Raises SourceError, naming it, when there is nothing or nothing readable; FrameError for a single array.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, np.ndarray) and source.ndim < 4:
        raise FrameError("wanted a source of frames, got one array; put it in a list: [frame]")
    if not isinstance(source, (str, os.PathLike)):
        return _IterableSource(source)
    text = os.fspath(source)
    if "://" in text:  # may hold a password: only its kind is said
        raise SourceError(
            f"cannot read {text.split('://')[0]}:// sources; wanted an image, folder, pattern or video file"
        )
    path = Path(text)
    if path.is_dir():
        return ImageSource(text, list_images(path))
    if path.is_file():
        return ImageSource(text, [path]) if _is_image(path) else VideoSource(path)
    if not glob.has_magic(text):
        raise SourceError(f"no file or folder {text}")
    matches = glob.glob(text, recursive=True)  # noqa: PTH207 (the pattern may begin at the root)
    found = sorted(match for match in map(Path, matches) if _is_image(match))
    if not found:
        raise SourceError(f"no image matches {text}; wanted one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageSource(text, found)


def every_nth(source: Source, step: int) -> Source:
    """Each `step`-th frame of an open source from the first, with the index that it has there. SpecError below 1."""
    if not isinstance(step, int) or step < 1:
        raise SpecError(f"every N-th frame wants a whole number from 1, got {step!r}")
    if step == 1:
        return source
    if isinstance(source, ImageSource):
        return ImageSource(source.name, source.paths, source.step * step)
    return _EveryNth(source, step)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


class ImageSource(Closing):
    """Image files, each read when its turn comes; their sizes may differ."""

    rate = None

    def __init__(self, name: str, paths: list[Path], step: int = 1) -> None:
        """Each `step`-th of `paths` from the first; the others are not read."""
        self.name = name
        self.paths = paths
        self.step = step
        self.count = len(paths[::step])

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError or FrameError naming the image that cannot be read."""
        for index in range(0, len(self.paths), self.step):
            path = self.paths[index]
            yield Frame(read_image(path), index, None, str(path))


class VideoSource(Closing):
    """A video file, through OpenCV's FFmpeg.

    Attributes:
        truncated_at: the frames that were read, when that is fewer than the file declares; None otherwise.
    """

    def __init__(self, path: Path) -> None:
        """Raises SourceError when `path` is no video, or so damaged that nothing can be read."""
        self.name = str(path)
        self.truncated_at: int | None = None
        self._capture = _capture(path)
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None
        self._read = 0
        self._time: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        while True:
            done, image = self._capture.read()
            if not done:
                break
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            self._time = seconds if seconds >= 0 else None  # OpenCV 4 has no time for some Matroska files
            self._read += 1
            yield Frame(np.asarray(image, np.uint8), self._read - 1, self._time, self.name)
        if not self._read:
            raise SourceError(f"no frame of {self.name} can be decoded")
        self._check_end()

    def _check_end(self) -> None:
        # By time and not by number: where frames are not evenly spaced, the count is the duration times the rate.
        if self._time is None or not (self.count and self.rate) or self._time >= (self.count - 2) / self.rate:
            return
        self.truncated_at = self._read
        _log.warning("%s ends after %d of %d frames: it is truncated", self.name, self._read, self.count)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        self._capture.release()


class _IterableSource(Closing):
    """Frames that Python code yields."""

    name = "frames"
    rate = None

    def __init__(self, frames: Iterable[NDArray[np.uint8] | Frame]) -> None:
        self._frames = frames
        self.count = len(frames) if isinstance(frames, Sized) else None

    def __iter__(self) -> Iterator[Frame]:
        for index, frame in enumerate(self._frames):
            yield frame if isinstance(frame, Frame) else Frame(frame, index, None, self.name)


class _EveryNth(Closing):
    """Some frames of a source, which it closes."""

    def __init__(self, source: Source, step: int) -> None:
        self._source, self._step = source, step
        self.name = source.name
        self.rate = source.rate and source.rate / step  # so that what is drawn of it takes as long as the road did
        self.count = None if source.count is None else math.ceil(source.count / step)

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._source, 0, None, self._step)

    def __exit__(self, *error: object) -> None:
        self._source.__exit__(*error)


def _capture(path: Path) -> cv2.VideoCapture:
    level = _set_log_level(0)
    try:
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    finally:
        _set_log_level(level)
    if not capture.isOpened():
        raise SourceError(f"{path} is not a video that OpenCV can read, or is truncated ({path.stat().st_size} bytes)")
    return capture
