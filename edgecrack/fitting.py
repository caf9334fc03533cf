"""Resizes frames of any size to the input size of a net, and its answers back, without losing thin cracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.spec import FrameSpec

# Halves are rounded up. Scaled from 1080p, one pixel in 256 is a tie, which an error in the last bit may put just below
# a half: hence a little more than a half, both on the host and in graphs that fit their frames themselves.
HALF = np.float32(0.5 + 2**-10)


class Placement(Protocol):
    """How a frame of `height` x `width` pixels maps to model inputs, one piece or several, and the answers back."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def count(self) -> int:
        """The number of pieces, from 1."""

    def pieces(self, image: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
        """uint8 (height, width, C) -> `count` arrays of uint8 (h, w, C), of the model's input size."""

    def undo(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The model's answers to the pieces, stacked if there are several -> uint8 (height, width)."""


@dataclass(frozen=True)
class Fit:
    """Places a `height` x `width` frame in `frame`: it is resized into the top left `inner_height` x `inner_width`."""

    frame: FrameSpec
    height: int
    width: int
    inner_height: int
    inner_width: int

    @classmethod
    def of(cls, height: int, width: int, frame: FrameSpec) -> Fit:
        """Make the largest fit that preserves the aspect ratio."""
        scale = min(frame.height / height, frame.width / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        return cls(frame, height, width, min(inner[0], frame.height), min(inner[1], frame.width))

    @property
    def covered(self) -> tuple[int, int]:
        """The numbers of rows and columns used: halving drops the last one of an odd number."""
        height, width, times = self.height, self.width, 0
        while height >= 2 * self.inner_height and width >= 2 * self.inner_width:
            height, width, times = height // 2, width // 2, times + 1
        return height << times, width << times

    @property
    def is_exact(self) -> bool:
        """Whether the frame already has the target size, so that nothing is copied."""
        return (self.height, self.width) == (self.frame.height, self.frame.width)

    @property
    def scale(self) -> float:
        """The scale factor from the frame to the model input; below 1 the frame is shrunk."""
        return min(self.frame.height / self.height, self.frame.width / self.width)

    @property
    def count(self) -> int:
        """The number of pieces: one."""
        return 1

    def pieces(self, image: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
        """The single piece that `apply` returns."""
        return (self.apply(image),)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (height, width, C) -> uint8 (frame.height, frame.width, C), reflection-padded at right and bottom."""
        if self.is_exact:
            return image
        inner = resize(image, self.inner_height, self.inner_width)
        bottom, right = self.frame.height - self.inner_height, self.frame.width - self.inner_width
        if not (bottom or right):
            return inner
        return np.asarray(cv2.copyMakeBorder(inner, 0, bottom, 0, right, cv2.BORDER_REFLECT_101), np.uint8)

    def undo(self, probability: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (frame.height, frame.width) -> uint8 (height, width): cropped and scaled back linearly."""
        inner = probability[: self.inner_height, : self.inner_width]
        if inner.shape == (self.height, self.width):
            return np.ascontiguousarray(inner)
        return np.asarray(self._extended(linear_back(inner, *self.covered)), np.uint8)

    def count_from(self, probability: NDArray[np.uint8], level: int) -> int:
        """Count the pixels of `undo(probability)` that are at least `level`, 1..255, faster than by computing them."""
        inner = probability[: self.inner_height, : self.inner_width]
        if inner.max() < level:
            return 0  # interpolation does not exceed the maximum
        if inner.shape == (self.height, self.width):
            return int(np.count_nonzero(inner >= level))
        return int(np.count_nonzero(self._extended(_in_256ths(inner, *self.covered)) >= level << 8))

    def _extended(self, image: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """Pad the `covered` rows and columns to (height, width) by repeating the last ones."""
        bottom, right = self.height - image.shape[0], self.width - image.shape[1]
        if not (bottom or right):
            return image
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def with_pixels(image: NDArray[np.uint8], pixels: str) -> NDArray[np.uint8]:
    """Convert uint8 (H, W, 3) BGR to the format `pixels`: (H, W, 4) for "bgrx"; (H, W, 4) is returned unchanged."""
    if pixels == "bgrx" and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), np.uint8)
    return image


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 (H, W[, C]): exact halving as often as possible, then bilinear.

    Plain bilinear skips pixels and loses a third of 2-pixel lines from 1080p; area averaging costs nine times as much.
    """
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        image = halved(image)
    if image.shape[:2] == (height, width):
        return image
    return linear(image, height, width)


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve uint8 (H, W[, C]): the mean of each 2x2 block; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def linear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 (H, W[, C]) bilinearly, in floating point.

    OpenCV's INTER_LINEAR for uint8 truncates where it should round, one level too dark in one pixel of eight;
    INTER_LINEAR_EXACT is slower than this and has a resolution of 1/256 only. With either, nets for thin cracks answer
    differently than with a graph that fits its frames itself.
    """
    scaled = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.add(scaled, HALF, out=scaled), np.uint8)


def linear_back(answer: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize uint8 (h, w) bilinearly, in steps of 1/256: about one pixel in a thousand is one level off from `linear`.

    It is faster than `linear`, and than OpenCV's INTER_LINEAR_EXACT, which is one level off in one pixel of nine.
    """
    scaled = _in_256ths(answer, height, width)
    return np.right_shift(scaled, 8, out=np.empty(scaled.shape, np.uint8), casting="unsafe")


def _in_256ths(answer: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint16]:
    """Resize uint8 (h, w) bilinearly; return 256 times the values plus a half, so that dropping the low byte rounds."""
    raised = answer * np.uint16(256) + np.uint16(128)
    return np.asarray(cv2.resize(raised, (width, height), interpolation=cv2.INTER_LINEAR), np.uint16)
