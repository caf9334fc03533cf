"""Seamlessly tiling noise, the basis of every surface."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def cloudy(
    rng: np.random.Generator, height: int, width: int, falloff: float, *, stretch: float = 1.0, coarsest: float = 1.0
) -> Floats:
    """float32 (height, width) noise of mean 0 and standard deviation 1 with amplitude frequency ** -falloff.

    `stretch` above 1 elongates it vertically; `coarsest` is the longest wavelength, as a fraction of the side.
    """
    rows = np.asarray(np.fft.fftfreq(height) * height * stretch, np.float32)[:, None]
    columns = np.asarray(np.fft.rfftfreq(width) * width, np.float32)[None, :]
    square = rows**2 + columns**2
    amplitude = np.maximum(square, np.float32(1.0)) ** np.float32(-falloff / 2)
    amplitude[square < 1.0 / coarsest**2] = 0.0
    white = rng.standard_normal((height, width), np.float32)
    return standardised(np.fft.irfft2(np.fft.rfft2(white) * amplitude, (height, width)))


def standardised(field: NDArray[np.floating]) -> Floats:
    """The field scaled to mean 0 and standard deviation 1, float32."""
    shifted = field - field.mean()
    return np.asarray(shifted / max(float(shifted.std()), 1e-6), np.float32)


def softened(field: Floats, sigma: float) -> Floats:
    """Gaussian blur with wrap-around borders."""
    margin = int(3 * sigma) + 1
    padded = np.pad(field, margin, mode="wrap")
    blurred = cv2.GaussianBlur(padded, (0, 0), sigma)
    return np.asarray(blurred[margin:-margin, margin:-margin], np.float32)


def stones(rng: np.random.Generator, side: int, spacing: float) -> tuple[Floats, Floats]:
    """Voronoi cells of stones about `spacing` pixels apart: a value per stone and the distance from its centre.

    Returns two float32 (side, side) fields: a value of mean 0 and standard deviation 1 that is constant over a stone,
    and the distance to the centre of the nearest stone in units of `spacing`.
    """
    count = max(4, round((side / spacing) ** 2))
    middles = np.ones((side, side), np.uint8)
    middles.reshape(-1)[rng.integers(0, side * side, count)] = 0
    margin = int(4 * spacing) + 2
    padded = np.pad(middles, margin, mode="wrap")
    distance, labels = cv2.distanceTransformWithLabels(padded, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.pad(rng.standard_normal((side, side), np.float32), margin, mode="wrap")
    of_label = np.zeros(int(labels.max()) + 1, np.float32)
    of_label[labels[padded == 0]] = values[padded == 0]
    inner = (slice(margin, -margin), slice(margin, -margin))
    return of_label[labels[inner]], np.asarray(distance[inner] / spacing, np.float32)


def wandering(
    rng: np.random.Generator, ends: NDArray[np.float64], levels: int, roughness: float
) -> NDArray[np.float64]:
    """Fractal paths through given corners that wander as cracks do, equally rough at every scale.

    ends: float64 (N, K, 2), K corners per path; `levels` times, the midpoint of every segment is displaced sideways by
    about `roughness` times the segment's length. Returns (N, (K - 1) * 2 ** levels + 1, 2).
    """
    path = ends
    for _ in range(levels):
        step = path[:, 1:] - path[:, :-1]
        push = np.clip(rng.standard_normal(step.shape[:2]), -2.0, 2.0)[..., None] * roughness
        slide = rng.uniform(-0.12, 0.12, step.shape[:2])[..., None]
        middle = path[:, :-1] + step * (0.5 + slide) + np.stack([-step[..., 1], step[..., 0]], axis=-1) * push
        grown = np.empty((path.shape[0], 2 * path.shape[1] - 1, 2))
        grown[:, ::2], grown[:, 1::2] = path, middle
        path = grown
    return path


def unrest(rng: np.random.Generator, count: int, waves: int = 12) -> NDArray[np.float64]:
    """Multi-scale 1-D noise of about mean 0 and standard deviation 1, for example for the width along a crack."""
    total = np.zeros(count)
    places = np.linspace(0.0, 1.0, count)
    weight = 0.0
    knots = max(2, count // waves)
    while knots <= max(2, count // 2):
        share = (count / knots) ** 0.3
        total += share * np.interp(places, np.linspace(0.0, 1.0, knots + 1), rng.standard_normal(knots + 1))
        weight += share**2
        knots *= 2
    return np.asarray(total / max(weight, 1e-6) ** 0.5, np.float64)
