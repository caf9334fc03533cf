"""False alarms (false positives), classified by traits that can be measured in the frame.

A piece is an 8-connected region of predicted pixels; its false pixels are those further than 2 px from every labelled
one. The kinds below are traits of a piece and its surroundings, not what a person would call the object: a straight
line may be a joint, a seam or a wire, and something thin and dark may be a crack that nobody labelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.metrics import dilated

BESIDE = 2.0  # pixels from a labelled crack within which nothing is a false alarm
SPECK = 16  # pixels, the longer side of the box around a piece
LONG = 64  # pixels, least length of a straight piece
STRAIGHT = 1 / 40  # of its length: most root-mean-square distance of a straight piece from its axis
THIN = 15  # pixels; wider things are areas with borders
BLUR = 4.0  # pixels, sigma: thin structures vanish at this scale, borders do not
STEP = 20.0  # grey levels between the two sides of a border
DARKER = 2.0  # times the frame's median darkness against the surroundings

KINDS = {  # in this order; the first that fits is taken
    "beside": "at a labelled crack",
    "speck": "isolated speck",
    "border": "border of light and dark",
    "straight": "straight line",
    "dark": "thin and dark",
    "texture": "none of these",
}
EXPLAINED = {
    "beside": "the piece touches a labelled crack: it runs on, or is wider",
    "speck": f"less than {SPECK} px long",
    "border": "marks, shadows, patches, vehicles, edges of the road",
    "straight": f"{LONG} px or longer: joints, seams, wires, edges of marks",
    "dark": "as cracks are: stains, or cracks that nobody labelled",
    "texture": "texture of the surface or of what is beside it",
}


@dataclass(frozen=True)
class FalsePiece:
    """A false alarm: kind, a key of `KINDS`, number of false pixels, and their box (left, top, right, bottom)."""

    kind: str
    pixels: int
    box: tuple[int, int, int, int]


def false_pixels(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (H, W): predicted pixels that are not within 2 px of a labelled crack."""
    return np.asarray(predicted & (dilated(mask.view(np.uint8), BESIDE) == 0))


def false_pieces(
    image: NDArray[np.uint8], predicted: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> tuple[FalsePiece, ...]:
    """The pieces of `predicted`, bool (H, W), that have false pixels; `image` uint8 (H, W, 3), `mask` bool (H, W)."""
    false = false_pixels(predicted, mask)
    if not false.any():
        return ()
    number, labels = cv2.connectedComponents(predicted.view(np.uint8), connectivity=8)
    y, x = np.nonzero(false)
    of = labels[y, x].astype(np.int32, copy=False)
    area = np.bincount(of, minlength=number)
    touching = np.bincount(labels[predicted & ~false], minlength=number) > 0
    boxes = _boxes(x, y, of, number)
    kinds = _kinds(image, x, y, of, area, boxes)
    kinds[touching] = "beside"
    return tuple(FalsePiece(str(kinds[i]), int(area[i]), tuple(map(int, boxes[i]))) for i in np.flatnonzero(area))  # type: ignore[arg-type]


def _kinds(
    image: NDArray[np.uint8],
    x: NDArray[np.intp],
    y: NDArray[np.intp],
    of: NDArray[np.int32],
    area: NDArray[np.intp],
    boxes: NDArray[np.intp],
) -> NDArray[np.str_]:
    """The kind of each piece by its own traits; later assignments here take precedence."""
    dark, across, down, usual = _contrast(image)
    darkness = _mean(dark[y, x], of, area)
    border = _mean(np.hypot(across[y, x], down[y, x]), of, area)
    kinds = np.full(len(area), "texture", dtype="<U8")
    kinds[darkness >= DARKER * max(usual, 1.0)] = "dark"
    kinds[_straight(x, y, of, area)] = "straight"
    kinds[(border >= STEP) & (border > darkness)] = "border"
    kinds[np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) < SPECK] = "speck"
    return kinds


def _contrast(
    image: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], float]:
    """Per pixel, the grey levels by which it is darker than its surroundings (thin dark structures), and the height of
    the step there (borders between areas), horizontally and vertically; and the median of the first."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 1.0)
    dark = np.asarray(cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((THIN, THIN), np.uint8)), np.uint8)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR)
    # The slope of a unit step blurred by a Gaussian is 1 / (sigma sqrt(2 pi)), its peak; Sobel's weights sum to 8.
    height = BLUR * np.sqrt(2 * np.pi) / 8
    across, down = (
        np.asarray(cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=height), np.float32) for axis in ((1, 0), (0, 1))
    )
    usual = np.searchsorted(np.cumsum(np.bincount(dark.ravel())), dark.size / 2)  # the median, computed faster
    return dark, across, down, float(usual)


def _straight(
    x: NDArray[np.intp], y: NDArray[np.intp], of: NDArray[np.int32], area: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether each piece is long and stays near its axis, from the second moments of its pixels."""
    dx, dy = x - _mean(x, of, area)[of], y - _mean(y, of, area)[of]
    xx, yy, xy = (_mean(product, of, area) for product in (dx * dx, dy * dy, dx * dy))
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    length = np.sqrt(12 * (middle + spread))  # of a bar with this variance
    stray = np.sqrt(np.maximum(middle - spread, 0))
    return np.asarray((length >= LONG) & (stray <= STRAIGHT * length))


def _mean(values: NDArray[np.generic], of: NDArray[np.int32], area: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(of, values, minlength=len(area)) / np.maximum(area, 1))


def _boxes(x: NDArray[np.intp], y: NDArray[np.intp], of: NDArray[np.int32], number: int) -> NDArray[np.intp]:
    """(number, 4): left, top, right and bottom of each piece, the last two exclusive."""
    boxes = np.zeros((number, 4), np.intp)
    boxes[:, :2] = np.iinfo(np.int32).max
    for column, values in ((0, x), (1, y)):
        np.minimum.at(boxes[:, column], of, values)
        np.maximum.at(boxes[:, column + 2], of, values + 1)
    return boxes
