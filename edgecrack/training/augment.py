"""Random crops of labelled frames: scale, place, flips, rotation, light, blur and noise. numpy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import resize

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SCALES = (0.3, 3.0)
CRACK_SHARE = 0.3  # of the crops are drawn around a crack; with more, too little sky and verge is seen to be learnt
_COVERED = 96  # of 255: how much of a shrunk pixel must be crack for it to stay one; half would lose thin cracks


def random_crop(image: Image, mask: Mask, size: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A `size` x `size` view of the frame at a random scale, most often near 1.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W).
    """
    scale = float(np.exp(rng.triangular(np.log(SCALES[0]), 0.0, np.log(SCALES[1]))))
    height, width = mask.shape
    side = min(max(16, round(size / scale)), height, width)
    top, left = _corner(mask, side, rng)
    window = np.s_[top : top + side, left : left + side]
    covered = resize(mask[window].astype(np.uint8) * 255, size, size)
    return resize(image[window], size, size), np.asarray(covered > _COVERED)


def augment(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The crop turned, mirrored and seen in another light by another camera. Shapes stay."""
    if rng.random() < 0.3:
        image, mask = _rotate(image, mask, float(rng.uniform(-20, 20)))
    if rng.random() < 0.3:
        image, mask = np.rot90(image), np.rot90(mask)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if rng.random() < 0.3:
        image, mask = image[::-1], mask[::-1]
    return _photometric(np.ascontiguousarray(image), rng), np.ascontiguousarray(mask)


def _corner(mask: Mask, side: int, rng: np.random.Generator) -> tuple[int, int]:
    height, width = mask.shape
    if rng.random() < CRACK_SHARE:
        cracks = np.flatnonzero(mask)
        if cracks.size:
            y, x = divmod(int(cracks[rng.integers(cracks.size)]), width)
            y, x = y - int(rng.integers(side)), x - int(rng.integers(side))
            return min(max(y, 0), height - side), min(max(x, 0), width - side)
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))


def _rotate(image: Image, mask: Mask, degrees: float) -> tuple[Image, Mask]:
    height, width = mask.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turn = {"dsize": (width, height), "borderMode": cv2.BORDER_REFLECT_101, "flags": cv2.INTER_LINEAR}
    covered = cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, **turn)  # type: ignore[call-overload]
    return cv2.warpAffine(image, matrix, **turn), np.asarray(covered > 127)  # type: ignore[call-overload]


def _photometric(image: Image, rng: np.random.Generator) -> Image:
    if rng.random() < 0.3:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.uint8, copy=False)
    image = cv2.LUT(image, _light(rng)).astype(np.uint8, copy=False)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.3))).astype(np.uint8, copy=False)
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(2, 12))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def _light(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Gamma, gain and offset, a little different for each colour: uint8 (1, 256, 3), what each level becomes."""
    gamma = rng.uniform(0.7, 1.4) if rng.random() < 0.3 else 1.0
    level = 255 * (np.arange(256) / 255) ** gamma * rng.uniform(0.65, 1.35) + rng.uniform(-30, 30)
    return np.clip(level[None, :, None] + rng.uniform(-10, 10, 3), 0, 255).astype(np.uint8)
