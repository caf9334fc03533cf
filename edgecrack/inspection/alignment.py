"""Alignment of masks with their cracks, judged by the shift at which the image is darkest along the mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import resize

REACH = 24  # pixels by which a mask is shifted at most
LARGEST = 1024  # pixels; longer frames are scaled down
_LINE = 17  # pixels; dark structures wider than this are no lines
_LEAST_CRACK = 50  # pixels
_CLEAR = 5.0  # median deviations above the median shift; below, no verdict
_RIDGE = 0.9  # a straight crack looks the same when shifted along itself: shifts this good count as the best
_DOUBT = 0.6  # a good mask is better than this at its own place


@dataclass(frozen=True)
class Shift:
    """Offset of the cracks from the mask, in pixels of the frame: to the right and downwards."""

    right: float
    down: float

    @property
    def distance(self) -> float:
        return float(np.hypot(self.right, self.down))

    def __str__(self) -> str:
        words = [f"{abs(value):.0f} px {way[value < 0]}" for value, way in self._parts() if round(value)]
        return " and ".join(words) or "in place"

    def _parts(self) -> tuple[tuple[float, tuple[str, str]], ...]:
        return (self.right, ("right", "left")), (self.down, ("down", "up"))


def shift_of(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Shift | None:
    """Estimate how far the cracks of an image lie from its mask; None if that cannot be told.

    It relies on dark lines, so that it works for nearly every frame in which the crack can be seen and for few others.
    Shifts under about 4 pixels count as aligned, those beyond 24 pixels (of a frame scaled to at most 1024) are not
    found.

    Args:
        image: uint8 (H, W, 3) BGR.
        mask: bool (H, W).
    """
    scale = min(1.0, LARGEST / max(mask.shape))
    height, width = (round(side * scale) for side in mask.shape)
    reach = min(REACH, min(height, width) // 8)
    if reach < 6:
        return None
    grey = resize(np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8), height, width)
    cracks = resize(mask.astype(np.uint8), height, width)[reach:-reach, reach:-reach].astype(np.float32)
    if cracks.sum() < _LEAST_CRACK:
        return None
    darkness = cv2.matchTemplate(_dark_lines(grey), cracks, cv2.TM_CCORR)
    return _judged(np.asarray(darkness, np.float32), reach, scale)


def _dark_lines(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    kernel = np.ones((_LINE, _LINE), np.uint8)
    lines = cv2.morphologyEx(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.MORPH_BLACKHAT, kernel).astype(np.float32)
    return np.asarray(np.minimum(lines, np.percentile(lines[::4, ::4], 99)), np.float32)  # a black hole is no crack


def _judged(darkness: NDArray[np.float32], reach: int, scale: float) -> Shift | None:
    """The dark shift nearest to zero: hill climbing from the nearest one that is about as dark as the darkest."""
    usual = np.median(darkness)
    clear = (darkness - usual) / max(float(np.median(np.abs(darkness - usual))), 1e-6)
    best = float(clear.max())
    if best < _CLEAR:
        return None
    if clear[reach, reach] >= _DOUBT * best:
        return Shift(0.0, 0.0)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.where(clear >= _RIDGE * best, np.hypot(down, right), np.inf)
    row, column = map(int, np.unravel_index(int(distance.argmin()), distance.shape))
    while True:
        top, left = max(0, row - 1), max(0, column - 1)
        around = clear[top : row + 2, left : column + 2]
        above = np.unravel_index(int(around.argmax()), around.shape)
        if around[above] <= clear[row, column]:
            return Shift((column - reach) / scale, (row - reach) / scale)
        row, column = top + int(above[0]), left + int(above[1])
