"""Fitting frames of any size to the size a net takes, and its answers back, without losing thin cracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.spec import FrameSpec

# A half is rounded up. From 1080p one pixel in 256 is a tie, which arithmetic that is off in the last bit may see from below:
# hence a little more than a half, on the host and in graphs that fit their frames themselves.
HALF = np.float32(0.5 + 2**-10)


class Placement(Protocol):
    """How a frame of `height` x `width` pixels is shown to a model, in one piece or several, and its answer is read."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def count(self) -> int:
        """The number of pieces, from 1."""

    def pieces(self, image: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
        """uint8 (height, width, C) -> `count` of uint8 (h, w, C), of the size that the model takes."""

    def undo(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The model's answers to the pieces, stacked if there are several -> uint8 (height, width)."""


@dataclass(frozen=True)
class Fit:
    """Where a frame of `height` x `width` lies in the wanted `frame`: its top left `inner_height` x `inner_width`."""

    frame: FrameSpec
    height: int
    width: int
    inner_height: int
    inner_width: int

    @classmethod
    def of(cls, height: int, width: int, frame: FrameSpec) -> Fit:
        """The largest fit that keeps the aspect."""
        scale = min(frame.height / height, frame.width / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        return cls(frame, height, width, min(inner[0], frame.height), min(inner[1], frame.width))

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns of the frame that are shown: halving leaves the last out where their number is odd."""
        height, width, times = self.height, self.width, 0
        while height >= 2 * self.inner_height and width >= 2 * self.inner_width:
            height, width, times = height // 2, width // 2, times + 1
        return height << times, width << times

    @property
    def is_exact(self) -> bool:
        """True when the frame has the wanted size, so that nothing is copied."""
        return (self.height, self.width) == (self.frame.height, self.frame.width)

    @property
    def scale(self) -> float:
        """Scale factor from the frame to what the model is shown; below 1 the frame is shrunk."""
        return min(self.frame.height / self.height, self.frame.width / self.width)

    @property
    def count(self) -> int:
        """The number of pieces that a frame is shown in: one."""
        return 1

    def pieces(self, image: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
        """The one that `apply` gives."""
        return (self.apply(image),)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (height, width, C) -> uint8 (frame.height, frame.width, C), padded right and bottom by reflection."""
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
        """How many pixels of `undo(probability)` are at least `level`, 1..255; it takes less time than those themselves."""
        inner = probability[: self.inner_height, : self.inner_width]
        if inner.max() < level:
            return 0  # scaling makes nothing larger
        if inner.shape == (self.height, self.width):
            return int(np.count_nonzero(inner >= level))
        return int(np.count_nonzero(self._extended(_in_256ths(inner, *self.covered)) >= level << 8))

    def _extended(self, image: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """The rows and columns that were shown -> (height, width): the last of them stand for those that were left out."""
        bottom, right = self.height - image.shape[0], self.width - image.shape[1]
        if not (bottom or right):
            return image
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def with_pixels(image: NDArray[np.uint8], pixels: str) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) BGR as a graph with these `pixels` takes it: (H, W, 4) for "bgrx", where (H, W, 4) stays as it is."""
    if pixels == "bgrx" and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), np.uint8)
    return image


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale uint8 (H, W[, C]): exact halving as long as it goes, then linear.

    Plain linear skips pixels and loses a third of 2-pixel lines from 1080p; plain area costs nine times as much.
    """
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        image = halved(image)
    if image.shape[:2] == (height, width):
        return image
    return linear(image, height, width)


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half of uint8 (H, W[, C]): the mean of each 2x2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def linear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale uint8 (H, W[, C]) linearly, in floats.

    OpenCV's own for uint8 cuts where it should round, a level too dark in one pixel of eight, and its exact one, slower
    than this, knows fractions of 256 only: nets for thin cracks answer differently to either than to a graph that fits.
    """
    scaled = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.add(scaled, HALF, out=scaled), np.uint8)


def linear_back(answer: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale uint8 (h, w) linearly, in steps of 1/256: about one pixel of a thousand is a level off what `linear` gives.

    It takes less time than that, and than OpenCV's exact one, which is a level off in one pixel of nine.
    """
    scaled = _in_256ths(answer, height, width)
    return np.right_shift(scaled, 8, out=np.empty(scaled.shape, np.uint8), casting="unsafe")


def _in_256ths(answer: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint16]:
    """Scale uint8 (h, w) linearly: 256 times what it is, and a half, so that what is cut off below was rounded."""
    raised = answer * np.uint16(256) + np.uint16(128)
    return np.asarray(cv2.resize(raised, (width, height), interpolation=cv2.INTER_LINEAR), np.uint16)
