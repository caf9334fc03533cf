"""Thin lines on the ground (cracks, joints, seams) and their projection and rasterisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.camera import Camera, Matrix

OVERSAMPLE = 4
THINNEST_LABEL = 0.7  # pixels; thinner pieces are drawn but not labelled
FAINTEST_LABEL = 0.18  # width times strength; fainter pieces are lost in the grain
_LABEL_MARGIN = 0.8  # pixels that lens and annotator add to the width of a labelled crack
_SHADES = 24


@dataclass(frozen=True)
class Strokes:
    """Polylines on the ground, concatenated."""

    points: Matrix  # (P, 2) metres
    width: Matrix  # (P,) metres
    strength: Matrix  # (P,) share of light absorbed, 0..1
    line: NDArray[np.int64]  # (P,) which polyline a point belongs to

    @classmethod
    def none(cls) -> Strokes:
        return cls(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0, np.int64))

    @classmethod
    def from_path(cls, points: Matrix, width: Matrix | float, strength: Matrix | float) -> Strokes:
        """One polyline (P, 2) with a width and a strength, constant or per point."""
        count = len(points)
        return cls(
            points, np.broadcast_to(width, count).astype(float), np.broadcast_to(strength, count).astype(float),
            np.zeros(count, np.int64),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Strokes]) -> Strokes:
        """All polylines of `parts` together."""
        if not parts:
            return cls.none()
        lines, taken = [], 0
        for part in parts:
            lines.append(part.line + taken)
            taken += int(part.line.max()) + 1 if len(part.line) else 0
        return cls(
            np.concatenate([part.points for part in parts]), np.concatenate([part.width for part in parts]),
            np.concatenate([part.strength for part in parts]), np.concatenate(lines),
        )  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """Straight segments of strokes in a picture."""

    ends: Matrix  # (S, 2, 2) column and row of both ends
    width: Matrix  # (S,) pixels
    strength: Matrix  # (S,)

    def __add__(self, other: Pieces) -> Pieces:
        return Pieces(
            np.concatenate([self.ends, other.ends]), np.concatenate([self.width, other.width]),
            np.concatenate([self.strength, other.strength]),
        )  # fmt: skip


def projected(strokes: Strokes, camera: Camera, height: int, width: int, finest: float = 1.5) -> Pieces:
    """Project strokes into a picture of height x width pixels, as segments of about `finest` pixels."""
    matrix = camera.ground_to_image()
    seen = np.column_stack([strokes.points, np.ones(len(strokes.points))]) @ matrix.T
    depth = np.where(seen[:, 2] > 1e-3, seen[:, 2], np.nan)
    image = seen[:, :2] / depth[:, None]
    reach = 0.1 * max(height, width)
    with np.errstate(invalid="ignore"):
        near = ((image > -reach) & (image < np.array([width, height]) + reach)).all(axis=1)
    line = strokes.line * 2**20 + np.cumsum(~near)  # a line that leaves the picture and returns becomes two
    chosen = np.flatnonzero(near)
    chosen = chosen[_worth_keeping(image[chosen], line[chosen], finest)]
    first, last = chosen[:-1], chosen[1:]
    together = line[first] == line[last]
    first, last = first[together], last[together]
    long_here = np.maximum(np.linalg.norm(image[last] - image[first], axis=1), 1e-6)
    long_there = np.linalg.norm(strokes.points[last] - strokes.points[first], axis=1)
    # A homography scales the width by its scaling of area over its scaling of length along the line.
    area = abs(np.linalg.det(matrix)) / depth[last] ** 3
    wide = (strokes.width[first] + strokes.width[last]) / 2 * area * long_there / long_here
    return Pieces(np.stack([image[first], image[last]], axis=1), wide, strokes.strength[last])


def _worth_keeping(image: Matrix, line: NDArray[np.int64], finest: float) -> NDArray[np.int64]:
    if not len(image):
        return np.zeros(0, np.int64)
    step = np.linalg.norm(np.diff(image, axis=0), axis=1)
    change = np.diff(line) != 0
    travelled = np.concatenate([[0.0], np.cumsum(np.where(change, 0.0, step))])
    first = np.concatenate([[True], change])
    last = np.concatenate([change, [True]])
    stride = np.concatenate([[True], np.diff(np.floor(travelled / finest)) > 0])
    return np.flatnonzero(first | last | stride)


def shade(pieces: Pieces, height: int, width: int) -> NDArray[np.uint8]:
    """The share of light that the pieces absorb at each pixel: uint8 (height, width), 255 for all of it."""
    thin = np.minimum(1.0, pieces.width * OVERSAMPLE)  # lines thinner than a sample are drawn paler instead
    level = np.clip(np.rint(pieces.strength * thin * _SHADES), 0, _SHADES).astype(np.int64)
    kept = (level > 0) & (pieces.width > 0.12)
    canvas = np.zeros((height * OVERSAMPLE, width * OVERSAMPLE), np.uint8)
    _draw(canvas, pieces.ends[kept], pieces.width[kept], level[kept])
    canvas = np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.convertScaleAbs(canvas, alpha=255.0 / (10 * _SHADES)), np.uint8)


def label(pieces: Pieces, height: int, width: int) -> NDArray[np.bool_]:
    """Crack mask as an annotator would draw it: bool (height, width), pixels at least half covered by the pieces."""
    kept = (pieces.width >= THINNEST_LABEL) & (pieces.width * pieces.strength >= FAINTEST_LABEL)
    if not kept.any():
        return np.zeros((height, width), np.bool_)
    canvas = np.zeros((height * OVERSAMPLE, width * OVERSAMPLE), np.uint8)
    _draw(canvas, pieces.ends[kept], pieces.width[kept] + _LABEL_MARGIN, np.full(int(kept.sum()), _SHADES))
    covered = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(covered >= 5 * _SHADES)


def _draw(canvas: NDArray[np.uint8], ends: Matrix, width: Matrix, level: NDArray[np.int64]) -> None:
    """Draw on the oversampled canvas, 10 grey values per shade, the strongest last and thus on top."""
    thick = np.clip(np.rint(width * OVERSAMPLE), 1, 255).astype(np.int64)
    fixed = np.rint(((ends + 0.5) * OVERSAMPLE - 0.5) * 4).astype(np.int32)
    key = level * 256 + thick
    order = np.argsort(key, kind="stable")
    key, fixed = key[order], fixed[order]
    stops = np.append(np.flatnonzero(np.diff(key)) + 1, len(key))
    for start, stop in zip(np.append(0, stops[:-1]), stops, strict=True):
        if start == stop:  # nothing to draw at all
            break
        grey, thickness = int(key[start]) // 256 * 10, int(key[start]) % 256
        cv2.polylines(canvas, list(fixed[start:stop]), False, (grey,), thickness, cv2.LINE_8, 2)
