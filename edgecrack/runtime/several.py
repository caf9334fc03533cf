"""Joins several sources into one: files one after the other, cameras simultaneously."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgecrack.errors import SpecError
from edgecrack.images import UNUSABLE
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.in_order import PipeSource
from edgecrack.runtime.live import LiveSource

if TYPE_CHECKING:
    from edgecrack.runtime.sources import CountedSource

_log = logging.getLogger("edgecrack")


def together(sources: Sequence[CountedSource]) -> CountedSource:
    """Join `sources`, none of which has been read yet, into one source, which closes them.

    Raises SpecError for a mix of cameras and files: files can wait for their turn, cameras cannot. A pipe is read alone.
    """
    for source in sources:
        if isinstance(source, PipeSource):
            raise SpecError(
                f"{source.name} is standard input, which is read alone; run the other sources by themselves"
            )
    cameras = [source for source in sources if isinstance(source, LiveSource)]
    if not cameras:
        return FilesInTurn(sources)
    if len(cameras) < len(sources):
        (file, *_) = (source for source in sources if source not in cameras)
        raise SpecError(
            f"several sources are all cameras or all files, got {cameras[0].name} and {file.name}; run them one by one"
        )
    return LiveSource(*(camera for source in cameras for camera in source.parts))


class FilesInTurn(Closing):
    """Files, folders and patterns, read one after the other: every frame of each, in order, counted from 0.

    Attributes:
        parts: the sources, each closed after its turn.
        rate: the highest frame rate, in frames per second, if all are videos; else None.
        count: the total number of frames, if all sources know theirs; else None.
    """

    def __init__(self, parts: Sequence[CountedSource]) -> None:
        """Take over sources that have not been read yet."""
        self.parts = parts
        self.name = ", ".join(part.name for part in parts)
        rates = [part.rate for part in parts if part.rate]
        self.rate = max(rates) if len(rates) == len(parts) else None
        counts = [part.count for part in parts if part.count is not None]
        self.count = sum(counts) if len(counts) == len(parts) else None

    @property
    def read(self) -> int:
        """The number of frames received so far from all sources."""
        return sum(part.read for part in self.parts)

    @property
    def dropped(self) -> Counter[str]:
        """The number of received frames that were not handed out, by cause."""
        return sum((part.dropped for part in self.parts), Counter())

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError or FrameError, naming what cannot be read; later sources are then not read.

        Images of which none can be used are passed over, unless there is nothing else.
        """
        error = None
        for part in self.parts:
            with part:
                try:
                    yield from part
                except UNUSABLE as unusable:
                    error = unusable
                    _log.warning("%s; it is dropped", unusable)
        if error and self.read == self.dropped["damaged"]:
            raise error

    def stop(self) -> None:
        """End the iteration at the next frame; does not wait. May be called from any thread or a signal handler."""
        for part in self.parts:
            part.stop()

    def close(self) -> None:
        """Close all sources; a second call does nothing."""
        for part in self.parts:
            part.__exit__()
