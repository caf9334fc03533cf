"""The detection result for one frame, at the frame's own size, computed on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError
from edgecrack.fitting import Fit, Placement
from edgecrack.images import write_image
from edgecrack.spec import FrameSpec, check_frame, check_threshold, threshold_level

_COLOUR = (80, 40, 255)  # BGR; neither asphalt nor its markings are this red


@dataclass(frozen=True, eq=False)
class Detection:
    """The cracks of one frame.

    Attributes:
        answer: the model's raw output, uint8 (frame.height, frame.width), at its input size; for a frame processed in
            several pieces, uint8 (pieces, frame.height, frame.width).
        fit: how the frame maps to `answer`.
        threshold: the lowest probability at which a pixel counts as crack, in (0, 1].
        speed: milliseconds per stage: "preprocess", "inference" (from submission to answer; in a stream this includes
            waiting for the previous call and for the caller) and "postprocess" (0 until `probability`, `crack_pixels`
            or anything that needs one of them is first accessed).
    """

    answer: NDArray[np.uint8]
    fit: Placement
    threshold: float
    speed: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("preprocess", "inference", "postprocess"), 0.0)
    )

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @classmethod
    def of(cls, probability: NDArray[np.uint8], threshold: float) -> Detection:
        """Make a detection whose `probability` is the given map, uint8 (H, W), 0..255. Raises FrameError, SpecError."""
        if probability.dtype != np.uint8 or probability.ndim != 2 or not probability.size:
            raise FrameError(f"wanted probabilities, uint8 (H, W), got {probability.dtype} {probability.shape}")
        height, width = probability.shape
        return cls(probability, Fit.of(height, width, FrameSpec(height, width)), check_threshold(threshold))

    @property
    def height(self) -> int:
        """Height of the frame in pixels."""
        return self.fit.height

    @property
    def width(self) -> int:
        """Width of the frame in pixels."""
        return self.fit.width

    @cached_property
    def probability(self) -> NDArray[np.uint8]:
        """The crack probability of each pixel, uint8 (height, width), 0..255."""
        with self._timed():
            return self.fit.undo(self.answer)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """bool (height, width): True where `probability` >= ceil(255 x threshold)."""
        return np.asarray(self.probability >= threshold_level(self.threshold))

    @cached_property
    def crack_pixels(self) -> int:
        """The number of crack pixels."""
        if isinstance(self.fit, Fit) and "probability" not in vars(self):
            with self._timed():
                return self.fit.count_from(self.answer, threshold_level(self.threshold))
        return cv2.countNonZero(self.mask.view(np.uint8))

    @property
    def crack_share(self) -> float:
        """The fraction of pixels that are crack, 0..1."""
        return self.crack_pixels / (self.height * self.width)

    @cached_property
    def contours(self) -> list[NDArray[np.int32]]:
        """The outer boundary of each (8-connected) crack region, int32 (points, 2), x and y of its vertices."""
        found, tree = cv2.findContours(self.mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        # Not RETR_EXTERNAL: it omits a region enclosed by the ring of another.
        return [
            np.asarray(points[:, 0], np.int32)
            for points, links in zip(found, tree[0] if found else (), strict=True)
            if links[3] < 0
        ]

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """The bounding box of each crack region, int32 (regions, 4): left, top, and exclusive right and bottom."""
        corners = [(*points.min(0), *(points.max(0) + 1)) for points in self.contours]
        return np.array(corners, np.int32).reshape(-1, 4)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self.speed["postprocess"] += 1e3 * (perf_counter() - start)

    def with_threshold(self, threshold: float) -> Detection:
        """Return the same detection at another threshold in (0, 1], without rescaling again. Raises SpecError."""
        other = replace(self, threshold=check_threshold(threshold))
        vars(other)["probability"] = self.probability
        return other

    def plot(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Draw the cracks, tinted and outlined on the outside, on a copy of the frame, uint8 (height, width, 3) BGR.

        `image` is the frame, BGR or BGRx. Raises FrameError when it is not a frame of this size.
        """
        check_frame(image, "bgrx")
        overlay = np.array(image[:, :, :3], order="C")
        FrameSpec(self.height, self.width).check(overlay)
        found = np.flatnonzero(self.mask.any(axis=1))
        if not found.size:
            return overlay
        line = max(1, round(min(self.height, self.width) / 720))
        rows = slice(max(0, found[0] - line), found[-1] + line + 1)
        inside, part = self.mask[rows], overlay[rows]
        pixels = part.reshape(-1, 3)
        crack = np.flatnonzero(inside)  # few: indexing by position takes a third of the time of a boolean mask
        tint = pixels.take(crack, axis=0) // 2 + np.array(_COLOUR, np.uint8) // 2
        # Outlined on the outside, so that a crack two pixels wide stays visible.
        around = cv2.dilate(inside.view(np.uint8), np.ones((2 * line + 1,) * 2, np.uint8))
        cv2.copyTo(_painted(*overlay.shape[:2])[rows], around, part)
        pixels.view("V3")[crack, 0] = tint.view("V3")[:, 0]  # copies three bytes as one value: a quarter of the time
        return overlay

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `mask` atomically as an image of 0 and 255, usually a PNG. Raises SourceError."""
        write_image(path, self.mask.view(np.uint8) * np.uint8(255))

    def to_json(self) -> dict[str, Any]:
        """Return figures for `json.dumps`: width, height, threshold, crack_pixels, crack_share and speed in ms."""
        return {
            "width": self.width,
            "height": self.height,
            "crack_pixels": self.crack_pixels,
            "crack_share": round(self.crack_share, 8),
            "threshold": self.threshold,
            "speed": {stage: round(spent, 3) for stage, spent in self.speed.items()},
        }


@lru_cache(maxsize=2)  # for the latest frame sizes; making one takes as long as the rest of `Detection.plot`
def _painted(height: int, width: int) -> NDArray[np.uint8]:
    """An image filled with the crack colour, uint8 (height, width, 3)."""
    return np.full((height, width, 3), _COLOUR, np.uint8)
