"""The surroundings of a road: its frayed edges, the verge, trees and the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.camera import Band, Camera, horizon_rows
from edgecrack.rendering.clutter import covering
from edgecrack.rendering.noise import Floats, cloudy, wandering
from edgecrack.rendering.surface import GroundTexture, verge

_PERIOD = 64.0  # metres after which the edges of the road repeat
_FAR = 1500.0  # metres
_FOLIAGE = 128  # pixels after which the leaves of the trees repeat


class Beside:
    """Everything but the road in a vehicle's view; `left` and `right` are the edges of the road in metres."""

    def __init__(self, rng: np.random.Generator, left: float, right: float, width: int) -> None:
        self._verge = GroundTexture(verge(rng), (0.03, 0.05))
        self._edges = [_edge(rng, x) for x in (left, right)]
        self._air = _air(rng)
        side = 1 << max(4, (width - 1).bit_length())
        heights = cloudy(rng, 4, side, 1.0)[0, :width] * rng.uniform(0.0, 0.04) + rng.uniform(0.0, 0.08)
        self._heights = np.maximum(heights * width, 0.0)  # of trees and hills, per column
        leaves = np.clip(1.0 + 0.3 * cloudy(rng, _FOLIAGE, _FOLIAGE, 0.6), 0.3, 1.8)
        green = np.array((45.0, 70.0, 62.0)) * rng.uniform(0.6, 1.3)
        self._foliage = np.asarray(green * leaves[..., None], np.float32)

    def lay(self, picture: Floats, mask: NDArray[np.bool_], camera: Camera, over: list[Band], near: float) -> None:
        """Draw verge and sky onto `picture`, float32 (H, W, 3), in place, and remove them from the crack mask.

        near: metres along the road where the picture begins.
        """
        height, width = mask.shape
        first = np.floor(near / _PERIOD) * _PERIOD
        outlines = []
        for edge, outside in zip(self._edges, (-_FAR, _FAR), strict=True):
            line = np.vstack([edge + (0.0, first + _PERIOD * turn) for turn in range(3)])
            corners = [(edge[0, 0], first + _FAR), (outside, first + _FAR), (outside, first)]
            outlines.append(np.vstack([line, corners]))
        found = covering(tuple(outlines), camera, height, width)
        if found:
            ground = self._verge.seen(camera, over, height, width)[found[0]].astype(np.float32)
            picture[found[0]] += found[1][..., None] * (ground - picture[found[0]])
            mask[found[0]] &= found[1] < 0.5
        left, right = horizon_rows(camera, width)
        if max(left, right) > 0:
            self._lay_sky(picture, mask, np.linspace(left, right, width))

    def _lay_sky(self, picture: Floats, mask: NDArray[np.bool_], horizon: NDArray[np.float64]) -> None:
        height, width = mask.shape
        bottom = min(height, int(horizon.max()) + 4)
        rows = np.arange(bottom)[:, None]
        above = horizon[None] + 3.0 - rows
        up = np.clip(above / (height * 0.4) * 255, 0, 255).astype(np.intp)
        sky = self._air[up]
        wooded = above < self._heights[None]
        leaves = self._foliage[rows % _FOLIAGE, np.arange(width)[None] % _FOLIAGE]
        sky[wooded] = leaves[wooded]
        open_air = above > 0
        picture[:bottom][open_air] = sky[open_air]
        mask[:bottom] &= ~open_air


def _edge(rng: np.random.Generator, x: float) -> NDArray[np.float64]:
    """A frayed edge along one period of the road: (N, 2)."""
    path = wandering(rng, np.array([[(0.0, 0.0), (0.0, _PERIOD)]]), 9, 0.06)[0]
    return np.column_stack([x + np.clip(path[:, 0] * 0.05, -0.4, 0.4), np.linspace(0.0, _PERIOD, len(path))])


def _air(rng: np.random.Generator) -> Floats:
    """Sky colours from the horizon upwards: float32 (256, 3) BGR."""
    low, high = np.array([225.0, 222.0, 215.0]), np.array([235.0, 190.0, 140.0])
    if rng.random() < 0.4:  # overcast
        high = np.array([205.0, 205.0, 205.0])
    share = np.linspace(0.0, 1.0, 256)[:, None]
    return np.asarray((low + (high - low) * share) * rng.uniform(0.7, 1.15), np.float32)
