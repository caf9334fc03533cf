"""Rain: darker wet ground, water that mirrors the sky, and cracks that stay wet while the road dries."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.camera import Band, Camera, horizon_rows
from edgecrack.rendering.noise import Floats, cloudy
from edgecrack.rendering.surface import GroundTexture

_SIDE = 256  # texels
_COVERED = 0.6  # share of mirrored light above which no crack can be seen


class Water:
    """The wetness of one road: `wet` is 0..1, and the pattern repeats after `long` metres."""

    def __init__(self, rng: np.random.Generator, wet: float, long: float) -> None:
        depth = cloudy(rng, _SIDE, _SIDE, rng.uniform(1.2, 1.9)) + np.float32(2.2 * wet - 1.4)
        tile = np.clip(128 + 55 * depth, 0, 255).astype(np.uint8)
        self._ground = GroundTexture(np.repeat(tile[..., None], 3, 2), (long / _SIDE,) * 2)
        self._dark = float(rng.uniform(0.3, 0.55))
        bright = rng.uniform(90.0, 230.0)
        self._sky = np.array([bright * rng.uniform(1.0, 1.12), bright, bright * rng.uniform(0.9, 1.0)], np.float32)
        self._straight, self._grazing = float(rng.uniform(0.03, 0.2)), float(rng.uniform(0.3, 0.8))

    def lay(self, picture: Floats, mask: NDArray[np.bool_], camera: Camera, over: list[Band]) -> None:
        """Wet the ground of `picture`, float32 (H, W, 3), in place, and remove what water hides from the mask."""
        height, width = mask.shape
        depth = self._ground.seen(camera, over, height, width)[..., 0].astype(np.float32)
        soaked = np.clip((depth - 110.0) / 40.0, 0.0, 1.0)
        standing = np.clip((depth - 165.0) / 30.0, 0.0, 1.0)
        picture *= 1.0 - self._dark * soaked[..., None]
        mirrors = (0.25 * soaked + 0.75 * standing) * self._mirrored(camera, height, width)
        picture += mirrors[..., None] * (self._sky - picture)
        mask &= mirrors < _COVERED

    def _mirrored(self, camera: Camera, height: int, width: int) -> NDArray[np.float32]:
        """Share of light that water reflects, (height, 1): more towards the horizon."""
        left, right = horizon_rows(camera, width)
        below = np.arange(height) - (left + right) / 2  # rows under the horizon
        steep = np.clip(below / np.hypot(below, camera.focal), 0.0, 1.0)
        return np.asarray(self._straight + self._grazing * (1.0 - steep[:, None]) ** 4, np.float32)


def damp_beside(dark: NDArray[np.uint8], wide: float, rng: np.random.Generator) -> Floats:
    """The share of light left around cracks that still hold water, float32 (H, W), from their `dark`, uint8 (H, W).

    wide: width of the damp beside a crack, in pixels.
    """
    held = np.where(dark > 20, 255, 0).astype(np.uint8)
    damp = cv2.GaussianBlur(held, (0, 0), wide).astype(np.float32) * np.float32(1 / 255)
    height, width = dark.shape
    rough = rng.standard_normal((height // 8 + 2, width // 8 + 2), np.float32)
    uneven = 1.0 + 0.35 * cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    taken = rng.uniform(0.2, 0.45) * np.clip(damp * uneven * 4.0 - 0.3, 0.0, 1.0)
    return np.asarray(1.0 - taken, np.float32)
