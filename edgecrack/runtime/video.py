"""Writing H.264 that a browser plays and that stays readable when the process dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import MissingDependency, SourceError, SpecError
from edgecrack.runtime.closing import Closing
from edgecrack.spec import FrameSpec, check_frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoWriter(Closing):
    """H.264 (yuv420p) in a fragmented MP4, about one fragment a second: all but the last one survives the process.

    Sides that are odd grow by one pixel, as the format wants them even.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float, *, quality: int = 23) -> None:
        """`rate` in frames a second; `quality` is x264's CRF, 0 (lossless) to 51.

        Raises MissingDependency without PyAV, SourceError when the file cannot be written, SpecError for a rate that
        cannot be.
        """
        if not 0.01 <= rate <= 1000:
            raise SpecError(f"a frame rate is between 0.01 and 1000 a second, got {rate!r}")
        self.path = Path(path)
        self._rate = Fraction(rate).limit_denominator(1001)  # 30000/1001, as cameras count
        self._quality = quality
        self._frame: FrameSpec | None = None
        self._stream: VideoStream | None = None
        self._file: OutputContainer | None
        self._file, self._disk = _open(self.path)

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add uint8 (H, W, 3) BGR, of the same size as the first.

        Raises FrameError for another size or type, SourceError when it cannot be written.
        """
        check_frame(image)
        if self._file is None:
            raise SourceError(f"cannot write {self.path}: it is closed")
        if self._stream is None or self._frame is None:
            self._frame = FrameSpec(*image.shape[:2])
            self._stream = self._start(self._file, self._frame)
        self._frame.check(image)
        with self._writing(self._file):
            self._file.mux(self._stream.encode(_picture(image)))
            self._disk.flush()

    def close(self) -> None:
        """Finish the file; a second call does nothing. Raises SourceError when its end cannot be written."""
        file, self._file = self._file, None
        if file is None:
            return
        with self._writing(file):
            if self._stream:
                file.mux(self._stream.encode(None))
            file.close()
            self._disk.close()

    def _start(self, file: OutputContainer, frame: FrameSpec) -> VideoStream:
        # zerolatency: no frames held back, so that what was given is soon in the file.
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(self._quality)}
        stream = file.add_stream("libx264", rate=self._rate, options=options)
        stream.height, stream.width = frame.height + frame.height % 2, frame.width + frame.width % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = max(1, round(self._rate))
        return stream

    @contextmanager
    def _writing(self, file: OutputContainer) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None  # the fragments so far are whole; nothing can follow them
            for end in (file, self._disk):
                with suppress(OSError):
                    end.close()
            raise SourceError(f"cannot write {self.path}: {error.strerror or error}") from error


def _open(path: Path) -> tuple[OutputContainer, BinaryIO]:
    try:
        import av
    except ImportError as error:
        raise MissingDependency("writing a video needs PyAV; pip install edgecrack[video]") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk = path.open("wb")  # not FFmpeg's own, which keeps silent when the last write fails
    except OSError as error:
        raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
    return av.open(disk, "w", format="mp4", options=_FRAGMENTED), disk


def _picture(image: NDArray[np.uint8]) -> VideoFrame:
    from av import VideoFrame

    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    return VideoFrame.from_ndarray(image, format="bgr24")
