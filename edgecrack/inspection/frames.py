"""Inspection of a single labelled frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import read_labels
from edgecrack.errors import FrameError, SourceError
from edgecrack.images import read_grey, read_image
from edgecrack.inspection.alignment import Shift, shift_of
from edgecrack.inspection.likeness import Waves, waves_of

INVERTED = 0.5  # share of crack above which background and crack are taken to be swapped


@dataclass(frozen=True)
class Frame:
    """One frame and its problems.

    Attributes:
        split: "" in a data set without splits.
        image: image file.
        mask: mask file, None if the data set has no masks.
        size: (height, width), None if the image could not be read.
        crack_share: fraction of crack pixels.
        crack_width: mean width along its cracks, in pixels; 0 without any.
        shift: offset of the cracks from the mask, None if it cannot be told.
        waves: perceptual hash, None if the image could not be read.
        problems: kind of problem, as in `findings.KINDS` -> description.
    """

    split: str
    image: Path
    mask: Path | None
    size: tuple[int, int] | None = None
    crack_share: float = 0.0
    crack_width: float = 0.0
    shift: Shift | None = None
    waves: Waves | None = None
    problems: dict[str, str] = field(default_factory=dict)


def look_at(split: str, path: Path, mask_path: Path | None) -> Frame:
    """Read and check a frame and its mask; a file that cannot be read is a problem, not an error."""
    try:
        image = read_image(path)
        mask = None if mask_path is None else read_labels(mask_path)
    except (SourceError, FrameError) as error:
        return Frame(split, path, mask_path, problems={"unreadable": str(error)})
    size, waves = (image.shape[0], image.shape[1]), waves_of(image)
    if mask is None or mask_path is None:
        return Frame(split, path, mask_path, size, waves=waves)
    problems = _of_levels(mask_path)
    if mask.shape != size:
        problems["size differs"] = f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {size[1]}x{size[0]}"
        return Frame(split, path, mask_path, size, waves=waves, problems=problems)
    share, shift = float(mask.mean()), None
    if share > INVERTED:
        problems["inverted"] = f"{share:.0%} of its pixels are crack"
    else:
        shift = shift_of(image, mask)
        if shift and shift.distance:
            problems["shifted"] = f"the cracks lie {shift} of the mask"
    if not mask.any() and "read as empty" not in problems:
        problems["empty"] = "its mask has no crack"
    return Frame(split, path, mask_path, size, share, _width(mask), shift, waves, problems)


def _of_levels(path: Path) -> dict[str, str]:
    """Problems of the grey values of a mask."""
    if path.suffix.lower() == ".mat":
        return {}
    levels = np.flatnonzero(np.bincount(read_grey(path).reshape(-1), minlength=256))
    problems = {}
    top = int(levels[-1])
    jpeg = path.suffix.lower() in (".jpg", ".jpeg") or _rings(levels)
    if jpeg and len(levels) > 2:
        problems["was JPEG"] = f"{len(levels)} grey values; the edges of its cracks are blurred"
    elif len(levels) > 2 or (top > 127 and len(levels) == 2 and levels[0] != 0):
        problems["not binary"] = f"{len(levels)} grey values from {levels[0]} to {top}; wanted 0 and 255"
    if (8 if jpeg else 1) < top <= 127:
        problems["read as empty"] = f"its grey values end at {top}; wanted 0 and 255, or classes 0 and 1"
    return problems


def _rings(levels: NDArray[np.intp]) -> bool:
    """Whether there are values close to black and white, as JPEG ringing leaves beside edges, even in a later PNG."""
    return len(levels) > 2 and 0 < levels[levels > 0][0] < 10 and levels[levels < 255][-1] > 245


def _width(mask: NDArray[np.bool_]) -> float:
    """Mean crack width: area over half the perimeter; single pixels, which have no perimeter, are left out."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    around = sum(cv2.arcLength(outline, True) for outline in outlines)
    single = sum(len(outline) == 1 for outline in outlines)
    return float(2 * (mask.sum() - single) / around) if around else float(single > 0)
