"""Scores from the counts of frames: each metric under each paper's protocol, for all frames or bootstrap draws of them.

For each tolerance the counts of all frames are pooled; "mean of frames" marks scores computed per frame and averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgecrack import metrics
from edgecrack.metrics import Counts, Diagonal, Floats, PatchCounts, Tolerance
from edgecrack.spec import threshold_level

AELF_BETA_SQUARED = 0.3
HALF = threshold_level(0.5)

# suffix of a score's name -> tolerance; the report says who uses which
TOLERANCES: dict[str, Tolerance] = {"": 0.0, "_2px": 2.0, "_5px": 5.0, "_diagonal": Diagonal(0.0075)}
WITHIN = {"": "", "_2px": " within 2 px", "_5px": " within 5 px", "_diagonal": " within 0.75 % diagonal"}

_EACH = {
    "best_f1{}": "best F1{} (ODS)",
    "best_f1{}_threshold": "  its threshold",
    "best_f1{}_precision": "  precision there",
    "best_f1{}_recall": "  recall there",
    "best_f1{}_frame_mean": "  F1 there, mean of frames",
    "ois{}": "best F1{} frame by frame (OIS)",
    "f1{}": "F1{} at the model's threshold",
    "precision{}": "  precision there",
    "recall{}": "  recall there",
    "f1{}_frame_mean": "  F1 there, mean of frames",
    "f1{}_at_0.5": "F1{} at 0.5",
    "average_precision{}": "average precision{}",
    "area_under_curve{}": "area under precision-recall{} (trapezoid)",
}
_STRICT = {
    "area_ratio": "area marked at the model's threshold, over that labelled",
    "area_threshold": "  the threshold at which they are nearest",
    "iou": "crack IoU at best F1",
    "iou_frame_mean": "  mean of frames",
    "mean_iou": "mean IoU of crack and background at best F1",
    "aiu": "crack IoU over thresholds (AIU)",
    "patch_f1": "patch F1 at best F1",
    "f0.3_frame_mean": "F (beta2 0.3) at 0.5, mean of frames",
    "f0.3_precision_frame_mean": "  precision there, mean of frames",
    "f0.3_recall_frame_mean": "  recall there, mean of frames",
    "f0.3": "F (beta2 0.3) at 0.5, pooled",
}
FIRED = {"fired_share": "pixels that fire at the model's threshold"}


def _labels(ending: str) -> dict[str, str]:
    return {name.format(ending): label.format(WITHIN[ending]) for name, label in _EACH.items()}


# heading -> score -> label, in reading order
BLOCKS: dict[str, dict[str, str]] = {
    "Where no frame has a mask": FIRED,
    "Exact": _labels("") | _STRICT,
    "Within 2 pixels": _labels("_2px"),
    "Within 5 pixels": _labels("_5px"),
    "Within 0.75 % of the frame's diagonal": _labels("_diagonal"),
}
LABELS = {name: label for block in BLOCKS.values() for name, label in block.items()}


@dataclass(frozen=True)
class Stacked:
    """Counts of many frames, one row per frame: for each suffix in `TOLERANCES`, and for patches."""

    within: Mapping[str, Counts]
    patches: PatchCounts


def scored(frames: Stacked, threshold: float, weights: Floats) -> dict[str, Floats]:
    """Score -> float64 (draws,), where row i of `weights` (draws, frames) says how often draw i contains each frame.

    `threshold` is the model's own. IoU, mean IoU and patch F1 are at the threshold of the best exact F1, as in their
    papers.
    """
    found: dict[str, Floats] = {}
    for ending, counts in frames.within.items():
        found |= _of_tolerance(ending, counts, threshold_level(threshold), weights)
    best = np.rint(found["best_f1_threshold"] * 255).astype(np.int64)
    found |= _of_strict(frames.within[""], frames.patches, best, threshold_level(threshold), weights)
    return {name: found[name] for name in LABELS if name in found}


def fired(frames: Stacked, threshold: float, weights: Floats) -> dict[str, Floats]:
    """`scored` for frames without masks: only the fraction of pixels predicted as crack."""
    pooled = metrics.drawn(frames.within[""], weights)
    return {"fired_share": pooled.predicted[:, threshold_level(threshold)] / pooled.pixels[:, 0]}


def _of_tolerance(ending: str, frames: Counts, shipped: int, weights: Floats) -> dict[str, Floats]:
    pooled = metrics.drawn(frames, weights)
    best, level = metrics.best_level(pooled)
    f1, precision, recall = metrics.f_score(pooled), metrics.precision(pooled), metrics.recall(pooled)
    frame_f1 = _mean(metrics.f_score(frames), weights)
    values = {
        "best_f1{}": best,
        "best_f1{}_threshold": level / 255,
        "best_f1{}_precision": _at(precision, level),
        "best_f1{}_recall": _at(recall, level),
        "best_f1{}_frame_mean": _at(frame_f1, level),
        "ois{}": metrics.f_score(metrics.drawn(metrics.at_own_best(frames), weights))[:, 0],
        "f1{}": f1[:, shipped],
        "precision{}": precision[:, shipped],
        "recall{}": recall[:, shipped],
        "f1{}_frame_mean": frame_f1[:, shipped],
        "f1{}_at_0.5": f1[:, HALF],
        "average_precision{}": metrics.average_precision(pooled),
        "area_under_curve{}": metrics.area_under_curve(pooled),
    }
    return {name.format(ending): value for name, value in values.items()}


def _of_strict(
    frames: Counts, patches: PatchCounts, best: metrics.Ints, shipped: int, weights: Floats
) -> dict[str, Floats]:
    pooled = metrics.drawn(frames, weights)
    areas = metrics.area_ratio(pooled)
    return {
        "area_ratio": areas[:, shipped],
        "area_threshold": (1 + np.abs(areas[:, 1:] - 1).argmin(axis=-1)) / 255,
        "iou": _at(metrics.iou(pooled), best),
        "iou_frame_mean": _at(_mean(metrics.iou(frames), weights), best),
        "mean_iou": _at(metrics.mean_iou(pooled), best),
        "aiu": _mean(metrics.frame_aiu(frames), weights),
        "patch_f1": _at(metrics.patch_f1(metrics.drawn(patches, weights)), best),
        "f0.3_frame_mean": _mean(metrics.f_score(frames, AELF_BETA_SQUARED)[:, HALF], weights),
        "f0.3_precision_frame_mean": _mean(metrics.precision(frames)[:, HALF], weights),
        "f0.3_recall_frame_mean": _mean(metrics.recall(frames)[:, HALF], weights),
        "f0.3": metrics.f_score(pooled, AELF_BETA_SQUARED)[:, HALF],
    }


def _at(scores: Floats, level: metrics.Ints) -> Floats:
    return np.asarray(np.take_along_axis(scores, level[:, np.newaxis], -1)[:, 0])


def _mean(frames: Floats, weights: Floats) -> Floats:
    """The mean over the frames of each draw."""
    return np.asarray(weights @ frames / weights.sum(axis=1).reshape(-1, *[1] * (frames.ndim - 1)))
