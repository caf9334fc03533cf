"""Pictures kept during an evaluation: the worst and best frames and examples of false alarms; as JPEG, to be small."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack import metrics
from edgecrack.dataset import LabelledFrame
from edgecrack.evaluation.false_alarms import BESIDE, KINDS, FalsePiece, false_pixels
from edgecrack.evaluation.scores import FrameCounts
from edgecrack.spec import threshold_level

FOUND, MISSED, FALSE = (120, 200, 0), (255, 140, 20), (30, 60, 240)  # BGR: green, blue, red
MARK = (60, 230, 255)  # yellow, around the false alarm that a crop shows
WIDTH = 512  # pixels, at most, of a kept frame
CROP = 128  # pixels, at least, around a false alarm
HEAT = (20, 32)  # rows and columns of the heat map of false alarms
QUALITY = 80
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A frame or a crop of one, plain and with the predictions drawn in: two JPEG files of the same size."""

    name: str
    caption: str
    plain: bytes
    drawn: bytes


@dataclass
class Shelf:
    """The pictures of highest rank, created only when they are kept."""

    size: int
    _kept: list[tuple[float, int, Picture]] = field(default_factory=list)
    _seen: int = 0

    def offer(self, rank: float, picture: Callable[[], Picture]) -> None:
        """Keep `picture()` if `rank` is among the highest so far; among equals, the first stays."""
        self._seen += 1
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, (rank, -self._seen, picture()))
        elif rank > self._kept[0][0]:
            heapq.heapreplace(self._kept, (rank, -self._seen, picture()))

    @property
    def pictures(self) -> list[Picture]:
        """The pictures, highest rank first."""
        return [picture for _, _, picture in sorted(self._kept, key=lambda item: item[:2], reverse=True)]


class Gallery:
    """Collects the pictures of an evaluation that are worth seeing; pass it to `evaluate` as `witness`."""

    def __init__(self, threshold: float, frames: int = 4, crops: int = 3) -> None:
        """`threshold` is the model's; `frames` and `crops` are the numbers kept on each shelf."""
        self._level = threshold_level(threshold)
        self.worst, self.best, self.silent = Shelf(frames), Shelf(frames), Shelf(frames)
        self.kinds = {kind: Shelf(crops) for kind in KINDS}
        self.heat: NDArray[np.float64] = np.zeros(HEAT)

    def __call__(self, frame: LabelledFrame, probability: Image, counts: FrameCounts) -> None:
        """Take a frame, its crack probability and its counts, and keep the pictures that rank high enough."""
        predicted = probability >= self._level
        mask = np.zeros(predicted.shape, np.bool_) if frame.mask is None else frame.mask
        self._frame(frame, predicted, mask, counts)
        if counts.false:
            false = false_pixels(predicted, mask).astype(np.float32)
            self.heat += cv2.resize(false, HEAT[::-1], interpolation=cv2.INTER_AREA)
        for piece in counts.false:
            self.kinds[piece.kind].offer(piece.pixels, lambda piece=piece: _crop(frame, predicted, mask, piece))  # type: ignore[misc]

    def _frame(
        self, frame: LabelledFrame, predicted: NDArray[np.bool_], mask: NDArray[np.bool_], counts: FrameCounts
    ) -> None:
        share = float(counts.strict.predicted[self._level]) / counts.strict.pixels
        if counts.strict.truth:
            f1 = float(metrics.f_score(counts.near)[self._level])
            for shelf, rank in ((self.worst, -f1), (self.best, f1)):
                shelf.offer(rank, lambda: _whole(frame, predicted, mask, f"F1 within 2 px {f1:.3f}"))
        elif share:
            self.silent.offer(share, lambda: _whole(frame, predicted, mask, f"{share:.3%} of the pixels fire"))


def overlay(image: Image, predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Image:
    """`image` uint8 (H, W, 3) in grey, with found labelled cracks in green, missed ones in blue and predictions further
    than 2 px from a label in red; lines are a pixel wider on each side, to be visible in small pictures."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    drawn = np.asarray(grey // 2 + 64, np.uint8)
    found = mask & (metrics.dilated(predicted.view(np.uint8), BESIDE) > 0)
    for where, colour in ((false_pixels(predicted, mask), FALSE), (mask & ~found, MISSED), (found, FOUND)):
        drawn[metrics.dilated(where.view(np.uint8), 1) > 0] = colour
    return drawn


def _whole(frame: LabelledFrame, predicted: NDArray[np.bool_], mask: NDArray[np.bool_], caption: str) -> Picture:
    images = (frame.image, overlay(frame.image, predicted, mask))
    return Picture(frame.name, caption, *map(jpeg, map(_small, images)))


def _crop(frame: LabelledFrame, predicted: NDArray[np.bool_], mask: NDArray[np.bool_], piece: FalsePiece) -> Picture:
    left, top, right, bottom = piece.box
    side = max(CROP, int(1.3 * max(right - left, bottom - top)))
    rows, columns = (
        _around(low, high, side, length)
        for low, high, length in zip((top, left), (bottom, right), predicted.shape, strict=True)
    )
    own = np.s_[rows, columns]
    drawn = overlay(frame.image[own], predicted[own], mask[own])
    offset = (columns.start, rows.start) * 2
    box = [edge - start for edge, start in zip(piece.box, offset, strict=True)]
    cv2.rectangle(drawn, (box[0] - 3, box[1] - 3), (box[2] + 2, box[3] + 2), MARK, 1)
    images = (frame.image[own], drawn)
    where = f"{piece.pixels} px at {(left + right) // 2}, {(top + bottom) // 2}"
    return Picture(frame.name, where, *map(jpeg, map(_small, images)))


def _around(low: int, high: int, side: int, length: int) -> slice:
    start = max(0, min((low + high - side) // 2, length - side))
    return slice(start, min(length, start + side))


def _small(image: Image) -> Image:
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    return np.asarray(cv2.resize(image, (WIDTH, round(height * WIDTH / width)), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(image: Image) -> bytes:
    """Encode uint8 (H, W, 3) BGR as JPEG."""
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
