"""Small frames, and masks that belong to them; found through `pythonpath`."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def blobs(seed: int, height: int = 200, width: int = 260) -> tuple[Image, Mask]:
    """Grey ground with bright shapes; the shapes are the mask."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((height, width), np.uint8)
    for _ in range(4):
        points = rng.integers(0, (width, height), (5, 2)).astype(np.int32)
        cv2.fillPoly(drawn, [points], 1)
    return np.repeat(np.where(drawn, 200, 60).astype(np.uint8)[:, :, None], 3, 2), drawn > 0


def blank(height: int = 40, width: int = 40) -> tuple[Image, Mask]:
    return np.full((height, width, 3), 99, np.uint8), np.zeros((height, width), np.bool_)


def noise(seed: int = 0, height: int = 48, width: int = 64) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey(value: int, height: int = 48, width: int = 64) -> Image:
    return np.full((height, width, 3), value, np.uint8)
