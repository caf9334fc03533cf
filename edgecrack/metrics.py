"""What a crack map is worth: counts at every threshold at once, and the metrics that follow from them.

A probability map is uint8, so only 256 thresholds differ: index k stands for k/255, and a pixel is predicted crack when
its probability is at least k. One histogram therefore counts them all, counts of frames add up to counts of a data set,
and each metric is an array of 256 values. The best threshold is sought from k = 1, as at k = 0 everything is predicted.

Where nothing is predicted and nothing is true a metric is 1; where only one of its denominators is 0 it is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError
from edgecrack.spec import threshold_level

LEVELS = 256  # of a uint8 probability
PATCH = 32  # pixels, the side of a patch
AIU_LEVELS = [threshold_level(percent / 100) for percent in range(1, 100)]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counts:
    """Pixels of one frame, or of many, at the thresholds k/255; counts of one tolerance add up with `+`.

    Attributes:
        predicted: int64 (256,), pixels whose probability is at least k.
        predicted_hit: int64 (256,), those of them with a true crack pixel within the tolerance.
        truth: true crack pixels.
        truth_found: int64 (256,), those of them with a predicted pixel within the tolerance.
        pixels: all pixels.
        tolerance: Euclidean distance in pixels between centres; at 0 both hits are the true positives.
    """

    predicted: Ints
    predicted_hit: Ints
    truth: int
    truth_found: Ints
    pixels: int
    tolerance: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        if self.tolerance != other.tolerance:
            raise ValueError(f"counts within {self.tolerance} px and {other.tolerance} px do not add up")
        return Counts(
            self.predicted + other.predicted,
            self.predicted_hit + other.predicted_hit,
            self.truth + other.truth,
            self.truth_found + other.truth_found,
            self.pixels + other.pixels,
            self.tolerance,
        )


def counts(probability: NDArray[np.uint8], mask: NDArray[np.bool_], tolerance: float = 0.0) -> Counts:
    """Count one frame: `probability` uint8 (H, W), `mask` bool (H, W) True on crack, `tolerance` in pixels from 0.

    A pixel within the tolerance of another is one that a disk of that radius around it covers, so that dilating by the
    disk answers for all thresholds what a distance transform answers for one. Several pixels may match the same one.
    Raises FrameError for other types or shapes, ValueError for a negative tolerance.
    """
    _check(probability, mask)
    if not tolerance >= 0:
        raise ValueError(f"a tolerance is a distance in pixels from 0, got {tolerance!r}")
    predicted, truth = _at_least(probability), int(np.count_nonzero(mask))
    if tolerance < 1:
        hit = found = _at_least(probability[mask])
    else:
        disk = _disk(tolerance)
        near_truth = cv2.dilate(mask.astype(np.uint8), disk) > 0
        hit = _at_least(probability[near_truth])
        found = _at_least(cv2.dilate(probability, disk)[mask])
    return Counts(predicted, hit, truth, found, mask.size, float(tolerance))


def pool(parts: Iterable[Counts]) -> Counts:
    """The counts of several frames together. Raises TypeError when there is none."""
    return reduce(add, parts)


def precision(counts: Counts) -> Floats:
    """float64 (256,): the share of predicted pixels that are hits."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.predicted_hit, counts.predicted))


def recall(counts: Counts) -> Floats:
    """float64 (256,): the share of true pixels that are found."""
    return np.where(_nothing(counts), 1.0, _ratio(counts.truth_found, counts.truth))


def f_score(counts: Counts, beta_squared: float = 1.0) -> Floats:
    """float64 (256,): (1 + b2) P R / (b2 P + R); b2 below 1 favours precision (AELF-UNet reports 0.3)."""
    p, r = precision(counts), recall(counts)
    return _ratio((1 + beta_squared) * p * r, beta_squared * p + r)


def iou(counts: Counts) -> Floats:
    """float64 (256,): intersection over union of the crack pixels. Raises ValueError unless the tolerance is 0."""
    hit = _strict(counts).predicted_hit
    return np.where(_nothing(counts), 1.0, _ratio(hit, counts.predicted + counts.truth - hit))


def mean_iou(counts: Counts) -> Floats:
    """float64 (256,): the mean of the IoU of crack and of background. Raises ValueError unless the tolerance is 0."""
    either = counts.predicted + counts.truth - counts.predicted_hit
    neither = counts.pixels - either
    wrong = either - counts.predicted_hit
    background = np.where(neither + wrong == 0, 1.0, _ratio(neither, neither + wrong))
    return (iou(counts) + background) / 2


def best_f1(counts: Counts) -> tuple[float, float]:
    """The best F1 and its threshold in 1/255..1 (ODS when pooled); of equally good thresholds, the middle one."""
    best, levels = _best_levels(counts)
    return best, int(levels[len(levels) // 2]) / 255


def ois(frames: Sequence[Counts]) -> float:
    """F1 of the pooled counts of frames that each choose their own best threshold (fewest pixels among equals).

    A frame's best threshold is not always best for the pool, so that OIS is above ODS as a rule and not by law.
    """
    own = [_at(frame, int(_best_levels(frame)[1][-1])) for frame in frames]
    return float(f_score(pool(own))[0])


def average_precision(counts: Counts) -> float:
    """Area under the precision-recall curve by steps, sum of (R_k - R_k-1) P_k; 0 where nothing is true.

    On strict counts this is what scikit-learn's `average_precision_score` gives for all pixels.
    """
    r, p = _curve(counts)
    return float(np.sum(np.diff(r) * p[1:]))


def area_under_curve(counts: Counts) -> float:
    """Area under the precision-recall curve by trapezoids, from (R, P) = (0, 1); slightly optimistic."""
    r, p = _curve(counts)
    return float(np.sum(np.diff(r) * (p[1:] + p[:-1]) / 2))


def aiu(frames: Sequence[Counts]) -> float:
    """Mean over the thresholds 0.01..0.99 of the mean IoU of the frames.

    Source: Yang et al., Feature Pyramid and Hierarchical Boosting Network for Pavement Crack Detection.
    """
    return float(np.mean([iou(frame)[AIU_LEVELS] for frame in frames]))


@dataclass(frozen=True)
class PatchCounts:
    """Patches of one frame, or of many, at the thresholds k/255: int64 (256,) each; they add up with `+`."""

    true_positive: Ints
    false_negative: Ints
    false_positive: Ints

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
    """float64 (256,): F1 of patches."""
    wrong = patches.false_positive + patches.false_negative
    whole = 2 * patches.true_positive + wrong
    return np.where(whole == 0, 1.0, _ratio(2 * patches.true_positive, whole))


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


def _disk(radius: float) -> NDArray[np.uint8]:
    reach = int(radius)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x * x + y * y <= radius * radius, np.uint8)


def _best_levels(counts: Counts) -> tuple[float, Ints]:
    """The best F1 and all k from 1 that reach it."""
    scores = f_score(counts)[1:]
    best = scores.max()
    return float(best), np.flatnonzero(scores == best) + 1


def _at(counts: Counts, level: int) -> Counts:
    """Counts at one threshold, as arrays of length 1."""
    own = slice(level, level + 1)
    return Counts(
        counts.predicted[own],
        counts.predicted_hit[own],
        counts.truth,
        counts.truth_found[own],
        counts.pixels,
        counts.tolerance,
    )


def _curve(counts: Counts) -> tuple[Floats, Floats]:
    """Recall and precision from the strictest threshold that predicts anything down, after the point (0, 1)."""
    fires = counts.predicted > 0
    r = _ratio(counts.truth_found, counts.truth)[fires][::-1]
    return np.append(0.0, r), np.append(1.0, precision(counts)[fires][::-1])


def _nothing(counts: Counts) -> NDArray[np.bool_]:
    return np.asarray(counts.predicted + counts.truth == 0)


def _ratio(part: Any, whole: Any) -> Floats:
    """part / whole, 0 where whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole != 0))


def _strict(counts: Counts) -> Counts:
    if counts.tolerance >= 1:
        raise ValueError(f"an IoU is of strict counts, these have a tolerance of {counts.tolerance} px")
    return counts


def _check(probability: Any, mask: Any) -> None:
    for name, array, wanted in (("probability", probability, np.uint8), ("mask", mask, np.bool_)):
        if not isinstance(array, np.ndarray):
            raise FrameError(f"wanted a {name} {np.dtype(wanted)} (H, W), got {type(array).__name__}")
        if array.dtype != wanted or array.ndim != 2 or not array.size:
            raise FrameError(f"wanted a {name} {np.dtype(wanted)} (H, W), got {array.dtype} {array.shape}")
    if probability.shape != mask.shape:
        raise FrameError(f"wanted a probability of the mask's shape {mask.shape}, got {probability.shape}")
