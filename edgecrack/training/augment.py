"""Random crops of labelled frames: scale, position, rotation, shear and flips here, light and camera in `photometry`.

Everything uses OpenCV: albumentations is no longer maintained and its successor is AGPL, imgaug is dead, kornia takes 5
to 30 times as long on a CPU, torchvision works with one build of torch only, and none of them shrinks a mask so that
thin cracks survive.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import halved, resize
from edgecrack.training.photometry import photographed

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SCALES = (0.3, 3.0)
CRACK_SHARE = 0.3  # of the crops are placed on a crack; with more, too little sky and verge would be seen
COVERED = 96  # of 255: coverage above which a shrunk pixel stays crack; half would lose thin cracks
TURNED = 0.4  # of the crops
TURN, SHEAR, STRETCH = 20.0, 0.15, 1.25  # maxima: degrees, slope, ratio of one side to the other


def random_crop(image: Image, mask: Mask, size: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A `size` x `size` crop of the frame at a random scale, mostly near 1; some are rotated, sheared and stretched.

    It is scaled once, as the runtime scales frames; where a rotated crop reaches beyond the frame, that is mirrored.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W).
    """
    scale = float(np.exp(rng.triangular(np.log(SCALES[0]), 0.0, np.log(SCALES[1]))))
    height, width = mask.shape
    side = min(max(16, round(size / scale)), height, width)
    if rng.random() < TURNED:
        return _turned(image, mask, side, size, rng)
    top, left = _corner(mask, side, rng)
    window = np.s_[top : top + side, left : left + side]
    covered = resize(mask[window].astype(np.uint8) * 255, size, size)
    return resize(image[window], size, size), np.asarray(covered > COVERED)


def augment(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The crop under different light and camera effects, with random flips and quarter turns; shapes stay the same."""
    image = photographed(image, rng)  # before the rotation: motion blur is vertical
    if rng.random() < 0.3:
        image, mask = np.rot90(image), np.rot90(mask)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    if rng.random() < 0.3:
        image, mask = image[::-1], mask[::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _corner(mask: Mask, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a window within the frame, on a crack more often than by chance."""
    height, width = mask.shape
    if rng.random() < CRACK_SHARE and (at := _crack_pixel(mask, rng)):
        y, x = at[0] - int(rng.integers(side)), at[1] - int(rng.integers(side))
        return min(max(y, 0), height - side), min(max(x, 0), width - side)
    return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))


def _crack_pixel(mask: Mask, rng: np.random.Generator) -> tuple[int, int] | None:
    """The row and column of a random crack pixel, if there is one."""
    cracks = np.flatnonzero(mask)
    if not cracks.size:
        return None
    y, x = divmod(int(cracks[rng.integers(cracks.size)]), mask.shape[1])
    return y, x


def _turned(image: Image, mask: Mask, side: int, size: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A crop of about `side` pixels of the frame, rotated, sheared and stretched in one step."""
    turn, shear = np.radians(rng.uniform(-TURN, TURN)), rng.uniform(-SHEAR, SHEAR)
    stretch = float(np.exp(rng.uniform(-0.5, 0.5) * np.log(STRETCH)))
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    to_frame = turned @ np.array([[stretch, shear], [0.0, 1 / stretch]]) * (side / size)
    reach = np.abs(to_frame).sum(axis=1) * size / 2  # to the right and down from the centre
    middle = _middle(mask, reach, side, rng)
    halvings = max(0, int(np.log2(side / size)))  # as `resize` does: exact halves, then linear
    step = 2**halvings
    low = np.clip((middle - reach - 2).astype(int) // step * step, 0, None)
    high = (middle + reach + 3).astype(int)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    # The centre of a pixel is its index plus a half, in the frame and after each halving.
    origin = (middle - low) / step - 0.5 - to_frame / step @ np.full(2, (size - 1) / 2)
    matrix = np.column_stack([to_frame / step, origin])
    image, covered = image[window], mask[window].astype(np.uint8) * 255
    for _ in range(halvings):
        image, covered = halved(image), halved(covered)
    return _warped(image, matrix, size), np.asarray(_warped(covered, matrix, size) > COVERED)


def _middle(mask: Mask, reach: NDArray[np.float64], side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Column and row of the centre of a crop that lies within the frame if that is large enough."""
    top, left = _corner(mask, side, rng)
    length = np.array(mask.shape[::-1], np.float64)
    wanted = np.array([left, top]) + side / 2
    return np.asarray(
        np.where(2 * reach < length, np.clip(wanted, reach, np.maximum(length - reach, reach)), length / 2)
    )


def _warped(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )
