"""Streaming frames through a model file: numpy, OpenCV and one inference library, never torch."""

from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.backends.engine import open_engine
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.detector import CrackDetector
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.sinks import JsonLines, MaskImages, OverlayImages, OverlayVideo, Sink
from edgecrack.runtime.sources import Source, every_nth, open_source
from edgecrack.runtime.video import VideoWriter

__all__ = [
    "Backend",
    "CrackDetector",
    "Detection",
    "Frame",
    "JsonLines",
    "MaskImages",
    "OverlayImages",
    "OverlayVideo",
    "Sink",
    "Source",
    "VideoWriter",
    "every_nth",
    "open_backend",
    "open_engine",
    "open_source",
]
