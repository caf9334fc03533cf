"""Streaming frames through a model file: numpy, OpenCV and one inference library, never torch."""

from edgecrack.runtime.account import Account
from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.backends.engine import open_engine
from edgecrack.runtime.camera import Camera
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.detector import CrackDetector
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.live import Event, LiveSource
from edgecrack.runtime.options import SourceOptions
from edgecrack.runtime.sinks import JsonLines, MaskImages, OverlayImages, OverlayVideo, Sink
from edgecrack.runtime.sources import Source, open_source
from edgecrack.runtime.video import VideoWriter

__all__ = [
    "Account",
    "Backend",
    "Camera",
    "CrackDetector",
    "Detection",
    "Event",
    "Frame",
    "JsonLines",
    "LiveSource",
    "MaskImages",
    "OverlayImages",
    "OverlayVideo",
    "Sink",
    "Source",
    "SourceOptions",
    "VideoWriter",
    "open_backend",
    "open_engine",
    "open_source",
]
