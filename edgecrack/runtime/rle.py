"""COCO's compressed RLE: column-major runs of pixels, packed into printable characters."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_BITS, _SIGN, _MORE, _ZERO = 5, 0x10, 0x20, 48


def rle_of(mask: NDArray[np.bool_]) -> dict[str, object]:
    """Encode `mask`, bool (H, W), as `{"size": [H, W], "counts": "..."}`, as taken by pycocotools' `mask.decode`."""
    height, width = mask.shape
    columns = cv2.transpose(mask.view(np.uint8)).ravel()
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    starts = [0] if columns[0] else []  # COCO's first run is background, and may be empty
    ends = np.concatenate([starts, changes, [columns.size]]).astype(np.int64)
    counts = ends - np.concatenate([[0], ends[:-1]])
    return {"size": [height, width], "counts": _packed(counts)}


def _packed(counts: NDArray[np.int64]) -> str:
    """COCO's compressed counts: from the fourth on, differences to two before; five bits a character, low first."""
    left = counts.copy()
    left[3:] -= counts[1:-2]
    groups = []
    more = np.ones(len(left), np.bool_)
    while more.any():
        bits = left & (1 << _BITS) - 1
        left = left >> _BITS
        goes_on = more & np.where(bits & _SIGN, left != -1, left != 0)
        groups.append(np.where(more, bits + _MORE * goes_on + _ZERO, 0).astype(np.uint8))
        more = goes_on
    characters = np.stack(groups, 1).ravel()
    return bytes(characters[characters != 0]).decode("ascii")
