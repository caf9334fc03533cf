"""Tiling of frames larger than the model input: which windows are processed, and how the answers are merged."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SpecError
from edgecrack.fitting import Fit, Placement
from edgecrack.runtime.region import Region, RegionOfInterest
from edgecrack.spec import FrameSpec, ModelSpec

TILE_MODES = ("fit", "tile", "auto")
OVERLAP = 8  # neighbouring tiles overlap by at least a tile's side divided by this

_log = logging.getLogger("edgecrack.tiling")


@dataclass(frozen=True, eq=False)
class Crop:
    """The bounding box of a region in a frame of `height` x `width`, fitted to the model as if it were the frame."""

    height: int
    width: int
    region: Region
    fit: Fit

    @property
    def count(self) -> int:
        """The number of pieces: one."""
        return self.fit.count

    def pieces(self, image: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
        """uint8 (height, width, C) -> one of uint8 (frame.height, frame.width, C)."""
        return self.fit.pieces(image[self.region.box])

    def undo(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (frame.height, frame.width) -> uint8 (height, width), 0 outside the region."""
        whole = np.zeros((self.height, self.width), np.uint8)
        whole[self.region.box] = self.fit.undo(answer)
        return self.region.blank_outside(whole)


@dataclass(frozen=True, eq=False)
class Tiling:
    """Overlapping windows of a frame of `height` x `width`, each of the model's input size, `frame`.

    Attributes:
        corners: (top, left) of each window, row by row; only windows that touch `region`.
        region: the region of interest.
    """

    height: int
    width: int
    frame: FrameSpec
    corners: tuple[tuple[int, int], ...]
    region: Region

    @classmethod
    def of(cls, height: int, width: int, frame: FrameSpec, region: Region) -> Tiling:
        """Make the fewest overlapping windows that cover the region, without those that its mask leaves empty."""
        corners = tuple(
            (top, left)
            for top in _starts(region.top, region.bottom, height, frame.height)
            for left in _starts(region.left, region.right, width, frame.width)
            if region.touches(top, left, frame.height, frame.width)
        )
        return cls(height, width, frame, corners, region)

    @property
    def count(self) -> int:
        """The number of windows."""
        return len(self.corners)

    def pieces(self, image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """uint8 (height, width, C) -> uint8 (frame.height, frame.width, C), as many as `corners`.

        They are views, unless the frame has fewer rows or columns than the model input: then they are
        reflection-padded.
        """
        for top, left in self.corners:
            piece = image[top : top + self.frame.height, left : left + self.frame.width]
            bottom, right = self.frame.height - piece.shape[0], self.frame.width - piece.shape[1]
            if bottom or right:
                piece = np.asarray(cv2.copyMakeBorder(piece, 0, bottom, 0, right, cv2.BORDER_REFLECT_101), np.uint8)
            yield piece

    def undo(self, answer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (tiles, frame.height, frame.width) -> uint8 (height, width), 0 outside the region.

        Where tiles overlap, each is blended into the next, so that answers close to a tile's edge, where the net sees
        only one side, count least. Omitted windows contain no pixel of the region, so that none fades into a gap.
        """
        whole = np.zeros((self.height, self.width), np.uint8)
        answers = iter(answer.reshape(-1, self.frame.height, self.frame.width))  # a single tile has no first axis
        row_end = 0
        for top, row in groupby(self.corners, key=lambda corner: corner[0]):
            strip = whole[top : top + self.frame.height]
            above = strip[: max(0, row_end - top)].copy()
            self._fill(strip, [(left, next(answers)) for _, left in row])
            strip[: len(above)] = _faded(above, strip[: len(above)], _ramp(len(above))[:, np.newaxis])
            row_end = top + len(strip)
        return self.region.blank_outside(whole)

    def _fill(self, strip: NDArray[np.uint8], tiles: list[tuple[int, NDArray[np.uint8]]]) -> None:
        """Write a row of tiles, given as (left, tile), into the rows of the frame that they cover."""
        end = 0
        for left, tile in tiles:
            window = strip[:, left : left + self.frame.width]
            tile = tile[: window.shape[0], : window.shape[1]]  # crops the padding
            shared = max(0, end - left)
            window[:, :shared] = _faded(window[:, :shared], tile[:, :shared], _ramp(shared))
            window[:, shared:] = tile[:, shared:]
            end = left + window.shape[1]


def check_tile(tile: str) -> str:
    """Return `tile`. Raises SpecError unless it is one of `TILE_MODES`."""
    if tile not in TILE_MODES:
        raise SpecError(f"tile is one of {', '.join(TILE_MODES)}, got {tile!r}")
    return tile


def place(height: int, width: int, spec: ModelSpec, tile: str, roi: RegionOfInterest | None) -> Placement:
    """Choose how a frame of `height` x `width` pixels is fed to the model: resized to fit, or in tiles.

    "fit" scales the frame, "tile" cuts one larger than the model input into windows, "auto" does so if fitting would
    shrink it below the smallest scale that the net was trained at, and logs its choice; if a frame is shrunk below that
    anyway, a warning is logged. With a region of interest, only its bounding box is fitted, or only windows that touch
    it are cut.
    Raises SpecError when the region is outside the frame.
    """
    region = roi.within(height, width) if roi else Region(0, height, 0, width)
    fit = Fit.of(region.bottom - region.top, region.right - region.left, spec.input_frame)
    too_small = _shrunk(fit, spec) < spec.scales[0]
    tiled = tile == "tile" or (tile == "auto" and too_small)
    tiled = tiled and (height > spec.input_frame.height or width > spec.input_frame.width)
    if tile == "auto":
        _log.info(
            "%s frames of %dx%d: fitted they are at scale %.2f, and %s was trained at %g to %g",
            *("tiling" if tiled else "fitting", width, height, _shrunk(fit, spec), spec.name, *spec.scales),
        )
    if too_small and not tiled:
        tiles = "" if spec.camera else ', or cut the frames into tiles: --tile auto, tile="auto"'
        _log.warning(
            "frames of %dx%d are shrunk to %.2f of their size, and %s was trained down to %g: thin cracks may be lost; export "
            "with a larger --size%s",
            *(width, height, _shrunk(fit, spec), spec.name, spec.scales[0], tiles),
        )
    if tiled:
        return Tiling.of(height, width, spec.input_frame, region)
    return Crop(height, width, region, fit) if roi else fit


def _shrunk(fit: Fit, spec: ModelSpec) -> float:
    """The scale at which the net sees a fitted frame: a graph with a `camera` size resizes it once more."""
    return fit.scale * Fit.of(spec.input_frame.height, spec.input_frame.width, spec.frame).scale


def _starts(begin: int, end: int, side: int, tile: int) -> list[int]:
    """The start offsets of evenly spread windows of `tile` pixels that cover `begin` to `end` of a frame's `side`.

    A single window larger than that range includes the surroundings.
    """
    length = end - begin
    if length <= tile:
        return [min(max(0, begin - (tile - length) // 2), max(0, side - tile))]
    overlap = tile // OVERLAP
    steps = math.ceil((length - tile) / (tile - overlap))
    return [begin + round(step * (length - tile) / steps) for step in range(steps + 1)]


def _faded(before: NDArray[np.uint8], after: NDArray[np.uint8], ramp: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Blend from `before` to `after`, `ramp` being the weight of `after` in 1/256; equal values stay unchanged."""
    return ((before * (256 - ramp) + after * ramp + 128) >> 8).astype(np.uint8)


@lru_cache(maxsize=64)
def _ramp(length: int) -> NDArray[np.uint16]:
    """Half-cosine ramp from 0 to 256, uint16 (length,)."""
    shares = (np.arange(length) + 0.5) / max(1, length)
    return np.round(128 - 128 * np.cos(np.pi * shares)).astype(np.uint16)
