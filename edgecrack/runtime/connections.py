"""Connections to cameras: RTSP and its kin through PyAV, V4L2 and GStreamer through OpenCV, raw pictures from a pipe."""

from __future__ import annotations

import logging
import os
import re
import select
import shlex
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import MissingDependency, SourceError, SpecError
from edgecrack.runtime.address import check_url, redacted, scheme_of
from edgecrack.runtime.camera import Camera, Connection, Refused
from edgecrack.runtime.gstreamer import GstConnection, has_pygobject, pipeline_of
from edgecrack.runtime.live import LiveSource
from edgecrack.runtime.options import SourceOptions
from edgecrack.spec import FrameSpec

if TYPE_CHECKING:
    from av import Packet, VideoFrame

_log = logging.getLogger("edgecrack")
NETWORK = {"rtsp", "rtsps", "http", "https", "udp", "rtmp", "rtmps", "srt"}
SCHEMES = NETWORK | {"v4l2", "csi", "gst", "raw"}
_SILENT = "nothing came within the time-out"
_MENDED = 2.0  # seconds
_LOOKED_AT = 10  # packets at the beginning of a stream
_ALWAYS = {"flip", "drop", "max_reconnects"}
_ASKED = {"size", "rate"}
_WAYS = {"v4l2": "OpenCV's V4L2", "raw": "a pipe"}

# OpenCV waits ten seconds for a V4L2 camera that is silent; it reads this when the camera is opened.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")


def open_camera(source: str, options: SourceOptions) -> LiveSource:
    """The camera that `source` names, not connected yet; it is when it is iterated.

    Raises MissingDependency or SourceError when this machine cannot read such a source at all, SpecError for an option
    that it does not take.
    """
    scheme = _check(source, options)
    connect: Callable[[], Connection]
    rate = options.rate
    if scheme == "v4l2":
        connect = partial(_open_v4l2, source, options)
    elif scheme in ("csi", "gst"):
        _check_gstreamer(scheme)
        connect = partial(_open_gstreamer, pipeline_of(source, options), options.timeout)
    elif scheme == "raw":
        size, rate = raw_format(source)
        connect = partial(PipeConnection, size)
    else:
        _check_network(scheme)
        connect = partial(NetworkConnection, source, options.timeout)
    return LiveSource(Camera(redacted(source), connect, options, rate=rate))


class NetworkConnection:
    """A stream on the network, through PyAV, which has time-outs, says why it failed and follows a change of size."""

    def __init__(self, url: str, timeout: float) -> None:
        """Raises SourceError, without the URL, when there is no stream within `timeout` seconds twice.

        Refused is raised for a wrong user name or password: cameras lock out those who try them often.
        """
        import av

        failure: SourceError | None = None
        try:
            self._file = av.open(url, timeout=timeout, options=_network_options(url, timeout))
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError):
            failure = Refused(
                "it refuses the user name or the password, as in ://USER:PASSWORD@HOST, with %2F for a / in them"
            )
        except (av.error.FFmpegError, OSError) as error:
            failure = SourceError(f"cannot connect: {_reason(error)}")
        if failure:  # outside of the handler: the error of PyAV holds the URL
            raise failure
        try:
            self._check(url)
        except SourceError:
            self._file.close()
            raise
        self._timeout = timeout
        self._pictures = self._decode()

    def read(self) -> NDArray[np.uint8] | None:
        """See `Connection`."""
        import av

        reason, begun = "", time.monotonic()
        try:
            picture = next(self._pictures)
            if time.monotonic() - begun < self._timeout:
                return picture
            reason = _SILENT  # FFmpeg hands out a remainder when its time is over: as old as the silence
        except StopIteration:
            reason = "the stream ended"
        except (av.error.FFmpegError, OSError) as error:
            reason = _reason(error)
        raise SourceError(reason)

    def close(self) -> None:
        """See `Connection`."""
        self._pictures.close()
        self._file.close()

    def _check(self, url: str) -> None:
        if not self._file.streams.video:
            raise SourceError("the stream holds no video")
        if url.startswith("http") and self._file.duration:
            seconds = self._file.duration / 1e6
            raise Refused(f"it is a file of {seconds:.0f} s and no camera; download it first")

    def _decode(self) -> Generator[NDArray[np.uint8] | None, None, None]:
        import av
        from av.video.reformatter import VideoReformatter

        stream = self._file.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads would hold frames back
        convert = VideoReformatter()  # kept: it is set up anew only when the size changes
        smears = _Smears()
        for packet in _whole(self._file.demux(stream)):
            smeared = smears.has(packet)
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.InvalidDataError:
                yield None
                continue
            for frame in frames:
                yield None if smeared or frame.is_corrupt else _bgr(convert.reformat(frame, format="bgr24"))


class _Smears:
    """Which pictures are smeared: after a loss all up to a key frame, which the decoder does not say of them.

    The packet that is said to be corrupt may be the one before. A stream without key frames mends itself bit by bit, and is
    trusted again after a while.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._packets = 0  # since the loss

    def has(self, packet: Packet[Any]) -> bool:
        self._packets += 1
        if packet.is_corrupt:
            self._since, self._packets = time.monotonic(), 0
        elif self._since is not None and (
            (packet.is_keyframe and self._packets > 1) or time.monotonic() > self._since + _MENDED
        ):
            self._since = None
        return self._since is not None


def _whole(packets: Iterable[Packet[Any]]) -> Iterator[Packet[Any]]:
    """The packets, where those of one picture are put together.

    FFmpeg cuts a key frame at the decoder's parameters, which some cameras send before each slice of it, and would make up
    the rest of each part. That is seen at the first key frame, with which a stream begins. Only a stream that does so is
    held back, until the next picture begins.
    """
    import av

    held: Packet[Any] | None = None
    parts = 0
    for count, packet in enumerate(packets):
        if held is not None and _is_one_picture(held, packet):
            joined, parts = av.Packet(bytes(held) + bytes(packet)), parts + 1
            joined.pts, joined.is_keyframe = packet.pts, packet.is_keyframe
            held = joined
        else:
            if held is not None:
                yield held
            held = packet
        if not parts and count >= _LOOKED_AT:
            yield held
            held = None
    if held is not None:
        yield held


def _is_one_picture(first: Packet[Any], second: Packet[Any]) -> bool:
    if first.pts is None:  # the first of a stream has no time yet
        return bool(first.size and second.size and first.is_keyframe and second.is_keyframe)
    return first.pts == second.pts


def _bgr(picture: VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(picture.to_ndarray(), np.uint8)


def _network_options(url: str, timeout: float) -> dict[str, str]:
    microseconds = str(round(1e6 * timeout))
    found_out_in = {"analyzeduration": "1000000"}  # what the stream holds; FFmpeg takes up to five seconds of it
    if url.lower().startswith("rtsp"):
        # Over TCP: a lost packet of UDP smears the picture, and smears look like cracks.
        return {**found_out_in, "rtsp_transport": "tcp", "timeout": microseconds}
    if url.lower().startswith("udp"):
        return {**found_out_in, "overrun_nonfatal": "1", "fifo_size": "50000"}
    return {**found_out_in, "rw_timeout": microseconds}


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.error.ExitError):  # how FFmpeg calls that its caller's time is over
        return _SILENT
    if isinstance(error, av.error.EOFError):
        return "the stream ended"
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _check_network(scheme: str) -> None:
    try:
        import av
    except ImportError as error:
        raise MissingDependency(f"reading {scheme}:// needs PyAV; pip install edgecrack[video]") from error
    if scheme != "srt":
        return  # every FFmpeg has the others
    try:
        av.open("srt://127.0.0.1:1?connect_timeout=1", timeout=0.1).close()
    except av.error.ProtocolNotFoundError:
        missing = True
    except (av.error.FFmpegError, OSError):
        missing = False
    if missing:
        raise SourceError(
            "this PyAV was built without SRT; build PyAV against an FFmpeg that has it, or use gst: with srtsrc"
        )


class OpenCvConnection:
    """What OpenCV reads: a V4L2 camera or a GStreamer pipeline."""

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


def _open_v4l2(source: str, options: SourceOptions) -> OpenCvConnection:
    device = f"/dev/video{source}" if source.isdigit() else source
    if not os.path.exists(device):  # noqa: PTH110 (a device, and OpenCV would write about it to stderr)
        raise SourceError(f"there is no {device}")
    asked = []
    if options.codec:
        asked += [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.codec)]
    if options.size:
        asked += [cv2.CAP_PROP_FRAME_WIDTH, options.size.width, cv2.CAP_PROP_FRAME_HEIGHT, options.size.height]
    if options.rate:
        asked += [cv2.CAP_PROP_FPS, round(options.rate)]
    # Two buffers: with OpenCV's four the frame that is read is up to four intervals old.
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
    """How the camera that `source` names would be read: a command to try its pipeline with, else a line of words.

    Without passwords. Raises SpecError for an address, a format or an option that cannot be.
    """
    scheme = _check(source, options)
    if scheme in ("csi", "gst"):
        parts = redacted(pipeline_of(source, options)).split()
        command = " ".join(["gst-launch-1.0", *(part if '"' in part else shlex.quote(part) for part in parts)])
        here = has_pygobject() or has_gstreamer()
        return command if here else f"{command}  # not from here: neither this Python nor its OpenCV has GStreamer"
    return f"{redacted(source)} through {'PyAV' if scheme in NETWORK else _WAYS[scheme]}"


def _check(source: str, options: SourceOptions) -> str:
    """The scheme of `source`; SpecError where it or an option cannot be."""
    scheme = scheme_of(source)
    allowed = {"v4l2": _ASKED | {"codec"}, "csi": _ASKED}.get(scheme, set())
    options.check(scheme, allowed | _ALWAYS)
    if scheme in NETWORK:
        check_url(source)
    elif scheme == "raw":
        raw_format(source)
    return scheme


def _check_gstreamer(scheme: str) -> None:
    if not has_pygobject() and not has_gstreamer():
        raise SourceError(
            f"{scheme}: sources need PyGObject or an OpenCV with GStreamer, and this one ({cv2.__version__}, {cv2.__file__}) "
            "has none; Debian's python3-gi and python3-gst-1.0 and JetPack's OpenCV have it: use them in a venv with "
            "--system-site-packages"
        )


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer."""
    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


class PipeConnection:
    """Raw pictures from a pipe, by default standard input: each height x width x 3 bytes, BGR, row by row."""

    def __init__(self, size: FrameSpec, descriptor: int = 0) -> None:
        """Raises SourceError when standard input is a terminal."""
        if os.isatty(descriptor):
            raise SourceError("standard input is a terminal; pipe raw BGR pictures into it")
        self._shape = (size.height, size.width, 3)
        self._descriptor = descriptor
        self._begin()

    def read(self) -> NDArray[np.uint8] | None:
        """See `Connection`."""
        while self._filled < self._image.size:
            if not select.select([self._descriptor], [], [], 0.2)[0]:
                raise TimeoutError
            count = os.readv(self._descriptor, [self._image.data.cast("B")[self._filled :]])
            if not count:
                self._check_end()
                return None
            self._filled += count
        image = self._image
        self._begin()
        return image

    def close(self) -> None:
        """Leaves the pipe open: it is the process's."""

    def _begin(self) -> None:
        self._image = np.empty(self._shape, np.uint8)
        self._filled = 0

    def _check_end(self) -> None:
        if not self._filled:
            raise EOFError
        _log.warning("the raw pictures end after %d of the %d bytes of one", self._filled, self._image.size)
        self._begin()


def raw_format(source: str) -> tuple[FrameSpec, float | None]:
    """Size and rate of `raw:1920x1080@30` or `raw:1920x1080`; SpecError for anything else."""
    match = re.fullmatch(r"raw:(\d{1,5})x(\d{1,5})(?:@(\d+(?:\.\d+)?))?", source)
    if not match or not (int(match[1]) and int(match[2])) or (match[3] and not 0.01 <= float(match[3]) <= 1000):
        raise SpecError(f"raw pictures are given as raw:WIDTHxHEIGHT@RATE, such as raw:1920x1080@30, got {source!r}")
    return FrameSpec(int(match[2]), int(match[1])), float(match[3]) if match[3] else None
