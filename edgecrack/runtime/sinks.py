"""Where detections go: a log, a video, a folder of images. What was written stays readable whatever comes next."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgecrack.errors import SourceError
from edgecrack.images import IMAGE_SUFFIXES, write_image
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
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

    Lines are only ever added, each in the file before the next frame comes; a file that exists is gone on with.
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
        place = {"index": frame.index, "source": frame.source, "time": frame.captured_at}
        line = json.dumps({**place, **detection.to_json()}).encode() + b"\n"
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
    """A video of the frames with their cracks drawn in; see `VideoWriter` for the format."""

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        """`rate` in frames a second. Raises MissingDependency, SourceError or SpecError."""
        self._video = VideoWriter(path, rate)

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame. Raises SourceError when it cannot be written, FrameError when its size is not the first's."""
        self._video.write(detection.plot(frame.image))

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
