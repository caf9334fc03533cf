"""Photometric augmentation, as by another light and camera: shadow, colour, exposure, blur, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Shade = NDArray[np.float32]

NIGHT = 0.08  # of the six in ten that get more than colour and exposure
LONGEST_SMEAR = 9  # pixels of motion blur


def photographed(image: Image, rng: np.random.Generator) -> Image:
    """Augment uint8 (H, W, 3) BGR: first the light, then lens, sensor and file, in the order of a camera; same size.

    Four in ten get only other colours and another exposure: a net has to learn its own camera too, and soon.
    """
    image = _saturated(image, rng)
    if rng.random() < 0.4:
        return np.asarray(cv2.LUT(image, _exposure(rng, night=False)), np.uint8)
    if rng.random() < 0.2:
        image = _shadowed(image, rng)
    if rng.random() < 0.15:
        image = _smeared(image, rng)
    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))), np.uint8)
    night = rng.random() < NIGHT
    image = np.asarray(cv2.LUT(image, _exposure(rng, night)), np.uint8)
    if rng.random() < 0.1:
        image = _sharpened(image, rng)
    if night or rng.random() < 0.4:
        image = _noisy(image, float(rng.uniform(2, 12)), rng)
    if rng.random() < 0.25:
        image = _compressed(image, int(rng.integers(30, 96)))
    return image


def _shadowed(image: Image, rng: np.random.Generator) -> Image:
    """In the shadow of something large, where the light is a little bluer than the sun's."""
    height, width = image.shape[:2]
    cover = _band(height, width, rng) if rng.random() < 0.65 else _foliage(height, width, rng)
    dark = rng.uniform(0.25, 0.75)
    taken = dark * np.array([rng.uniform(0.8, 1.0), 1.0, 1.0])
    light = cv2.merge([1.0 - cover * np.float32(share) for share in taken])
    return np.asarray(cv2.multiply(image, light, dtype=cv2.CV_8U), np.uint8)


def _band(height: int, width: int, rng: np.random.Generator) -> Shade:
    """Shadow mask of a wall, a pole or a vehicle beside the road: float32 (height, width), 0..1."""
    angle, side = rng.uniform(0, 2 * np.pi), max(height, width)
    across = np.cos(angle) * np.arange(width)[None] + np.sin(angle) * np.arange(height)[:, None]
    far = across - np.quantile(across[:: max(1, height // 8)], rng.uniform(0.1, 0.9))
    thick = side * (rng.uniform(0.04, 0.3) if rng.random() < 0.5 else 10.0)
    soft = float(np.exp(rng.uniform(0.0, np.log(12.0))))
    return np.asarray(np.clip(np.minimum(far, thick - far) / soft + 0.5, 0, 1), np.float32)


def _foliage(height: int, width: int, rng: np.random.Generator) -> Shade:
    """Shadow mask of leaves and branches: float32 (height, width), 0..1."""
    cells = int(rng.integers(3, 9))
    cover = np.full((height, width), -rng.uniform(-0.6, 0.8), np.float32)
    for weight in (1.0, 0.7, 0.5, 0.3):  # crowns, branches, twigs, leaves
        rough = rng.standard_normal((cells, cells), np.float32) * np.float32(weight)
        cover += cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        cells *= 2
    return np.asarray(np.clip(cover * rng.uniform(0.7, 3.0) + 0.5, 0, 1), np.float32)


def _saturated(image: Image, rng: np.random.Generator) -> Image:
    """Grey in three of ten, with more or less saturation in another three."""
    chance = rng.random()
    if chance > 0.6:
        return image
    colour = 0.0 if chance < 0.3 else float(rng.uniform(0.5, 1.6))
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(cv2.addWeighted(image, colour, grey, 1.0 - colour, 0.0), np.uint8)


def _smeared(image: Image, rng: np.random.Generator) -> Image:
    """Motion blur along the road, which is vertical in the picture, or at a slight angle to it."""
    length = int(rng.integers(3, LONGEST_SMEAR + 1))
    lean = np.tan(np.radians(rng.normal(0.0, 12.0))) * length / 2
    path = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    ends = [(round(middle - lean), 0), (round(middle + lean), length - 1)]
    cv2.line(path, ends[0], ends[1], 1.0)
    return np.asarray(cv2.filter2D(image, -1, path / path.sum(), borderType=cv2.BORDER_REFLECT_101), np.uint8)


def _exposure(rng: np.random.Generator, night: bool) -> NDArray[np.uint8]:
    """Look-up table of gamma, gain and offset, slightly different for each channel: uint8 (1, 256, 3)."""
    gamma = rng.uniform(0.7, 1.4) if rng.random() < 0.3 else 1.0
    gain, offset = rng.uniform(0.65, 1.35), rng.uniform(-30, 30)
    if night:
        gain, offset = rng.uniform(0.15, 0.45), rng.uniform(0, 12)
    level = 255 * (np.arange(256) / 255) ** gamma * gain + offset
    tint = 1 + rng.uniform(-0.1, 0.1, 3)
    return np.clip(level[None, :, None] * tint + rng.uniform(-4, 4, 3), 0, 255).astype(np.uint8)


def _sharpened(image: Image, rng: np.random.Generator) -> Image:
    """Sharpened, with the pale halos beside edges that cameras produce."""
    strength = float(rng.uniform(0.3, 1.2))
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 1.6)))
    return np.asarray(cv2.addWeighted(image, 1.0 + strength, blurred, -strength, 0.0), np.uint8)


def _noisy(image: Image, deviation: float, rng: np.random.Generator) -> Image:
    """Luminance noise and, in half of the pictures, colour noise; finer or coarser than a pixel."""
    height, width = image.shape[:2]
    grain = rng.standard_normal((height, width), np.float32)
    if rng.random() < 0.4:
        grain = np.asarray(cv2.GaussianBlur(grain, (3, 3), 0.7), np.float32) * np.float32(2.0)
    noise = cv2.merge([grain * np.float32(deviation)] * 3)
    if rng.random() < 0.5:
        coarse = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32) * np.float32(0.6 * deviation)
        noise = cv2.add(noise, cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def _compressed(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
