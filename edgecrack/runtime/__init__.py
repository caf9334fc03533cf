"""Runs a model file on streams of frames: needs numpy, OpenCV and one inference library, never torch."""

from edgecrack.errors import BROUGHT_BY_JETSONS, MissingDependency

try:
    import cv2  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependency(f"cv2 is not installed; pip install 'edgecrack[cpu]'{BROUGHT_BY_JETSONS}") from error

from edgecrack.runtime.account import Account
from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.backends.engine import open_engine
from edgecrack.runtime.camera import Camera, Event
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.detector import CrackDetector
from edgecrack.runtime.evidence import Evidence
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.live import LiveSource
from edgecrack.runtime.log import JsonLines
from edgecrack.runtime.options import SourceOptions
from edgecrack.runtime.recording import OverlayVideo
from edgecrack.runtime.sinks import MaskImages, OverlayImages, Sink, Sinks
from edgecrack.runtime.sources import AnySource, CountedSource, Source, open_source
from edgecrack.runtime.video import VideoWriter

__all__ = [
    "Account",
    "AnySource",
    "Backend",
    "Camera",
    "CountedSource",
    "CrackDetector",
    "Detection",
    "Event",
    "Evidence",
    "Frame",
    "JsonLines",
    "LiveSource",
    "MaskImages",
    "OverlayImages",
    "OverlayVideo",
    "Sink",
    "Sinks",
    "Source",
    "SourceOptions",
    "VideoWriter",
    "open_backend",
    "open_engine",
    "open_source",
]
