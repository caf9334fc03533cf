"""The region of interest: the part of a frame searched for cracks, such as the road without sky and bonnet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SpecError

_NUMBER = r"\d{1,5}(?:\.\d{0,9})?|\.\d{1,9}"
_ROWS = re.compile(rf"rows:({_NUMBER})-({_NUMBER})")
_CORNER = re.compile(rf"({_NUMBER}),({_NUMBER})")
_HOW = (
    "rows:FROM-TO, such as rows:0.4-0.9, or the corners of a polygon, x,y x,y x,y, in pixels or as shares of the frame"
)


@dataclass(frozen=True, eq=False)
class Region:
    """A region in frames of one size: rows `top` to `bottom` and columns `left` to `right`, both ends exclusive.

    Attributes:
        mask: uint8 (bottom - top, right - left), 1 where a pixel belongs to it, 0 elsewhere; None if all do.
    """

    top: int
    bottom: int
    left: int
    right: int
    mask: NDArray[np.uint8] | None = None

    @property
    def box(self) -> tuple[slice, slice]:
        """The bounding box as slices that index a frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def touches(self, top: int, left: int, height: int, width: int) -> bool:
        """Whether any pixel of it lies in the window with its top left corner at (`top`, `left`) of the frame."""
        rows = slice(max(0, top - self.top), max(0, top + height - self.top))
        columns = slice(max(0, left - self.left), max(0, left + width - self.left))
        if self.mask is not None:
            return bool(self.mask[rows, columns].any())
        return rows.start < min(rows.stop, self.bottom - self.top) and columns.start < min(
            columns.stop, self.right - self.left
        )

    def blank_outside(self, probability: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Set uint8 (height, width), of the frame's size, to 0 outside the region, in place; returns the same array."""
        probability[: self.top] = probability[self.bottom :] = 0
        probability[:, : self.left] = probability[:, self.right :] = 0
        if self.mask is not None:
            probability[self.box] *= self.mask
        return probability


class RegionOfInterest(Protocol):
    """A region as specified, for frames of any size."""

    def within(self, height: int, width: int) -> Region:
        """The region in a frame of that size. Raises SpecError if it is empty there."""


@dataclass(frozen=True)
class Rows:
    """Full-width rows from `first` to `last`, exclusive, in pixels or as fractions of the height."""

    first: float
    last: float

    def within(self, height: int, width: int) -> Region:
        """Raises SpecError if it contains no row of the frame."""
        unit = height if self.last <= 1 else 1
        top, bottom = round(self.first * unit), min(height, round(self.last * unit))
        if top >= bottom:
            raise SpecError(f"the region rows:{self.first:g}-{self.last:g} holds no row of a frame of {width}x{height}")
        return Region(top, bottom, 0, width)


@dataclass(frozen=True)
class Polygon:
    """The area enclosed by `corners`, each x and y in pixels or as fractions of the frame, including the outline."""

    corners: tuple[tuple[float, float], ...]

    def within(self, height: int, width: int) -> Region:
        """Raises SpecError when it lies outside the frame."""
        corners = self._pixels(height, width)
        left, top = np.maximum(corners.min(0), 0)
        right, bottom = np.minimum(corners.max(0) + 1, (width, height))
        mask = np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8)
        if mask.size:
            cv2.fillPoly(mask, [corners], (1,), offset=(-int(left), -int(top)))
        if not mask.any():
            raise SpecError(f"the region {self} lies outside a frame of {width}x{height}")
        return Region(int(top), int(bottom), int(left), int(right), mask)

    def __str__(self) -> str:
        return " ".join(f"{x:g},{y:g}" for x, y in self.corners)

    def _pixels(self, height: int, width: int) -> NDArray[np.int32]:
        corners = np.array(self.corners)
        if corners.max() <= 1:  # a fraction of 1 is the last pixel
            corners = np.minimum(corners * (width, height), (width - 1, height - 1))
        return corners.astype(np.int32)


def parse_region(text: str) -> RegionOfInterest:
    """Parse `rows:0.4-0.9` or `x,y x,y x,y`: fractions of the frame if no number is above 1, else whole pixels.

    Raises SpecError for anything else, and for a polygon that encloses nothing.
    """
    if not isinstance(text, str):
        raise SpecError(f"a region is {_HOW}; got {text!r}")
    text = " ".join(text.split())
    rows, corners = _ROWS.fullmatch(text), [_CORNER.fullmatch(word) for word in text.split()]
    found = [rows] if rows else corners
    if not found or None in found:
        raise SpecError(f"a region is {_HOW}; got {text!r}")
    pairs = tuple((float(match[1]), float(match[2])) for match in found if match)
    numbers = [number for pair in pairs for number in pair]
    if max(numbers) > 1 and not all(number.is_integer() for number in numbers):
        raise SpecError(f"a region is in whole pixels or in shares from 0 to 1, not in both; got {text!r}")
    if rows:
        return _checked_rows(*pairs[0])
    return _checked_polygon(pairs)


def _checked_rows(first: float, last: float) -> Rows:
    if first >= last:
        raise SpecError(f"the rows of a region go from the upper to the lower, got {first:g}-{last:g}")
    return Rows(first, last)


def _checked_polygon(corners: tuple[tuple[float, float], ...]) -> Polygon:
    spread = np.array(corners) - corners[0]
    if len(corners) < 3 or np.linalg.matrix_rank(spread) < 2:
        raise SpecError(f"a polygon has three corners or more that are not in one line, got {Polygon(corners)}")
    return Polygon(corners)
