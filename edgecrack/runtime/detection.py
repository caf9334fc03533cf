"""What was found in a frame, at the frame's own size, computed when it is asked for."""

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

from edgecrack.fitting import Fit, Placement
from edgecrack.images import write_image
from edgecrack.spec import FrameSpec, check_frame, check_threshold, threshold_level

_COLOUR = (80, 40, 255)  # BGR; neither asphalt nor its markings are this red


@dataclass(frozen=True, eq=False)
class Detection:
    """The cracks of one frame.

    Attributes:
        answer: what the model said, uint8 (frame.height, frame.width), at the size that it takes; where it was shown several
            pieces of the frame, uint8 (pieces, frame.height, frame.width).
        fit: where the frame lies in it.
        threshold: the probability from which a pixel is crack, in (0, 1].
        speed: milliseconds per stage: "preprocess", "inference" (from handing over to answer; in a stream that includes
            waiting for the call before it and for the caller) and "postprocess" (0 until `probability` or
            `crack_pixels`, or what needs one of them, was asked for).
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
        """The detection whose `probability` is the given one, uint8 (H, W), 0..255."""
        height, width = probability.shape
        return cls(probability, Fit.of(height, width, FrameSpec(height, width)), threshold)

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
        """How many pixels are crack."""
        if isinstance(self.fit, Fit) and "probability" not in vars(self):
            with self._timed():
                return self.fit.count_from(self.answer, threshold_level(self.threshold))
        return cv2.countNonZero(self.mask.view(np.uint8))

    @property
    def crack_share(self) -> float:
        """The share of pixels that are crack, 0..1."""
        return self.crack_pixels / (self.height * self.width)

    @cached_property
    def contours(self) -> list[NDArray[np.int32]]:
        """The outer boundary of each piece of crack (8-connected), int32 (points, 2), x and y of its corners."""
        found, tree = cv2.findContours(self.mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        # Not RETR_EXTERNAL: it leaves out a piece that lies inside the ring of another.
        return [
            np.asarray(points[:, 0], np.int32)
            for points, links in zip(found, tree[0] if found else (), strict=True)
            if links[3] < 0
        ]

    @cached_property
    def boxes(self) -> NDArray[np.int32]:
        """The box around each piece of crack, int32 (pieces, 4): left, top, right and bottom, those two excluded."""
        corners = [(*points.min(0), *(points.max(0) + 1)) for points in self.contours]
        return np.array(corners, np.int32).reshape(-1, 4)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self.speed["postprocess"] += 1e3 * (perf_counter() - start)

    def with_threshold(self, threshold: float) -> Detection:
        """The same answer under another threshold in (0, 1]; nothing is scaled again. Raises SpecError."""
        other = replace(self, threshold=check_threshold(threshold))
        vars(other)["probability"] = self.probability
        return other

    def plot(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the frame, uint8 (height, width, 3) BGR, with the cracks tinted and outlined from outside.

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
        crack = np.flatnonzero(inside)  # few; by their place they cost a third of what the mask as an index does
        tint = pixels.take(crack, axis=0) // 2 + np.array(_COLOUR, np.uint8) // 2
        # Around, so that a crack two pixels wide can still be seen.
        around = cv2.dilate(inside.view(np.uint8), np.ones((2 * line + 1,) * 2, np.uint8))
        cv2.copyTo(_painted(*overlay.shape[:2])[rows], around, part)
        pixels.view("V3")[crack, 0] = tint.view("V3")[:, 0]  # three bytes as one value: a quarter of the time
        return overlay

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `mask` as an image of 0 and 255, by custom a PNG, whole or not at all. Raises SourceError."""
        write_image(path, self.mask.view(np.uint8) * np.uint8(255))

    def to_json(self) -> dict[str, Any]:
        """The figures, ready for `json.dumps`: width, height, threshold, crack_pixels, crack_share and speed in ms."""
        return {
            "width": self.width,
            "height": self.height,
            "crack_pixels": self.crack_pixels,
            "crack_share": round(self.crack_share, 8),
            "threshold": self.threshold,
            "speed": {stage: round(spent, 3) for stage, spent in self.speed.items()},
        }


@lru_cache(maxsize=2)  # of the last cameras; it takes as long to make as the rest of `Detection.plot`
def _painted(height: int, width: int) -> NDArray[np.uint8]:
    """All in the colour of cracks, uint8 (height, width, 3)."""
    return np.full((height, width, 3), _COLOUR, np.uint8)
