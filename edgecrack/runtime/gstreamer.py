"""GStreamer pipelines through PyGObject: Jetson cameras and hardware decoders."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime.address import redacted
from edgecrack.runtime.camera import Refused
from edgecrack.runtime.options import SourceOptions

_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink sync=false drop=false max-buffers=2"


def has_pygobject() -> bool:
    """Whether this Python has the GStreamer bindings."""
    if find_spec("gi") is None:
        return False
    try:
        _gst()
    except (ImportError, ValueError):  # gi raises ValueError if GStreamer's typelib is missing
        return False
    return True


def pipeline_of(source: str, options: SourceOptions) -> str:
    """The GStreamer pipeline for `csi://N`, `srt://...` or `gst:PIPELINE`, ending in an appsink of BGR frames.

    Raises SpecError for a `csi://` without a camera number.
    """
    if source.startswith("gst:"):
        pipeline = source[len("gst:") :].removeprefix("//").strip()
        return pipeline if "appsink" in pipeline else f"{pipeline} ! {_SINK}"
    if source.lower().startswith("srt://"):
        address = source.replace("\\", r"\\").replace('"', r"\"")
        return f'srtsrc uri="{address}" ! decodebin ! {_SINK}'
    if not re.fullmatch(r"csi://\d+", source):
        raise SpecError(f"a CSI camera is csi://0, csi://1 ..., got {redacted(source)}")
    height, width = (options.size.height, options.size.width) if options.size else (1080, 1920)
    caps = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={round(options.rate or 30)}/1"
    return f"nvarguscamerasrc sensor-id={source[6:]} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx ! {_SINK}"


class GstConnection:
    """A running pipeline that, unlike one run by OpenCV, keeps our time-out and reports why it failed."""

    def __init__(self, pipeline: str, timeout: float) -> None:
        """Raises Refused for an invalid pipeline or one without an appsink, SourceError when it does not start."""
        self._gst, reason = _gst(), ""
        try:
            self._pipeline = self._gst.parse_launch(pipeline)
        except Exception as error:  # GLib.Error, which would have to be imported to be named
            reason = redacted(getattr(error, "message", type(error).__name__))
        if reason:  # outside the handler, so that GLib's error, which may contain a password, is not chained
            raise Refused(f"that is no pipeline: {reason}")
        self._sink = self._pipeline.iterate_all_by_element_factory_name("appsink").next()[1]
        if self._sink is None:
            raise Refused("the pipeline has no appsink")
        self._wait = round(timeout * self._gst.SECOND)
        if self._pipeline.set_state(self._gst.State.PLAYING) == self._gst.StateChangeReturn.FAILURE:
            failure = self._failure("the pipeline does not start: ")
            self.close()
            raise failure

    def read(self) -> NDArray[np.uint8]:
        """See `Connection`."""
        sample = self._sink.emit("try-pull-sample", self._wait)
        if sample is None:
            raise self._failure()
        return self._picture(sample)

    def close(self) -> None:
        """See `Connection`."""
        self._pipeline.set_state(self._gst.State.NULL)

    def _picture(self, sample: Any) -> NDArray[np.uint8]:
        caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        width, height, pixels = (caps.get_value(name) for name in ("width", "height", "format"))
        if pixels != "BGR":
            raise SourceError(f"the appsink gives {pixels or caps.get_name()}; wanted video/x-raw,format=BGR before it")
        done, mapped = buffer.map(self._gst.MapFlags.READ)
        if not done:
            raise SourceError("a picture of the pipeline cannot be read")
        try:
            rows = np.frombuffer(mapped.data, np.uint8).reshape(height, -1)  # rows are padded to four bytes
            return np.array(rows[:, : 3 * width].reshape(height, width, 3), np.uint8)
        finally:
            buffer.unmap(mapped)

    def _failure(self, what: str = "") -> SourceError:
        """Why no picture comes; Refused for a wrong password, as cameras lock out clients that retry them often."""
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message:
            error, resource = message.parse_error()[0], self._gst.ResourceError
            kind = Refused if error.matches(resource.quark(), resource.NOT_AUTHORIZED) else SourceError
            return kind(what + redacted(error.message))
        return SourceError(
            what + ("the stream ended" if self._sink.get_property("eos") else "nothing came within the time-out")
        )


def _gst() -> Any:
    """Import and initialise GStreamer."""
    # Load libgcc before GStreamer loads libunwind, which would handle the C++ exceptions of its plugins (SRT throws one
    # when closed) and crash at the first if Python is not the system's.
    with suppress(OSError):  # not Linux
        ctypes.CDLL("libgcc_s.so.1", ctypes.RTLD_GLOBAL)
    import gi  # type: ignore[import-not-found]

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst  # type: ignore[import-not-found]

    Gst.init(None)
    return Gst
