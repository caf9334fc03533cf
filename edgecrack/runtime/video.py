"""Writes H.264 video that browsers can play and that stays readable if the process dies or the power is cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, SupportsFloat

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import MissingDependency, SourceError, SpecError
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.disk import DurableFile, unwritable
from edgecrack.spec import FrameSpec, check_frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_TICK = Fraction(1, 90000)  # seconds; time base of frames with timestamps: usual intervals are multiples of it
_LARGEST = 1 << 22  # bytes of the largest fragment; that of a 4K frame is about 1 MB
_BOXES = {
    *b"ftyp moov mdat moof mfra free skip wide uuid udta meta sidx styp emsg prft".split()
}  # of an MP4's top level
_FRAGMENTED = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}


class Bytes(Protocol):
    """The byte stream that a video is written to."""

    path: Path

    def write(self, data: bytes) -> int:
        """Write all of `data`; returns its length. Raises OSError."""

    def close(self) -> None:
        """Finish writing. Raises OSError."""


class _Interruptible:
    """Wraps the target that PyAV writes to: PyAV propagates an Exception but swallows KeyboardInterrupt."""

    def __init__(self, target: Bytes) -> None:
        self._target = target
        self.interrupt: BaseException | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._target.write(data)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            self.interrupt = interrupt
            raise OSError("interrupted") from interrupt


class VideoEncoder(Closing):
    """Encodes H.264 (yuv420p) in MP4 with one fragment per frame, so that each is readable once the next is written.

    There is a key frame every second. Odd sides are padded by one pixel, as the format requires even ones.
    """

    def __init__(self, target: Bytes, rate: float, *, quality: int = 26, preset: str = "ultrafast") -> None:
        """Write to `target`, and close it at the end; see `VideoWriter` for the options."""
        self._rate = _check(rate, quality)
        self._options = {"preset": preset, "qp": str(quality)}  # "crf" takes 50 % longer
        self._frame: FrameSpec | None = None
        self._stream: VideoStream | None = None
        self._begun: float | None = None  # timestamp of the first frame, if frames have one
        self._last, self._key = -1, 0  # in ticks: the last frame and the last key frame
        self._target = target
        self._way = _Interruptible(target)
        self._file: OutputContainer | None = _container(self._way)

    def write(self, image: NDArray[np.uint8], time: float | None = None, *, key: bool = False) -> bool:
        """Add uint8 (H, W, 3) BGR, of the same size as the first, presented at `time` in seconds or at the frame rate.

        Returns whether it is a key frame; `key` forces one. Either all frames of a video have a `time` or none has.
        Raises FrameError for another size or type, SourceError when it cannot be written.
        """
        check_frame(image)
        if self._file is None:
            raise SourceError(f"cannot write {self._target.path}: it is closed")
        if self._stream is None or self._frame is None:
            self._frame = FrameSpec(*image.shape[:2])
            self._stream = self._start(self._file, self._frame, time)
        self._frame.check(image)
        picture = _picture(image)
        if key:
            picture.pict_type = 1  # FFmpeg's AV_PICTURE_TYPE_I
        if time is not None:
            self._place(picture, time)
        with self._writing(self._file):
            packets = self._stream.encode(picture)
            self._file.mux(packets)
        return any(packet.is_keyframe for packet in packets)

    def close(self) -> None:
        """Finalise the video; a second call does nothing. Raises SourceError when its end cannot be written."""
        file, self._file = self._file, None
        if file is None:
            return
        with self._writing(file):
            if self._stream:
                file.mux(self._stream.encode(None))
            file.close()
            self._target.close()

    def _place(self, picture: VideoFrame, time: float) -> None:
        """Set the timestamp of `picture`, and make it a key frame if the last one is a second old."""
        self._begun = time if self._begun is None else self._begun
        self._last = max(self._last + 1, round((time - self._begun) / _TICK))  # two frames cannot share a timestamp
        picture.pts, picture.time_base = self._last, _TICK
        if self._last - self._key >= 1 / _TICK:
            picture.pict_type, self._key = 1, self._last

    def _start(self, file: OutputContainer, frame: FrameSpec, time: float | None) -> VideoStream:
        # zerolatency: the encoder holds no frames back, so that they reach the file soon.
        options = {"tune": "zerolatency", "forced-idr": "1"}
        stream = file.add_stream("libx264", rate=self._rate, options=self._options | options)
        stream.height, stream.width = frame.height + frame.height % 2, frame.width + frame.width % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = max(1, round(self._rate))
        stream.codec_context.thread_count = cv2.getNumThreads()  # 1 where the net uses the cores
        if time is not None:
            stream.codec_context.time_base = _TICK
        return stream

    @contextmanager
    def _writing(self, file: OutputContainer) -> Iterator[None]:
        from av.error import FFmpegError

        try:
            yield
        except (FFmpegError, OSError) as error:  # a failing encoder raises the first, which is not an OSError
            self._file = None  # the fragments written so far are complete; nothing can follow them
            for end in (self._target, file):
                with suppress(FFmpegError, OSError):
                    end.close()
            if self._way.interrupt:
                raise self._way.interrupt from None
            if isinstance(error, SourceError):
                raise
            raise unwritable(self._target.path, error) from error


class VideoWriter(VideoEncoder):
    """Writes a `VideoEncoder` video to a file: a kill loses the last frame, a power cut also the second before it."""

    def __init__(
        self, path: str | os.PathLike[str], rate: float, *, quality: int = 26, preset: str = "ultrafast"
    ) -> None:
        """`rate` in frames per second; `quality` is x264's QP, 0 (lossless) to 51, and `preset` its trade-off between
        time and file size: "veryfast" takes three times as long as "ultrafast" and saves a third of the file.

        Raises MissingDependency without PyAV, SourceError when the file cannot be written, SpecError for an invalid
        rate or quality.
        """
        _check(rate, quality)  # before there is a file
        require_av()
        self.path = Path(path)
        super().__init__(DurableFile(path, anew=True), rate, quality=quality, preset=preset)


def mend_video(path: Path) -> bool:
    """Cut off a fragment left incomplete by a power cut; returns whether any frame is left. Raises OSError."""
    end = frames = 0
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for kind, after in _boxes(file, size):
            if kind != b"moof":
                end = after
                frames += kind == b"mdat"
        if end < size:
            file.truncate(end)
    return frames > 0


def is_cut_short(path: Path) -> bool:
    """Whether the file at `path` is an MP4 whose last box goes on behind its end; False if it cannot be read."""
    place = size = 0
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while place < size:
            file.seek(place)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:], "big") if length == 1 else length  # of over 4 GB
            if length < 8 or head[4:8] not in _BOXES or (place == 0 and head[4:8] != b"ftyp"):
                return False  # 0: up to the end of the file; no box: something that was put behind the video
            place += length
    return place > size


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield the type of each complete box of an MP4, and the offset of its end."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        place += max(8, int.from_bytes(head[:4], "big"))
        if place <= size:
            yield head[4:], place


def check_rate(rate: float) -> Fraction:
    """Convert `rate` in frames per second to a fraction, such as 30000/1001. Raises SpecError for an invalid rate."""
    if not isinstance(rate, SupportsFloat) or not 0.01 <= float(rate) <= 1000:  # network cameras report none
        raise SpecError(f"a frame rate is between 0.01 and 1000 a second, got {rate!r}")
    return Fraction(float(rate)).limit_denominator(1001)


def _check(rate: float, quality: int) -> Fraction:
    if not 0 <= quality <= 51:
        raise SpecError(f"the quality of a video is 0 (best) to 51, got {quality!r}")
    return check_rate(rate)


def require_av() -> None:
    """Raise MissingDependency if PyAV is missing or was built without x264."""
    try:
        import av
    except ImportError as error:
        raise MissingDependency("writing a video needs PyAV; pip install 'edgecrack[video]'") from error
    if "libx264" not in av.codecs_available:
        raise MissingDependency(f"this PyAV, {av.__file__}, was built without x264; its wheels have it: pip install av")


def _container(target: _Interruptible) -> OutputContainer:
    import av

    # Through our own file and not FFmpeg's, which does not report that the last write failed.
    # The buffer holds a whole fragment, so that each is written in one call and a kill leaves none incomplete.
    return av.open(target, "w", format="mp4", options=_FRAGMENTED, buffer_size=_LARGEST)


def _picture(image: NDArray[np.uint8]) -> VideoFrame:
    from av import VideoFrame

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    # Takes a third of the time of PyAV's own conversion: luma is kept per pixel, and chroma is taken from the first of
    # four pixels, not from their mean.
    planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
    # Avoid a copy where possible: PyAV's from_numpy_buffer rounds the height down to a multiple of four.
    make = VideoFrame.from_ndarray if image.shape[0] % 4 else VideoFrame.from_numpy_buffer
    return make(planes, format="yuv420p")
