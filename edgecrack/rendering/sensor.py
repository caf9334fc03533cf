"""Camera model, from light to picture: exposure, colour, lens, noise and compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.noise import Floats

_MARGIN = 32  # pixels by which the noise field is larger than a picture


@dataclass(frozen=True)
class Sensor:
    """Parameters by which one camera turns light into pixels."""

    gain: Floats  # (H, W, 3) exposure, colour of the light and vignetting
    curve: NDArray[np.uint8]  # (256,) tone curve
    blur: float  # pixels, lens blur
    motion: int  # pixels, motion blur
    noise: Floats  # (H + _MARGIN, W + _MARGIN, 3) grey values
    quality: int  # of the JPEG, 0 for none
    caption: str  # written into the picture, as survey cameras do


def drawn_sensor(rng: np.random.Generator, height: int, width: int, level: float) -> Sensor:
    """Draw a random camera for pictures of height x width pixels whose road has a grey value of about `level`."""
    rows, columns = np.ogrid[:height, :width]
    down, right = np.asarray(rows / height - 0.5, np.float32), np.asarray(columns / width - 0.5, np.float32)
    corner = np.float32(rng.uniform(0.0, 0.45))
    middle = rng.uniform(-0.1, 0.1, 2).astype(np.float32)
    slope = rng.normal(0.0, 0.08, 2).astype(np.float32)
    fall = (
        (1.0 - corner * (down - middle[0]) ** 2 + slope[0] * down)
        - corner * (right - middle[1]) ** 2
        + slope[1] * right
    )
    warmth = rng.normal(0.0, 0.045)
    colour = np.array([1.0 - warmth, 1.0 + rng.normal(0.0, 0.012), 1.0 + warmth]) * level / 128.0
    sheet = (height + _MARGIN, width + _MARGIN)
    grey = rng.standard_normal(sheet, np.float32) * np.float32(rng.uniform(0.5, 3.5))
    if rng.random() < 0.5:
        grey = np.asarray(cv2.GaussianBlur(grey, (3, 3), 0.6), np.float32) * np.float32(1.5)
    tint = cv2.resize(rng.standard_normal((sheet[0] // 2, sheet[1] // 2, 3), np.float32), sheet[::-1])
    tint *= np.float32(rng.uniform(0.0, 1.5))
    tint += grey[..., None]
    tone = np.linspace(0.0, 1.0, 256) ** rng.uniform(0.85, 1.2) * rng.uniform(0.95, 1.05)
    return Sensor(
        gain=fall[..., None] * colour.astype(np.float32),
        curve=np.asarray(np.clip(tone * 255 + rng.uniform(-4.0, 10.0), 0, 255), np.uint8),
        blur=0.0 if rng.random() < 0.35 else rng.uniform(0.3, 1.0),
        motion=int(rng.choice([1, 1, 1, 3])),
        noise=np.asarray(tint, np.float32),
        quality=0 if rng.random() < 0.6 else int(rng.integers(60, 97)),
        caption=str(rng.integers(10**5, 10**9)) if rng.random() < 0.06 else "",
    )


def photographed(light: Floats, sensor: Sensor, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture, uint8 (H, W, 3), of float32 light, where 128 is a well-exposed road. Overwrites `light`."""
    height, width = light.shape[:2]
    cv2.multiply(light, sensor.gain, dst=light)
    if sensor.blur:
        cv2.GaussianBlur(light, (5, 5), sensor.blur, dst=light)
    if sensor.motion > 1:
        cv2.blur(light, (1, sensor.motion), dst=light)
    top, left = (int(v) for v in rng.integers(0, _MARGIN, 2))
    cv2.add(light, sensor.noise[top : top + height, left : left + width], dst=light)
    picture = np.asarray(cv2.LUT(np.clip(light, 0, 255).astype(np.uint8), sensor.curve), np.uint8)
    if sensor.caption:
        size = max(0.3, height / 900)
        cv2.putText(picture, sensor.caption, (8, int(30 * size)), cv2.FONT_HERSHEY_SIMPLEX, size, (235, 235, 235), 1)
    if sensor.quality:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return picture
