"""Clips and images of finds only, so that a day fits on a memory card."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError, SpecError
from edgecrack.images import write_image
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.disk import DurableFile
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.recording import Clock, Labels, Room, last_of, make_folder, numbered
from edgecrack.runtime.sinks import Sink
from edgecrack.runtime.video import VideoEncoder, check_rate, require_av

_IMAGE_EVERY = 1.0  # seconds of a find per image


class Evidence(Closing):
    """Writes a folder of clips, from `roll` seconds before a find to as long after it, and of images of the find.

    Files are named by frame index: a clip, with the cracks drawn on it, by that of the find that started it; an image,
    as the camera delivered it, by its own. For each second of a find, the frame with the most crack pixels is kept as
    an image. Finds whose clips would overlap share one. With several sources, each has its own folder.

    Frames are encoded once, and the encoded last seconds are kept in memory: a few megabytes per source.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        rate: float,
        *,
        share: float = 0.0,
        roll: float = 2.0,
        longest: float = 300.0,
        sources: Sequence[str] = (),
        room: Room | None = None,
    ) -> None:
        """`rate` in frames per second; a find is a frame with crack pixels that make up at least `share` (0..1) of it.

        `longest` is the seconds after which a clip is continued in a new file, `sources` lists all names if there are
        several, `room` limits the total size of the clips. Raises MissingDependency, SourceError or SpecError.
        """
        check_rate(rate)
        require_av()
        self.folder = Path(folder)
        self._share = check_share(share)
        self._rate, self._roll, self._longest, self._room = rate, roll, longest, room
        self._labels = Labels(sources)
        self._watches: dict[str, _Watch] = {}
        self._closed = False
        make_folder(self.folder)

    def write(self, frame: Frame, detection: Detection) -> None:
        """Process one frame. Raises SourceError when a clip or image cannot be written."""
        if self._closed:
            raise SourceError(f"cannot write into {self.folder}: it is closed")
        label = self._labels.of(frame)
        if label not in self._watches:
            if frame.monotonic is None:  # files usually come one after the other: the earlier ones have ended
                self._finish()
            make_folder(self.folder / label)
            self._watches[label] = _Watch(self.folder / label, self._rate, self._roll, self._longest, self._room)
        self._watches[label].write(frame, detection, is_find(detection.crack_share, self._share))
        if self._room:
            self._room.keep()

    def close(self) -> None:
        """Finish the current clip and image; a second call does nothing. Raises SourceError."""
        self._closed = True
        self._finish()

    def _finish(self) -> None:
        with ExitStack() as all_of_them:
            for watch in self._watches.values():
                all_of_them.callback(watch.close)


class OnlyFinds(Closing):
    """Passes only frames that are finds on to another sink, and closes it."""

    def __init__(self, sink: Sink, share: float = 0.0) -> None:
        """A find is a frame with crack pixels that make up at least `share` (0..1) of it. Raises SpecError."""
        self._sink = sink
        self._share = check_share(share)

    def write(self, frame: Frame, detection: Detection) -> None:
        """Pass on a find; raises what the other sink raises."""
        if is_find(detection.crack_share, self._share):
            self._sink.write(frame, detection)

    def close(self) -> None:
        """Close the other sink."""
        self._sink.__exit__()


def is_find(crack_share: float, least: float) -> bool:
    """Whether crack makes up at least the share `least` of the frame, and at least one pixel."""
    return 0 < crack_share >= least


def check_share(share: float) -> float:
    """Return `share`. Raises SpecError unless it is in 0..1."""
    if not 0 <= share <= 1:
        raise SpecError(f"a share of crack is between 0 and 1, got {share!r}")
    return share


class _Piece(NamedTuple):
    """An encoded frame."""

    time: float
    is_key: bool
    data: bytes


class _Watch(Closing):
    """The frames of one source, encoded once: buffered for a while, or written to a clip around a find."""

    def __init__(self, folder: Path, rate: float, roll: float, longest: float, room: Room | None) -> None:
        self._folder, self._rate, self._roll, self._longest, self._room = folder, rate, roll, longest, room
        self._encoder: VideoEncoder | None = None
        self._encoded = _Fragments(folder)
        self._size: tuple[int, ...] = ()
        self._clock, self._now = Clock(rate), 0.0
        self._under_way: deque[tuple[float, bool]] = deque()  # (time, is key frame) of frames still in the encoder
        self._past: deque[list[_Piece]] = deque()  # groups of pictures, each from a key frame up to the next
        self._clip: _Clip | None = None
        self._begun, self._until = 0.0, -math.inf  # of the current clip
        self._image = _BestImage(folder)

    def write(self, frame: Frame, detection: Detection, found: bool) -> None:
        before, self._now = self._now, self._clock.of(frame)
        now = self._now
        if now - before > self._roll:  # the camera was away: earlier frames do not belong to the next find
            self._finish()
        self._encode(detection.plot(frame.image), now, found)
        if found:
            self._until = now + self._roll
        if self._clip is None and now <= self._until:
            self._begin(frame.index, now)
        self._image.see(frame, now, detection.crack_share if found else 0.0)

    def _encode(self, image: NDArray[np.uint8], now: float, found: bool) -> None:
        if self._encoder is None or image.shape != self._size:
            self._finish()
            self._encoded, self._size = _Fragments(self._folder), image.shape
            self._encoder = VideoEncoder(self._encoded, self._rate)
        # The frames after a clip begin with a key frame, since another clip may begin there.
        is_over = self._clip is not None and (now - self._begun >= self._longest or (now > self._until and not found))
        self._under_way.append((now, self._encoder.write(image, now, key=is_over)))
        self._take()
        if is_over:
            self._end()

    def _take(self) -> None:
        """Write or buffer the fragments that the encoder has finished: all frames but the last."""
        while self._encoded.done:
            piece = _Piece(*self._under_way.popleft(), self._encoded.done.popleft())
            if self._clip:
                self._clip.add(piece)
            elif piece.is_key or not self._past:
                self._past.append([piece])
            else:
                self._past[-1].append(piece)
            while len(self._past) > 1 and self._past[0][-1].time < piece.time - self._roll:
                self._past.popleft()

    def _begin(self, index: int, now: float) -> None:
        path = self._folder / f"{index:06d}.mp4"
        path = numbered(path, 1 + last_of(path))  # keeps the clip of a run that was killed
        if self._room:
            self._room.take(path)
        self._clip, self._begun = _Clip(path, self._encoded.head), now
        for piece in (piece for group in self._past for piece in group):
            self._clip.add(piece)
        self._past.clear()

    def _end(self) -> None:
        clip, self._clip = self._clip, None
        if clip:
            if self._room:
                self._room.let_go(clip.path)
            clip.close()

    def _finish(self) -> None:
        """Close the encoder and the current clip."""
        encoder, self._encoder = self._encoder, None
        try:
            if encoder:
                encoder.close()
                self._take()
        finally:
            self._end()
        self._past.clear()
        self._under_way.clear()

    def close(self) -> None:
        try:
            self._finish()
        finally:
            self._image.close()


class _Clip(Closing):
    """An MP4 file of fragments, with their times shifted to start at 0."""

    def __init__(self, path: Path, head: bytes) -> None:
        self.path = path
        self._head = head
        self._file = DurableFile(path, anew=True)
        self._start: int | None = None

    def add(self, piece: _Piece) -> None:
        place = piece.data.index(b"tfdt") + 8  # 64 bits: decode time of the fragment
        shown = int.from_bytes(piece.data[place : place + 8], "big")
        self._start = shown if self._start is None else self._start
        data = piece.data[:place] + (shown - self._start).to_bytes(8, "big") + piece.data[place + 8 :]
        head, self._head = self._head, b""
        self._file.write(head + data)

    def close(self) -> None:
        self._file.close()


class _Fragments:
    """Splits an MP4 stream into fragments as it is written.

    Attributes:
        head: the header ("ftyp" and "moov") with which each file of fragments begins.
        done: the complete fragments, each a "moof" and an "mdat".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = b""
        self.done: deque[bytes] = deque()
        self._open = bytearray()
        self._moof = b""

    def write(self, data: bytes) -> int:
        self._open += data
        while len(self._open) >= 8 and len(self._open) >= (size := int.from_bytes(self._open[:4], "big")):
            box = bytes(self._open[:size])
            del self._open[:size]
            if box[4:8] in (b"ftyp", b"moov"):
                self.head += box
            elif box[4:8] == b"moof":
                self._moof = box
            elif box[4:8] == b"mdat":
                self.done.append(self._moof + box)
        return len(data)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class _BestImage(Closing):
    """Writes the frame with the most crack pixels of each second of a find."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._best: tuple[float, Frame] | None = None
        self._due = 0.0

    def see(self, frame: Frame, now: float, share: float) -> None:
        if self._best and now >= self._due:
            self.close()
        if not share:
            return
        if self._best is None:
            self._due = now + _IMAGE_EVERY
        if self._best is None or share > self._best[0]:
            self._best = share, frame

    def close(self) -> None:
        best, self._best = self._best, None
        if best:
            frame = best[1]
            write_image(self._folder / f"{frame.index:06d}.jpg", np.ascontiguousarray(frame.image[:, :, :3]))
