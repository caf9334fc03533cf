"""The log of a run: JSON Lines, one line per frame, kept intact even if the process dies."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgecrack.errors import SourceError
from edgecrack.runtime.account import Account
from edgecrack.runtime.camera import Event, iso_time
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.disk import DurableFile, unwritable
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.rle import rle_of


class JsonLines(Closing):
    """Writes one line of JSON per frame: index, source, time in seconds or null, and `Detection.to_json`.

    Frames of a camera also have `utc`, their time of arrival, and `age`, the seconds from arrival to writing. Events of
    cameras and sinks get a line with "event". Lines are only ever appended, each immediately, and reach the disk a
    second later; an existing file is continued, and an incomplete last line, left by a power cut, is removed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        boxes: bool = False,
        contours: bool = False,
        rle: bool = False,
        dropped: Callable[[str], Mapping[str, int]] | None = None,
    ) -> None:
        """`boxes` and `contours` add those of `Detection` to each line, `rle` adds the mask as COCO RLE.

        `dropped`, given the name of a source, returns how many of its frames were dropped so far, by cause.
        Raises SourceError when the file cannot be opened for writing.
        """
        self.path = Path(path)
        self._boxes, self._contours, self._rle = boxes, contours, rle
        self._dropped = dropped
        _mend(self.path)
        self._file = DurableFile(path)

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one line. Raises SourceError when the disk is full."""
        line: dict[str, object] = {"index": frame.index, "source": frame.source, "time": frame.captured_at}
        if frame.utc is not None:
            line["utc"] = iso_time(frame.utc)
        if frame.monotonic is not None:
            line["age"] = round(time.monotonic() - frame.monotonic, 4)
        line |= detection.to_json()
        if self._dropped:
            line["dropped"] = dict(self._dropped(frame.source))
        if self._boxes:
            line["boxes"] = detection.boxes.tolist()
        if self._contours:
            line["contours"] = [points.tolist() for points in detection.contours]
        if self._rle:
            line["rle"] = rle_of(detection.mask)
        self._add(line)

    def write_event(self, event: Event | Account) -> None:
        """Add an event or the final account; callable from any thread. Raises SourceError when the disk is full."""
        self._add(event.to_json())

    def _add(self, entry: Mapping[str, object]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        """Close the file; a second call does nothing. Raises SourceError when the last lines cannot be written."""
        self._file.close()


def entries(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log; an incomplete last line is skipped. Yields nothing if there is no file.

    Raises SourceError, naming the line, for a file that is not a log.
    """
    path = Path(path)
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                entry = _parsed(line)
                if line.endswith(b"\n") and (entry is None or not entry.keys() & {"event", "index"}):
                    raise SourceError(f"line {number} of {path} is not of a log: it is no log, or was changed")
                if entry is not None:
                    yield entry
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _mend(path: Path) -> None:
    """Remove an incomplete last line, as a kill or a power cut leaves it."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        with path.open("r+b") as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                end = content.rfind(b"\n") + 1
                last = content[end:]
            if last and _parsed(last) is None:
                file.truncate(end)
            elif last:  # complete except for the newline, as an editor may leave it
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
    except OSError as error:
        raise unwritable(path, error) from error
