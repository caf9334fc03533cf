"""Opens cameras by name, and connects to those that are not network cameras: V4L2, GStreamer, a pipe."""

from __future__ import annotations

import logging
import os
import re
import select
import shlex
import sys
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime import network
from edgecrack.runtime.address import check_url, redacted, scheme_of
from edgecrack.runtime.camera import Camera, Connection, Refused
from edgecrack.runtime.gstreamer import GstConnection, has_pygobject, pipeline_of
from edgecrack.runtime.live import LiveSource
from edgecrack.runtime.options import SourceOptions
from edgecrack.spec import FrameSpec

_log = logging.getLogger("edgecrack")
SCHEMES = network.SCHEMES | {"v4l2", "csi", "gst", "raw"}
_ALWAYS = {"flip", "drop", "max_reconnects"}
_ASKED = {"size", "rate"}
_LARGEST = 1 << 28  # pixels of a raw picture
_WAYS = {"v4l2": "OpenCV's V4L2", "raw": "a pipe"}

# By default OpenCV waits ten seconds for a silent V4L2 camera; it reads this when the camera is opened.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")


def open_camera(source: str, options: SourceOptions) -> LiveSource:
    """Make a source for the camera named `source`; it connects on iteration.

    Raises MissingDependency or SourceError when this machine cannot read such a source at all, SpecError for an option
    that the source does not support.
    """
    scheme = _check(source, options)
    connect: Callable[[], Connection]
    rate = options.rate
    if scheme == "v4l2":
        connect = partial(_open_v4l2, source, options)
    elif _is_pipeline(scheme):
        _check_gstreamer(scheme)
        connect = partial(_open_gstreamer, pipeline_of(source, options), options.timeout)
    elif scheme == "raw":
        size, rate = raw_format(source)
        connect = partial(PipeConnection, size)
    else:
        network.check_library(scheme)
        connect = partial(network.NetworkConnection, source, options.timeout)
    return LiveSource(Camera(redacted(source), connect, options, rate=rate))


class OpenCvConnection:
    """A connection through OpenCV: a V4L2 camera or a GStreamer pipeline."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        """Take over an open `capture`."""
        self._capture = capture

    def read(self) -> NDArray[np.uint8]:
        """See `Connection`."""
        done, image = self._capture.read()
        if not done:
            raise SourceError("no more frames came")
        return np.asarray(image, np.uint8)

    def close(self) -> None:
        """See `Connection`."""
        self._capture.release()


def device_of(source: str) -> str:
    """The device file of a V4L2 camera: `0`, `/dev/video0` or, as GStreamer writes it, `v4l2:///dev/video0`."""
    return f"/dev/video{source}" if source.isdigit() else re.sub("(?i)^v4l2://", "", source)


def _open_v4l2(source: str, options: SourceOptions) -> OpenCvConnection:
    device = device_of(source)
    if not os.path.exists(device):  # noqa: PTH110 (a device; if missing, OpenCV would write to stderr)
        raise SourceError(f"there is no {device}")
    asked = []
    if options.codec:
        asked += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.codec)]
    if options.size:
        asked += [cv2.CAP_PROP_FRAME_WIDTH, options.size.width, cv2.CAP_PROP_FRAME_HEIGHT, options.size.height]
    if options.rate:
        asked += [cv2.CAP_PROP_FPS, round(options.rate)]
    # Two buffers: with OpenCV's default of four, a frame is up to four frame intervals old when read.
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2, [*asked, cv2.CAP_PROP_BUFFERSIZE, 2])
    if not capture.isOpened():
        raise SourceError(
            f"{device} cannot be opened: in use, not allowed, or without the size, rate or codec asked for"
        )
    return OpenCvConnection(capture)


def _open_gstreamer(pipeline: str, timeout: float) -> Connection:
    if has_pygobject():
        return GstConnection(pipeline, timeout)
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(f"the pipeline does not start; try it: gst-launch-1.0 {redacted(pipeline)}")
    return OpenCvConnection(capture)


def camera_described(source: str, options: SourceOptions) -> str:
    """Describe how the camera `source` would be read: a command to test its GStreamer pipeline, else a phrase.

    Without passwords. Raises SpecError for an invalid address, format or option.
    """
    scheme = _check(source, options)
    if _is_pipeline(scheme):
        parts = pipeline_of(redacted(source), options).split()
        command = " ".join(["gst-launch-1.0", *(part if '"' in part else shlex.quote(part) for part in parts)])
        here = has_pygobject() or has_gstreamer()
        return command if here else f"{command}  # not from here: neither this Python nor its OpenCV has GStreamer"
    return f"{redacted(source)} through {'PyAV' if scheme in network.SCHEMES else _WAYS[scheme]}"


def _check(source: str, options: SourceOptions) -> str:
    """Return the scheme of `source`. Raises SpecError if it or an option is invalid."""
    scheme = scheme_of(source)
    allowed = {"v4l2": _ASKED | {"codec"}, "csi": _ASKED}.get(scheme, set())
    options.check(scheme, allowed | _ALWAYS)
    if scheme in network.SCHEMES:
        check_url(source)
    elif scheme == "raw":
        raw_format(source)
    return scheme


def _is_pipeline(scheme: str) -> bool:
    """Whether a source of this scheme is read through GStreamer."""
    return scheme in ("csi", "gst") or (scheme == "srt" and not network.has_srt())


def _check_gstreamer(scheme: str) -> None:
    if not has_pygobject() and not has_gstreamer():
        another = "a PyAV built with SRT, " if scheme == "srt" else ""
        raise SourceError(
            f"{scheme}: sources need {another}PyGObject or an OpenCV with GStreamer, and this one ({cv2.__version__}, "
            f"{cv2.__file__}) has none; Debian's python3-gi and python3-gst-1.0 and JetPack's OpenCV have it: use them in "
            "a venv with --system-site-packages"
        )


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


class PipeConnection:
    """Raw images from a pipe, by default standard input: each height x width x 3 bytes, BGR, row by row."""

    def __init__(self, size: FrameSpec, descriptor: int = 0) -> None:
        """Raises Refused when `descriptor` is a terminal, or standard input is closed."""
        if os.isatty(descriptor) or (descriptor == 0 and sys.stdin is None):
            what = "a terminal" if sys.stdin else "closed"
            raise Refused(f"standard input is {what}; pipe raw BGR pictures into it")
        self._shape = (size.height, size.width, 3)
        self._descriptor = descriptor
        self._begin()

    @property
    def ready(self) -> bool:
        """Whether there is something to read, even if only the end of the pipe."""
        return self._filled > 0 or self._has_bytes(0)

    def read(self) -> NDArray[np.uint8] | None:
        """See `Connection`."""
        while self._filled < self._image.size:
            try:
                ready = self._has_bytes(0.2)
                count = os.readv(self._descriptor, [self._image.data.cast("B")[self._filled :]]) if ready else None
            except OSError as error:
                raise SourceError(f"standard input cannot be read: {error.strerror or error}") from error
            if count is None:
                raise TimeoutError
            if not count:
                self._check_end()
                return None
            self._filled += count
        image = self._image
        self._begin()
        return image

    def close(self) -> None:
        """Do nothing: the pipe belongs to the process."""

    def _has_bytes(self, seconds: float) -> bool:
        return bool(select.select([self._descriptor], [], [], seconds)[0])

    def _begin(self) -> None:
        self._image = np.empty(self._shape, np.uint8)
        self._filled = 0

    def _check_end(self) -> None:
        if not self._filled:
            raise EOFError
        _log.warning("the raw pictures end after %d of the %d bytes of one", self._filled, self._image.size)
        self._begin()


def raw_format(source: str) -> tuple[FrameSpec, float | None]:
    """Parse `raw:1920x1080@30` or `raw:1920x1080` into size and rate. Raises SpecError for anything else."""
    match = re.fullmatch(r"raw:(\d{1,5})x(\d{1,5})(?:@(\d+(?:\.\d+)?))?", source)
    if not match or not (int(match[1]) and int(match[2])) or (match[3] and not 0.01 <= float(match[3]) <= 1000):
        raise SpecError(f"raw pictures are given as raw:WIDTHxHEIGHT@RATE, such as raw:1920x1080@30, got {source!r}")
    if int(match[1]) * int(match[2]) > _LARGEST:
        raise SpecError(f"raw pictures have at most {_LARGEST} pixels, got {source}")
    return FrameSpec(int(match[2]), int(match[1])), float(match[3]) if match[3] else None
