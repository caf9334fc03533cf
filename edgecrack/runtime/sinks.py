"""Sinks for detections: a log, a video, a folder of images. What was written stays readable whatever happens later."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edgecrack.errors import SourceError
from edgecrack.images import write_image
from edgecrack.runtime.account import Account
from edgecrack.runtime.camera import Event
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.recording import Labels, Room, is_image, make_folder

if TYPE_CHECKING:
    from typing_extensions import Self


_log = logging.getLogger("edgecrack")


@runtime_checkable
class Sink(Protocol):
    """Receives frames with their detections, in order; leaving the `with` block closes it."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame. Raises SourceError, naming the file, when it cannot be written."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


@runtime_checkable
class EventSink(Sink, Protocol):
    """A sink that also receives events."""

    def write_event(self, event: Event | Account) -> None:
        """Add an event of a camera or a sink, or the final account of the frames. Raises SourceError."""


class Sinks(Closing):
    """Combines several sinks. One that can no longer be written is left out, and the others go on.

    That is one that raises SourceError because its disk is full or gone. It is closed, and a warning and an event,
    "left out", report it; any other exception from a sink is a bug and ends the run. A sink that blocks holds up the
    run: meanwhile a camera's waiting frames are replaced by newer ones.

    Attributes:
        lost: the reason why each sink was left out, by name.
        on_event: called with the event when a sink is left out, in addition to the remaining sinks.
    """

    def __init__(self) -> None:
        self.lost: dict[str, str] = {}
        self.on_event: Callable[[Event], None] = lambda event: None
        self._sinks: dict[str, Sink] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the sinks, in order, including those that were left out."""
        return list(self._sinks)

    def add(self, name: str | os.PathLike[str], sink: Sink) -> None:
        """Take over a sink, usually named after the file or folder that it writes; it receives each frame last."""
        self._sinks[os.fspath(name)] = sink

    def write(self, frame: Frame, detection: Detection) -> None:
        """Add one frame to each sink that was not left out."""
        for name, sink in self._left():
            if name in self.lost:  # the log, if writing the event of an earlier sink failed
                continue
            try:
                sink.write(frame, detection)
            except SourceError as error:
                self._leave_out(name, sink, error)

    def write_event(self, event: Event | Account) -> None:
        """Pass an event to the sinks that take events."""
        for name, sink in self._left():
            if isinstance(sink, EventSink) and name not in self.lost:
                try:
                    sink.write_event(event)
                except SourceError as error:
                    self._leave_out(name, sink, error)

    def close(self) -> None:
        """Close the sinks in order, so that a log, the last, can record what happens; a second call does nothing."""
        with ExitStack() as all_of_them:
            all_of_them.callback(self._sinks.clear)  # a mark that arrives later is ignored, which is no loss
            for name, sink in reversed(self._left()):
                all_of_them.callback(self._close, name, sink)

    def check(self) -> None:
        """Raise SourceError if any sink was left out."""
        if self.lost:
            raise SourceError("; ".join(self.lost.values()))

    def _left(self) -> list[tuple[str, Sink]]:
        return [(name, sink) for name, sink in self._sinks.items() if name not in self.lost]

    def _close(self, name: str, sink: Sink) -> None:
        try:
            sink.__exit__()
        except SourceError as error:
            self._leave_out(name, sink, error)

    def _leave_out(self, name: str, sink: Sink, error: SourceError) -> None:
        reason = str(error)
        with self._lock:
            if name in self.lost:  # a mark, from another thread, met the same error
                return
            self.lost[name] = reason
        _log.warning("%s; going on without it", error)
        with suppress(SourceError):
            sink.__exit__()
        event = Event("left out", name, time.time(), {"reason": reason})
        self.write_event(event)
        self.on_event(event)


class _Folder(Closing):
    """Images named by their source's stem, by index if frames share a source, or by both if sources share a stem.

    With several sources, each that does not consist of image files gets its own folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, sources: Sequence[str] = (), room: Room | None = None
    ) -> None:
        """`sources` lists all names if there are several, `room` ensures that enough disk space is left.

        Raises SourceError when the folder cannot be created.
        """
        self.folder = Path(folder)
        self._room = room
        self._labels = Labels(sources)
        self._taken: set[str] = set()  # stems used by image files
        make_folder(self.folder)

    def resume(self, images: Iterable[tuple[int, str]]) -> None:
        """Continue after image files with these numbers and names, choosing names as if it were a single run."""
        for number, source in images:
            self._name(number, source)

    def _path(self, frame: Frame, suffix: str) -> Path:
        if self._room:
            self._room.keep()
        folder = self.folder / self._labels.of(frame)
        if folder != self.folder:
            make_folder(folder)
        return folder / f"{self._stem(frame)}{suffix}"

    def _stem(self, frame: Frame) -> str:
        return self._name(frame.index, frame.source) if is_image(frame) else f"{frame.index:06d}"

    def _name(self, number: int, source: str) -> str:
        plain = stem = Path(source).stem
        while stem in self._taken:
            stem = f"{plain}-{number:06d}" if stem == plain else f"{stem}-2"
        self._taken.add(stem)
        return stem


class OverlayImages(_Folder):
    """A folder of JPEGs of the frames with their cracks drawn on them."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Write one image atomically. Raises SourceError."""
        write_image(self._path(frame, ".jpg"), detection.plot(frame.image))


class MaskImages(_Folder):
    """A folder of PNG masks with values 0 and 255."""

    def write(self, frame: Frame, detection: Detection) -> None:
        """Write one mask atomically. Raises SourceError."""
        detection.save(self._path(frame, ".png"))
