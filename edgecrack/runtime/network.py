"""Network cameras through PyAV, with checks for corrupt images that FFmpeg does not report."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from functools import cache
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import MissingDependency, SourceError
from edgecrack.images import is_cut_jpeg
from edgecrack.runtime.camera import Refused

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.video.stream import VideoStream

SCHEMES = {"rtsp", "rtsps", "http", "https", "udp", "rtmp", "rtmps", "srt"}
_SILENT = "nothing came within the time-out"
_MENDED = 2.0  # seconds after a loss until a stream without key frames is trusted again
_BLIND = 30.0  # seconds without a picture, the longest pause between key frames, until a camera counts as lost
_MOST_PARTS = 32  # maximum number of packets per image
_LOOKED_AT = 10  # packets examined at the beginning of a stream


class NetworkConnection:
    """A network stream through PyAV, which has time-outs, reports why it failed and follows a change of frame size."""

    def __init__(self, url: str, timeout: float) -> None:
        """Raises SourceError, without the URL, if no stream opens within two time-outs of `timeout` seconds each.

        Raises Refused for a wrong user name or password: cameras lock out clients that retry them often.
        """
        import av

        scheme, colon, rest = url.partition(":")
        url = scheme.lower() + colon + rest  # FFmpeg does not accept RTSP://
        failure: SourceError | None = None
        try:
            self._file = av.open(
                url, timeout=timeout, options=_network_options(url, timeout), metadata_errors="replace"
            )
        except av.error.HTTPUnauthorizedError:  # but not 403, which is temporary: locked out for a while, or busy
            failure = Refused(
                "it refuses the user name or the password, as in ://USER:PASSWORD@HOST, with %2F for a / in them"
            )
        except (av.error.FFmpegError, OSError) as error:
            failure = SourceError(f"cannot connect: {_reason(error)}")
        if failure:  # outside the handler, so that PyAV's error, which contains the URL, is not chained
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
        except StopIteration:
            reason = "the stream ended"
        except SourceError:
            raise
        except (av.error.FFmpegError, OSError) as error:
            reason = _reason(error)
        if reason:
            raise SourceError(reason)
        if picture is ...:
            raise TimeoutError
        # On a time-out FFmpeg outputs a leftover frame, as old as the silence.
        if time.monotonic() - begun >= self._timeout:
            raise SourceError(_SILENT)
        return picture

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

    def _decode(self) -> Generator[NDArray[np.uint8] | EllipsisType | None, None, None]:
        """Yield each picture, None for a damaged one, and ... when packets have made no picture for the time-out."""
        import av
        from av.video.reformatter import VideoReformatter

        stream = self._file.streams.video[0]
        stream.thread_type = "SLICE"  # frame threading would delay frames
        convert = VideoReformatter()  # reused: it reinitialises only when the size changes
        smears, has_ends = _Smears(), False
        answered = pictured = time.monotonic()
        for packet in _whole(self._of_picture(stream)):
            smeared, frames = smears.has(packet), []
            if stream.codec_context.name == "mjpeg" and packet.size:
                is_cut = is_cut_jpeg(bytes(packet))
                has_ends |= not is_cut
                smeared |= is_cut and has_ends  # FFmpeg leaves the previous picture in the missing rest
            try:
                frames = stream.codec_context.decode(packet)
            except av.error.InvalidDataError:
                smears.begin()
                yield None
                answered = pictured = time.monotonic()
            for frame in frames:
                if frame.is_corrupt and not smeared:  # its successors, which refer to it, are not flagged
                    smears.begin()
                    smeared = True
                yield None if smeared else _bgr(convert.reformat(frame, format="bgr24"))
                answered = pictured = time.monotonic()
            if time.monotonic() - answered > self._timeout:
                if time.monotonic() - pictured > _BLIND:
                    raise SourceError("its packets make no picture")
                yield ...
                answered = time.monotonic()

    def _of_picture(self, stream: VideoStream) -> Iterator[Packet[Any]]:
        """Yield the packets of `stream`. Raises SourceError if none came within the time-out, despite other packets.

        A camera whose video froze may still send audio, and PyAV, demuxing video alone, would wait forever.
        """
        came = time.monotonic()
        for packet in self._file.demux():
            if packet.stream_index == stream.index:
                yield packet
                came = time.monotonic()
            elif time.monotonic() - came > self._timeout:
                raise SourceError(_SILENT)


class _Smears:
    """Detects smeared images: after a loss, all up to the next key frame, although the decoder does not flag them.

    The packet flagged as corrupt may be the one before the damaged one. A stream without key frames recovers gradually,
    and is trusted again after a while.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._packets = 0  # packets since the loss

    def begin(self) -> None:
        """The decoder flagged what it made of the last packet, so that the next key frame ends the smear."""
        self._since, self._packets = time.monotonic(), 1

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
    """Yield the packets, with those that belong to one image joined.

    FFmpeg splits a key frame at its parameter sets, which some cameras send before every slice, and would then conceal
    the missing rest of each part. This shows at the first key frame, with which a stream begins. Only such a stream is
    delayed, each image until the next one begins.
    """
    import av

    packets = iter(packets)
    held: Packet[Any] | None = None
    parts, is_cut = 0, False
    for count, packet in enumerate(packets):
        if held is not None and _is_one_picture(held, packet):
            joined, parts, is_cut = av.Packet(bytes(held) + bytes(packet)), parts + 1, True
            joined.pts, joined.is_keyframe = packet.pts, packet.is_keyframe
            held = joined
        else:
            if held is not None:
                yield held
            held, parts = packet, 0
        if parts == _MOST_PARTS:  # only key frames, with no timestamps or equal ones: images, not parts of one
            yield from packets
            return
        if not is_cut and count >= _LOOKED_AT:
            yield held
            held = None
    if held is not None:
        yield held


def _is_one_picture(first: Packet[Any], second: Packet[Any]) -> bool:
    if first.pts is None:  # the first packet of a stream has no timestamp yet
        return bool(first.size and second.size and first.is_keyframe and second.is_keyframe)
    return first.pts == second.pts


def _bgr(picture: VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(picture.to_ndarray(), np.uint8)


def _network_options(url: str, timeout: float) -> dict[str, str]:
    microseconds = str(round(1e6 * timeout))
    found_out_in = {"analyzeduration": "1000000"}  # microseconds to probe the stream; FFmpeg takes up to 5 s
    if url.startswith("rtsp"):
        # Over TCP: a lost UDP packet smears the image, and smears look like cracks.
        return {**found_out_in, "rtsp_transport": "tcp", "timeout": microseconds}
    if url.startswith("udp"):
        return {**found_out_in, "overrun_nonfatal": "1", "fifo_size": "50000"}
    return {**found_out_in, "rw_timeout": microseconds}


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.error.ExitError):  # FFmpeg's error when the caller's time-out expires
        return _SILENT
    if isinstance(error, av.error.EOFError):
        return "the stream ended"
    return str(getattr(error, "strerror", None) or type(error).__name__)


def check_library(scheme: str) -> None:
    """Raise MissingDependency if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"reading {scheme}:// needs PyAV; pip install 'edgecrack[video]'") from error


@cache
def has_srt() -> bool:
    """Whether PyAV is installed with SRT, which the wheels on PyPI lack; all builds have the other schemes."""
    try:
        import av
    except ImportError:
        return False
    try:
        av.open("srt://127.0.0.1:1?connect_timeout=1", timeout=0.1).close()
    except av.error.ProtocolNotFoundError:
        return False
    except (av.error.FFmpegError, OSError):
        pass
    return True
