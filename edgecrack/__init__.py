"""Crack segmentation for survey vehicles and drones: train, export, quantise, stream."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["CrackDetector", "Detection", "__version__"]

if TYPE_CHECKING:
    from edgecrack.runtime import CrackDetector, Detection


# ONNX Runtime sends telemetry unless this is set before it is imported: no data may leave a device unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    # Loaded on first use: `import edgecrack` must stay free of numpy, OpenCV and every backend.
    if name in ("CrackDetector", "Detection"):
        from edgecrack import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
