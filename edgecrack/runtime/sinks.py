"""Where detections go: a log, a video, a folder of images. What was written stays readable whatever comes next."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgecrack.errors import SourceError
from edgecrack.images import IMAGE_SUFFIXES, write_image
from edgecrack.runtime.account import Account
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.live import Event, iso_time
from edgecrack.runtime.video import VideoWriter

if TYPE_CHECKING:
    from typing_extensions import Self


class Sink(Protocol):
    """Takes frames with their detections, in order; leaving the `with` block closes it."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame. Raises SourceError, naming the file, when it cannot be written."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class JsonLines(Closing):
    """One line of JSON a frame: index, source, time in seconds or null, and `Detection.to_json`.

    Frames of a camera have `utc` too, when they came, and `age`, the seconds until they were written. What happened to a
    camera has a line with "event". Lines are only ever added, each in the file before the next frame comes; a file that
    exists is gone on with.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises SourceError when the file cannot be opened for writing."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise SourceError(f"cannot write {path}: {error.strerror or error}") from error

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one line. Raises SourceError when the disk is full."""
        place: dict[str, object] = {"index": frame.index, "source": frame.source, "time": frame.captured_at}
        if frame.utc is not None and frame.monotonic is not None:
            place |= {"utc": iso_time(frame.utc), "age": round(time.monotonic() - frame.monotonic, 4)}
        self._add({**place, **detection.to_json()})

    def write_event(self, event: Event | Account) -> None:
        """Add what happened to a camera, or what became of its frames. Raises SourceError when the disk is full."""
        self._add(event.to_json())

    def _add(self, entry: Mapping[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):  # a full disk takes a part first
                self._file.truncate(self._file.tell() - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise SourceError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class OverlayVideo(Closing):
    """A video of the frames with their cracks drawn in; see `VideoWriter` for the format.

    Frames of a camera are shown for as long as they lasted, and where their size changes a further file is begun:
    NAME-2.mp4, NAME-3.mp4 ...
    """

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        """`rate` in frames a second. Raises MissingDependency, SourceError or SpecError."""
        self.path = Path(path)
        self._rate = rate
        self._video = VideoWriter(path, rate)
        self._files = 1
        self._size: tuple[int, ...] | None = None

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame.

        Raises SourceError when it cannot be written, FrameError when its size is not the first's in a file.
        """
        size, live = frame.image.shape[:2], frame.monotonic is not None
        if live and self._size not in (None, size):
            self._begin_next()
        self._size = size
        self._video.write(detection.plot(frame.image), frame.captured_at if live else None)

    def _begin_next(self) -> None:
        self._video.close()
        self._files += 1
        self._video = VideoWriter(self.path.with_stem(f"{self.path.stem}-{self._files}"), self._rate)

    def close(self) -> None:
        """Finish the file; a second call does nothing. Raises SourceError."""
        self._video.close()


class _Folder(Closing):
    """Images named by the stem of their source, or by index where many frames share a source or sources a stem."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Raises SourceError when the folder cannot be made."""
        self.folder = Path(folder)
        self._taken: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceError(f"cannot write into {folder}: {error.strerror or error}") from error

    def _stem(self, frame: Frame) -> str:
        source = Path(frame.source)
        stem = source.stem if source.suffix.lower() in IMAGE_SUFFIXES else f"{frame.index:06d}"
        if stem in self._taken:
            stem = f"{stem}-{frame.index:06d}"
        self._taken.add(stem)
        return stem


class OverlayImages(_Folder):
    """A folder of JPEGs of the frames with their cracks drawn in."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one image, whole or not at all. Raises SourceError."""
        write_image(self.folder / f"{self._stem(frame)}.jpg", detection.plot(frame.image))


class MaskImages(_Folder):
    """A folder of PNG masks, 0 and 255."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one mask, whole or not at all. Raises SourceError."""
        detection.save(self.folder / f"{self._stem(frame)}.png")
