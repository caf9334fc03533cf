"""What a crack map is worth: counts at every threshold at once, and the metrics that follow from them.

A probability map is uint8, so only 256 thresholds differ: index k stands for k/255, and a pixel is predicted crack when
its probability is at least k. One histogram therefore counts them all, counts of frames add up to counts of a data set,
and each metric is an array of 256 values. The best threshold is sought from k = 1, as at k = 0 everything is predicted.
Metrics take stacked counts too, one row a frame or a draw of frames, and then answer with one row each.

Where nothing is predicted and nothing is true a metric is 1; where only one of its denominators is 0 it is 0.
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

LEVELS = 256  # of a uint8 probability
PATCH = 32  # pixels, the side of a patch
AIU_LEVELS = [threshold_level(percent / 100) for percent in range(1, 100)]

Array = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diagonal:
    """A tolerance that grows with the frame: a share of its diagonal, 0.0075 in the boundary benchmarks."""

    share: float


Tolerance = float | Diagonal  # in pixels, or of the frame


@dataclass(frozen=True)
class Counts:
    """Pixels of one frame, or of many, at the thresholds k/255; counts of one tolerance add up with `+`.

    Attributes:
        predicted: int64 (256,), pixels whose probability is at least k; stacked, (rows, 256).
        predicted_hit: the same, those of them with a true crack pixel within the tolerance.
        truth: true crack pixels; stacked, (rows, 1).
        truth_found: as `predicted`, true crack pixels with a predicted pixel within the tolerance.
        pixels: all pixels; stacked, (rows, 1).
        tolerance: Euclidean distance between centres; at 0 both hits are the true positives.
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

    A pixel within the tolerance of another is one that a disk of that radius around it covers, so that dilating by the
    disk answers for all thresholds what a distance transform answers for one. Several pixels may match the same one.
    Raises FrameError for other types or shapes, ValueError for a negative tolerance.
    """
    (one,) = counts_within(probability, mask, (tolerance,))
    return one


def counts_within(
    probability: NDArray[np.uint8], mask: NDArray[np.bool_], tolerances: Iterable[Tolerance]
) -> tuple[Counts, ...]:
    """What `counts` says for each of several tolerances, and what they have in common counted once."""
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
    """The greatest value of uint8 (H, W) within `radius` pixels of each pixel, from centre to centre."""
    return np.asarray(cv2.dilate(image, _disk(radius)), np.uint8)


def pool(parts: Iterable[Counts]) -> Counts:
    """The counts of several frames together. Raises TypeError when there is none."""
    return reduce(add, parts)


def stack(parts: Sequence[Counted]) -> Counted:
    """The counts of several frames, one row each, as float64, which holds whole numbers to 2**53 and multiplies fast.

    Raises ValueError when there is none or their tolerances differ.
    """
    if len({getattr(part, "tolerance", None) for part in parts}) != 1:
        raise ValueError("wanted counts of one frame at least, and of one tolerance")
    rows: dict[str, Any] = {
        name: np.array([np.atleast_1d(getattr(part, name)) for part in parts], np.float64)
        for name in _counted(parts[0])
    }
    return replace(parts[0], **rows)


def drawn(frames: Counted, weights: Floats) -> Counted:
    """Stacked counts pooled anew, row i of `weights` (draws, frames) being how often draw i has each frame."""
    return replace(frames, **{name: weights @ getattr(frames, name) for name in _counted(frames)})


def at_level(counts: Counts, level: Ints) -> Counts:
    """Counts at one threshold, of stacked counts at one of each row: arrays whose last axis has length 1."""
    own = np.asarray(level)[..., np.newaxis]
    arrays: dict[str, Any] = {name: np.take_along_axis(getattr(counts, name), own, -1) for name in _BY_LEVEL}
    return replace(counts, **arrays)


def precision(counts: Counts) -> Floats:
    """float64 (..., 256): the share of predicted pixels that are hits."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.predicted_hit, counts.predicted))


def recall(counts: Counts) -> Floats:
    """float64 (..., 256): the share of true pixels that are found."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.truth_found, counts.truth))


def area_ratio(counts: Counts) -> Floats:
    """float64 (..., 256): the predicted pixels over the true ones, above 1 where too many are predicted; 0 where none is true."""
    return _ratio(counts.predicted, counts.truth)


def f_score(counts: Counts, beta_squared: float = 1.0) -> Floats:
    """float64 (..., 256): (1 + b2) P R / (b2 P + R); b2 below 1 favours precision (AELF-UNet reports 0.3)."""
    p, r = precision(counts), recall(counts)
    return _ratio((1 + beta_squared) * p * r, beta_squared * p + r)


def iou(counts: Counts) -> Floats:
    """float64 (..., 256): intersection over union of the crack pixels. Raises ValueError unless the tolerance is 0."""
    hit = _strict(counts).predicted_hit
    return np.where(_nothing(counts), 1.0, _ratio(hit, counts.predicted + counts.truth - hit))


def mean_iou(counts: Counts) -> Floats:
    """float64 (..., 256): the mean of the IoU of crack and of background. Raises ValueError unless the tolerance is 0."""
    either = counts.predicted + counts.truth - counts.predicted_hit
    neither = counts.pixels - either
    wrong = either - counts.predicted_hit
    background = np.where(neither + wrong == 0, 1.0, _ratio(neither, neither + wrong))
    return (iou(counts) + background) / 2


def best_f1(counts: Counts) -> tuple[float, float]:
    """The best F1 and its threshold in 1/255..1 (ODS when pooled); of equally good thresholds, the middle one."""
    best, level = best_level(counts)
    return float(best), int(level) / 255


def best_level(counts: Counts) -> tuple[Floats, Ints]:
    """The best F1 and the k it is reached at, the middle of equally good ones; of each row where counts are stacked."""
    best, equals = _equals(counts)
    rank = np.cumsum(equals, axis=-1)
    return best, np.argmax(rank > rank[..., -1:] // 2, axis=-1) + 1


def ois(frames: Sequence[Counts]) -> float:
    """F1 of the pooled counts of frames that each choose their own best threshold (fewest pixels among equals).

    A frame's best threshold is not always best for the pool, so that OIS is above ODS as a rule and not by law.
    """
    own = at_own_best(stack(frames))
    return float(f_score(drawn(own, np.ones((1, len(frames)))))[0, 0])


def at_own_best(frames: Counts) -> Counts:
    """Stacked counts, each row at its own best threshold, of equally good ones that with the fewest pixels."""
    equals = _equals(frames)[1]
    return at_level(frames, LEVELS - 1 - np.argmax(equals[..., ::-1], axis=-1))


def average_precision(counts: Counts) -> Any:
    """Area under the precision-recall curve by steps, sum of (R_k - R_k-1) P_k; 0 where nothing is true.

    On strict counts this is what scikit-learn's `average_precision_score` gives for all pixels.
    """
    r, p = _curve(counts)
    return np.sum(np.diff(r) * p[..., 1:], axis=-1)


def area_under_curve(counts: Counts) -> Any:
    """Area under the precision-recall curve by trapezoids, from (R, P) = (0, 1); slightly optimistic."""
    r, p = _curve(counts)
    return np.sum(np.diff(r) * (p[..., 1:] + p[..., :-1]) / 2, axis=-1)


def aiu(frames: Sequence[Counts]) -> float:
    """Mean over the thresholds 0.01..0.99 of the mean IoU of the frames.

    Source: Yang et al., Feature Pyramid and Hierarchical Boosting Network for Pavement Crack Detection.
    """
    return float(np.mean(frame_aiu(stack(frames))))


def frame_aiu(counts: Counts) -> Any:
    """What `aiu` is the mean of: of one frame, or of each row."""
    return np.mean(iou(counts)[..., AIU_LEVELS], axis=-1)


@dataclass(frozen=True)
class PatchCounts:
    """Patches of one frame, or of many, at the thresholds k/255: int64 (256,) each, stacked (rows, 256); they add up."""

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
    """Count one frame by patches of 32x32 px, those at the right and lower border being smaller.

    A patch is true when at least 5 % of its pixels are crack, and then found when at least half of those are predicted.
    Any other patch is a false positive when at least 5 % of its pixels are predicted. Rules of SCNet but for the last,
    which the paper leaves open. Takes and raises what `counts` does, without the tolerance.
    """
    _check(probability, mask)
    rows = range(0, mask.shape[0], PATCH)  # a row of patches at a time keeps memory small whatever the frame
    return reduce(add, (_patch_row(probability[y : y + PATCH], mask[y : y + PATCH]) for y in rows))


def patch_f1(patches: PatchCounts) -> Floats:
    """float64 (..., 256): F1 of patches."""
    wrong = patches.false_positive + patches.false_negative
    whole = 2 * patches.true_positive + wrong
    return np.where(whole == 0, 1.0, _ratio(2 * patches.true_positive, whole))


Counted = TypeVar("Counted", Counts, PatchCounts)
_BY_LEVEL = ("predicted", "predicted_hit", "truth_found")


def _patch_row(probability: NDArray[np.uint8], mask: NDArray[np.bool_]) -> PatchCounts:
    patch_of = np.arange(mask.shape[1]) // PATCH
    number = int(patch_of[-1]) + 1
    bins = patch_of * LEVELS + probability  # one histogram a patch, side by side
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
    """int64 (number, 256): how many of the values 256 i + v have, for each i, a v of at least k."""
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
    """The best F1, and which k from 1 reach it, bool (..., 255)."""
    scores = f_score(counts)[..., 1:]
    best = scores.max(axis=-1, keepdims=True)
    return best[..., 0], scores == best


def _curve(counts: Counts) -> tuple[Floats, Floats]:
    """Recall and precision from the strictest threshold down, after the point (0, 1), where they stay until one fires."""
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
