"""A pinhole camera above a flat road: projection of the ground, and the ground area that one pixel sees."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """Camera pose and intrinsics: metres, radians, else pixels. On the ground x is across, y along the road, z up."""

    x: float
    y: float
    above: float  # the ground
    pitch: float  # below the horizon; pi / 2 looks straight down
    roll: float
    yaw: float
    focal: float
    centre: tuple[float, float]  # principal point, column and row; outside the picture if it is a crop

    def ground_to_image(self) -> Matrix:
        """The homography (3, 3) from (x, y, 1) to (column, row, 1) times the depth, which is positive in front."""
        lens = np.array([[self.focal, 0.0, self.centre[0]], [0.0, self.focal, self.centre[1]], [0.0, 0.0, 1.0]])
        turned = lens @ self._rotation()
        place = np.array([self.x, self.y, self.above])
        return np.asarray(np.column_stack([turned[:, 0], turned[:, 1], -turned @ place]), np.float64)

    def _rotation(self) -> Matrix:
        sine, cosine = np.sin(self.pitch), np.cos(self.pitch)
        level = np.array([[1.0, 0.0, 0.0], [0.0, -sine, -cosine], [0.0, cosine, -sine]])
        return np.asarray(_turn(self.roll) @ level @ _turn(self.yaw), np.float64)


@dataclass(frozen=True)
class Band:
    """Rows of the picture in which a pixel sees about the same area of ground."""

    top: int
    bottom: int
    across: float  # metres of x per pixel
    along: float  # metres of y per pixel


def ground_at(camera: Camera, columns: Matrix, rows: Matrix) -> Matrix:
    """The ground points (N, 2) that these pixels see; nan for the sky."""
    inverse = np.linalg.inv(camera.ground_to_image())
    rays = np.column_stack([columns, rows, np.ones(len(columns))]) @ inverse.T
    with np.errstate(divide="ignore", invalid="ignore"):
        points = rays[:, :2] / rays[:, 2:]
    points[rays[:, 2] <= 0.0] = np.nan
    return np.asarray(points, np.float64)


def horizon_rows(camera: Camera, width: int) -> tuple[float, float]:
    """The row of the horizon at the left and the right edge; far above the picture for a camera that looks down."""
    inverse = np.linalg.inv(camera.ground_to_image())
    if abs(inverse[2, 1]) * 1e5 < abs(inverse[2, 2]):
        return -1e5, -1e5
    left = -inverse[2, 2] / inverse[2, 1]
    return left, -(inverse[2, 2] + inverse[2, 0] * (width - 1)) / inverse[2, 1]


def bands(camera: Camera, height: int, width: int, growth: float = 1.45) -> list[Band]:
    """Split the picture below the horizon into bands within which a pixel's ground grows by at most `growth`."""
    horizon = horizon_rows(camera, width)
    first = max(0, int(min(horizon)))
    rows = np.arange(first, height, dtype=np.float64)
    if not len(rows):
        return []
    across, along = _footprints(camera, np.maximum(rows, max(horizon) + 2.0), width / 2)
    size = np.log(across * along) / (2 * np.log(growth))
    step = np.floor(size - size[-1])
    edges = [0, *(np.flatnonzero(np.diff(step)) + 1).tolist(), len(rows)]
    found = []
    for top, bottom in pairwise(edges):
        middle = (top + bottom) // 2
        found.append(Band(first + top, first + bottom, float(across[middle]), float(along[middle])))
    return found


def _footprints(camera: Camera, rows: Matrix, column: float) -> tuple[Matrix, Matrix]:
    columns = np.full_like(rows, column)
    # A tenth of a pixel, so that the rows next to the horizon still meet the ground.
    here, right, above = (ground_at(camera, columns + dx, rows + dy) for dx, dy in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)))
    steps = np.abs(np.stack([right - here, above - here])).max(axis=0) * 10.0
    return np.maximum(steps[:, 0], 1e-6), np.maximum(steps[:, 1], 1e-6)


def _turn(angle: float) -> Matrix:
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
