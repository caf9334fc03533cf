"""Metrics for crack maps: counts at all thresholds at once, and the metrics computed from them.

A probability map is uint8, so there are only 256 distinct thresholds: index k stands for k/255, and a pixel is
predicted as crack when its probability is at least k. One histogram therefore gives all counts, the counts of frames
add up to the counts of a data set, and each metric is an array of 256 values. The best threshold is searched from
k = 1, as at k = 0 everything is predicted. Metrics also take stacked counts, one row per frame or per draw of frames,
and then return one row each.

A metric is 1 where nothing is predicted and nothing is true, and 0 where only one of its denominators is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError
from edgecrack.spec import threshold_level

LEVELS = 256  # values of a uint8 probability
PATCH = 32  # side of a patch in pixels
AIU_LEVELS = [threshold_level(percent / 100) for percent in range(1, 100)]

Array = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diagonal:
    """A tolerance relative to the frame size: a fraction of its diagonal, 0.0075 in the boundary benchmarks."""

    share: float


Tolerance = float | Diagonal  # in pixels, or relative to the frame


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixel counts of one or more frames at the thresholds k/255; those of equal tolerance can be added with `+`.

    Attributes:
        predicted: int64 (256,), pixels whose probability is at least k; stacked, (rows, 256).
        predicted_hit: of the same shape, those of them with a true crack pixel within the tolerance.
        truth: true crack pixels; stacked, (rows, 1).
        truth_found: shaped as `predicted`, true crack pixels with a predicted pixel within the tolerance.
        pixels: all pixels; stacked, (rows, 1).
        tolerance: Euclidean distance between pixel centres; at 0 `predicted_hit` and `truth_found` are both the true
            positives.
    """

    predicted: Array
    predicted_hit: Array
    truth: Any
    truth_found: Array
    pixels: Any
    tolerance: Tolerance = 0.0

    def __add__(self, other: Counts) -> Counts:
        if self.tolerance != other.tolerance:
            raise ValueError(f"counts within {self.tolerance} and within {other.tolerance} do not add up")
        return Counts(
            self.predicted + other.predicted,
            self.predicted_hit + other.predicted_hit,
            self.truth + other.truth,
            self.truth_found + other.truth_found,
            self.pixels + other.pixels,
            self.tolerance,
        )


def counts(probability: NDArray[np.uint8], mask: NDArray[np.bool_], tolerance: Tolerance = 0.0) -> Counts:
    """Count one frame: `probability` uint8 (H, W), `mask` bool (H, W) True on crack, `tolerance` from 0.

    A pixel is within the tolerance of another if a disk of that radius around the other covers it; dilating by the disk
    therefore gives for all thresholds what a distance transform gives for one. Several pixels may match the same one.
    Raises FrameError for other types or shapes, ValueError for a negative tolerance.
    """
    (one,) = counts_within(probability, mask, (tolerance,))
    return one


def counts_within(
    probability: NDArray[np.uint8], mask: NDArray[np.bool_], tolerances: Iterable[Tolerance]
) -> tuple[Counts, ...]:
    """Compute `counts` for several tolerances, sharing the work that they have in common."""
    _check(probability, mask)
    predicted, truth = _at_least(probability), int(np.count_nonzero(mask))

    def within(tolerance: Tolerance) -> Counts:
        radius = _radius(tolerance, mask.shape)
        if radius < 1:
            hit = found = _at_least(probability[mask])
        else:
            hit = _at_least(probability[dilated(mask.view(np.uint8), radius) > 0])
            found = _at_least(dilated(probability, radius)[mask])
        kind = tolerance if isinstance(tolerance, Diagonal) else float(tolerance)
        return Counts(predicted, hit, truth, found, mask.size, kind)

    return tuple(map(within, tolerances))


def dilated(image: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """The maximum of uint8 (H, W) within `radius` pixels of each pixel, measured between centres."""
    return np.asarray(cv2.dilate(image, _disk(radius)), np.uint8)


def pool(parts: Iterable[Counts]) -> Counts:
    """Sum the counts of several frames. Raises TypeError when there are none."""
    return reduce(add, parts)


def stack(parts: Sequence[Counted]) -> Counted:
    """Stack the counts of frames, one row each, as float64: exact for integers up to 2**53 and fast to multiply.

    Raises ValueError when there are none or their tolerances differ.
    """
    if len({getattr(part, "tolerance", None) for part in parts}) != 1:
        raise ValueError("wanted counts of one frame at least, and of one tolerance")
    rows: dict[str, Any] = {
        name: np.array([np.atleast_1d(getattr(part, name)) for part in parts], np.float64)
        for name in _counted(parts[0])
    }
    return replace(parts[0], **rows)


def drawn(frames: Counted, weights: Floats) -> Counted:
    """Pool stacked counts by draws: row i of `weights` (draws, frames) says how often draw i contains each frame."""
    return replace(frames, **{name: weights @ getattr(frames, name) for name in _counted(frames)})


def at_level(counts: Counts, level: Ints) -> Counts:
    """Select the counts at one threshold (one per row if stacked): arrays whose last axis has length 1."""
    own = np.asarray(level)[..., np.newaxis]
    arrays: dict[str, Any] = {name: np.take_along_axis(getattr(counts, name), own, -1) for name in _BY_LEVEL}
    return replace(counts, **arrays)


def precision(counts: Counts) -> Floats:
    """Precision, float64 (..., 256): the fraction of predicted pixels that are hits."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.predicted_hit, counts.predicted))


def recall(counts: Counts) -> Floats:
    """Recall, float64 (..., 256): the fraction of true pixels that are found."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.truth_found, counts.truth))


def area_ratio(counts: Counts) -> Floats:
    """Predicted over true pixels, float64 (..., 256): above 1 if too many are predicted, 0 if none are true."""
    return _ratio(counts.predicted, counts.truth)


def f_score(counts: Counts, beta_squared: float = 1.0) -> Floats:
    """F-score, float64 (..., 256): (1 + b2) P R / (b2 P + R); b2 below 1 favours precision (AELF-UNet reports 0.3)."""
    p, r = precision(counts), recall(counts)
    return _ratio((1 + beta_squared) * p * r, beta_squared * p + r)


def iou(counts: Counts) -> Floats:
    """Crack IoU, float64 (..., 256): intersection over union. Raises ValueError unless the tolerance is 0."""
    hit = _strict(counts).predicted_hit
    return np.where(_nothing(counts), 1.0, _ratio(hit, counts.predicted + counts.truth - hit))


def mean_iou(counts: Counts) -> Floats:
    """Mean of crack and background IoU, float64 (..., 256). Raises ValueError unless the tolerance is 0."""
    either = counts.predicted + counts.truth - counts.predicted_hit
    neither = counts.pixels - either
    wrong = either - counts.predicted_hit
    background = np.where(neither + wrong == 0, 1.0, _ratio(neither, neither + wrong))
    return (iou(counts) + background) / 2


def best_f1(counts: Counts) -> tuple[float, float]:
    """The best F1 (ODS if pooled) and its threshold in 1/255..1; of equally good thresholds, the middle one."""
    best, level = best_level(counts)
    return float(best), int(level) / 255


def best_level(counts: Counts) -> tuple[Floats, Ints]:
    """The best F1 and its k, the middle of equally good ones; for each row if counts are stacked."""
    best, equals = _equals(counts)
    rank = np.cumsum(equals, axis=-1)
    return best, np.argmax(rank > rank[..., -1:] // 2, axis=-1) + 1


def ois(frames: Sequence[Counts]) -> float:
    """OIS: F1 of the pooled counts, each frame at its own best threshold (of equals, the one with fewest pixels).

    A frame's best threshold is not always best for the pool, so OIS is usually but not necessarily above ODS.
    """
    own = at_own_best(stack(frames))
    return float(f_score(drawn(own, np.ones((1, len(frames)))))[0, 0])


def at_own_best(frames: Counts) -> Counts:
    """Select each row of stacked counts at its own best threshold; of equals, the one with the fewest pixels."""
    equals = _equals(frames)[1]
    return at_level(frames, LEVELS - 1 - np.argmax(equals[..., ::-1], axis=-1))


def average_precision(counts: Counts) -> Any:
    """Area under the precision-recall curve as a step sum of (R_k - R_k-1) P_k; 0 where nothing is true.

    For zero tolerance it equals scikit-learn's `average_precision_score` over all pixels.
    """
    r, p = _curve(counts)
    return np.sum(np.diff(r) * p[..., 1:], axis=-1)


def area_under_curve(counts: Counts) -> Any:
    """Area under the precision-recall curve by the trapezoidal rule, from (R, P) = (0, 1); slightly optimistic."""
    r, p = _curve(counts)
    return np.sum(np.diff(r) * (p[..., 1:] + p[..., :-1]) / 2, axis=-1)


def aiu(frames: Sequence[Counts]) -> float:
    """AIU: mean over the thresholds 0.01..0.99 of the mean IoU of the frames.

    Source: Yang et al., Feature Pyramid and Hierarchical Boosting Network for Pavement Crack Detection.
    """
    return float(np.mean(frame_aiu(stack(frames))))


def frame_aiu(counts: Counts) -> Any:
    """AIU of one frame, or of each row if stacked; `aiu` is their mean."""
    return np.mean(iou(counts)[..., AIU_LEVELS], axis=-1)


@dataclass(frozen=True)
class PatchCounts:
    """Patch counts of one or more frames at the thresholds k/255, int64 (256,), stacked (rows, 256); can be added."""

    true_positive: Array
    false_negative: Array
    false_positive: Array

    def __add__(self, other: PatchCounts) -> PatchCounts:
        return PatchCounts(
            self.true_positive + other.true_positive,
            self.false_negative + other.false_negative,
            self.false_positive + other.false_positive,
        )


def patch_counts(probability: NDArray[np.uint8], mask: NDArray[np.bool_]) -> PatchCounts:
    """Count one frame by patches of 32x32 px; those at the right and bottom edges may be smaller.

    A patch is true when at least 5 % of its pixels are crack, and then found when at least half of those are predicted.
    Any other patch is a false positive when at least 5 % of its pixels are predicted. These are SCNet's rules except
    the last, which the paper leaves open. Takes and raises what `counts` does, without the tolerance.
    """
    _check(probability, mask)
    rows = range(0, mask.shape[0], PATCH)  # one row of patches at a time, to keep memory low for any frame size
    return reduce(add, (_patch_row(probability[y : y + PATCH], mask[y : y + PATCH]) for y in rows))


def patch_f1(patches: PatchCounts) -> Floats:
    """F1 of patches, float64 (..., 256)."""
    wrong = patches.false_positive + patches.false_negative
    whole = 2 * patches.true_positive + wrong
    return np.where(whole == 0, 1.0, _ratio(2 * patches.true_positive, whole))


Counted = TypeVar("Counted", Counts, PatchCounts)
_BY_LEVEL = ("predicted", "predicted_hit", "truth_found")


def _patch_row(probability: NDArray[np.uint8], mask: NDArray[np.bool_]) -> PatchCounts:
    patch_of = np.arange(mask.shape[1]) // PATCH
    number = int(patch_of[-1]) + 1
    bins = patch_of * LEVELS + probability  # one histogram per patch, side by side
    predicted = _at_least_each(bins, number)
    hit = _at_least_each(bins[mask], number)
    area, crack = predicted[:, :1], hit[:, :1]  # at k = 0 everything is predicted
    true = 20 * crack >= area
    found = 2 * hit >= crack
    return PatchCounts(
        np.sum(true & found, axis=0),
        np.sum(true & ~found, axis=0),
        np.sum(~true & (20 * predicted >= area), axis=0),
    )


def _at_least(values: NDArray[Any]) -> Ints:
    return np.asarray(_at_least_each(values, 1)[0])


def _at_least_each(bins: NDArray[Any], number: int) -> Ints:
    """int64 (number, 256): for each i, the number of values 256 i + v with v of at least k."""
    histograms = np.bincount(bins.ravel(), minlength=number * LEVELS).reshape(number, LEVELS)
    return np.cumsum(histograms[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]


def _radius(tolerance: Tolerance, shape: tuple[int, ...]) -> float:
    radius = tolerance.share * math.hypot(*shape) if isinstance(tolerance, Diagonal) else tolerance
    if not radius >= 0:
        raise ValueError(f"a tolerance is a distance in pixels from 0, got {tolerance!r}")
    return radius


def _disk(radius: float) -> NDArray[np.uint8]:
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


def _counted(counts: Counts | PatchCounts) -> list[str]:
    return [field.name for field in fields(counts) if field.name != "tolerance"]


def _equals(counts: Counts) -> tuple[Floats, NDArray[np.bool_]]:
    """The best F1, and which k from 1 on reach it, bool (..., 255)."""
    scores = f_score(counts)[..., 1:]
    best = scores.max(axis=-1, keepdims=True)
    return best[..., 0], scores == best


def _curve(counts: Counts) -> tuple[Floats, Floats]:
    """Recall and precision from the highest threshold down, starting at (0, 1) until a pixel is predicted."""
    fires = counts.predicted > 0
    r = np.where(fires, _ratio(counts.truth_found, counts.truth), 0.0)[..., ::-1]
    p = np.where(fires, precision(counts), 1.0)[..., ::-1]
    start = [(0, 0)] * (r.ndim - 1) + [(1, 0)]
    return np.pad(r, start), np.pad(p, start, constant_values=1.0)


def _nothing(counts: Counts) -> NDArray[np.bool_]:
    return np.asarray(counts.predicted + counts.truth == 0)


def _ratio(part: Any, whole: Any) -> Floats:
    """part / whole, 0 where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0))


def _strict(counts: Counts) -> Counts:
    if isinstance(counts.tolerance, Diagonal) or counts.tolerance >= 1:
        raise ValueError(f"an IoU is of strict counts, these have a tolerance of {counts.tolerance}")
    return counts


def _check(probability: Any, mask: Any) -> None:
    for name, array, wanted in (("probability", probability, np.uint8), ("mask", mask, np.bool_)):
        if not isinstance(array, np.ndarray):
            raise FrameError(f"wanted a {name} {np.dtype(wanted)} (H, W), got {type(array).__name__}")
        if array.dtype != wanted or array.ndim != 2 or not array.size:
            raise FrameError(f"wanted a {name} {np.dtype(wanted)} (H, W), got {array.dtype} {array.shape}")
    if probability.shape != mask.shape:
        raise FrameError(f"wanted a probability of the mask's shape {mask.shape}, got {probability.shape}")
