"""Near-duplicates: a perceptual hash robust to compression, scaling, light, mirroring and quarter turns.

The hash is that of pHash. OpenCV has it in a contrib build only, which would replace a device's own OpenCV, and
imagehash would add Pillow and PyWavelets for these few lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 16  # DCT frequencies along each side
LIKE = 0.14  # share of differing bits; frames of one road by one camera differ in 0.21 or more, copies in under 0.1
_AT_ONCE = 256

Waves = NDArray[np.int8]


def waves_of(image: NDArray[np.uint8]) -> Waves:
    """uint8 (H, W, 3) BGR -> perceptual hash int8 (16, 16), the signs of its lowest DCT frequencies."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (4 * SIDE, 4 * SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.where(cv2.dct(small)[:SIDE, :SIDE] > 0, 1, -1).astype(np.int8)


def alike(first: Sequence[Waves], second: Sequence[Waves]) -> list[tuple[int, int]]:
    """(index in `first`, least index in `second`) of near-duplicates, under any mirroring and quarter turn."""
    if not (len(first) and len(second)):
        return []
    found: list[tuple[int, int]] = []
    ours = np.stack(first)
    theirs = _bits(np.stack(second))
    for start in range(0, len(ours), _AT_ONCE):
        block = _turned(ours[start : start + _AT_ONCE])
        # number of equal bits minus number of different bits
        like = np.logical_or.reduce([_bits(turned) @ theirs.T > (1 - 2 * LIKE) * theirs.shape[1] for turned in block])
        found += [(start + int(one), int(like[one].argmax())) for one in np.flatnonzero(like.any(axis=1))]
    return found


def _bits(waves: NDArray[np.int8]) -> NDArray[np.float32]:
    """(N, 255), without the DC coefficient, which is always positive."""
    return waves.reshape(len(waves), -1)[:, 1:].astype(np.float32)


def _turned(waves: NDArray[np.int8]) -> Iterator[NDArray[np.int8]]:
    """The hashes of the eight mirrored and quarter-turned versions of the pictures."""
    odd = np.where(np.arange(SIDE) % 2, -1, 1).astype(np.int8)
    for turned in (waves, waves.transpose(0, 2, 1)):
        for mirrored in (turned, turned * odd):
            yield mirrored
            yield mirrored * odd[:, None]
