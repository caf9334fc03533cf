"""A detector against a data set: every metric of `edgecrack.metrics`, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack import metrics
from edgecrack.dataset import LabelledFrame, LabelledFrames
from edgecrack.metrics import Counts, PatchCounts
from edgecrack.spec import ModelSpec, threshold_level

NEAR, FAR = 2.0, 5.0  # tolerances in pixels
AELF_BETA_SQUARED = 0.3
HALF = threshold_level(0.5)


LABELS = {
    "fired_share": "pixels that fire at the model's threshold",
    "best_f1": "best F1 (ODS)",
    "best_f1_threshold": "  its threshold",
    "f1_at_0.5": "F1 at 0.5",
    "f1": "F1 at the model's threshold",
    "average_precision": "average precision",
    "area_under_curve": "area under precision-recall (trapezoid)",
    "ois": "best F1 frame by frame (OIS)",
    "iou": "crack IoU at best F1",
    "iou_frame_mean": "crack IoU at best F1, mean of frames",
    "mean_iou": "mean IoU of crack and background at best F1",
    "aiu": "crack IoU over thresholds (AIU)",
    "patch_f1": "patch F1 at best F1",
    "f0.3_frame_mean": "F (beta2 0.3) at 0.5, mean of frames",
    "f0.3": "F (beta2 0.3) at 0.5",
    "best_f1_2px": "best F1 within 2 px",
    "best_f1_2px_threshold": "  its threshold",
    "f1_2px": "F1 within 2 px at the model's threshold",
    "best_f1_5px": "best F1 within 5 px",
    "best_f1_5px_threshold": "  its threshold",
}


class Answer(Protocol):
    """What a detector says of a frame: a crack probability uint8 (H, W), 255 for certain, at the frame's size."""

    @property
    def probability(self) -> NDArray[np.uint8]: ...


class Detector(Protocol):
    """What `evaluate` needs of a detector; `edgecrack.CrackDetector` is one."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def threshold(self) -> float: ...

    def run(self, frame: NDArray[np.uint8], /) -> Answer: ...


@dataclass(frozen=True)
class FrameCounts:
    """One frame's counts: exact, within 2 px, within 5 px, and of 32x32 patches."""

    name: str
    strict: Counts
    near: Counts
    far: Counts
    patches: PatchCounts


@dataclass(frozen=True)
class Evaluation:
    """What a detector did on a data set.

    Attributes:
        dataset: the data set's name.
        model: the net's name.
        threshold: the one the model ships with, in (0, 1].
        labelled: whether the data set has masks; without them only the share of pixels that fire is known.
        frames: counts of each frame, in the order of the data set.
    """

    dataset: str
    model: str
    threshold: float
    labelled: bool
    frames: tuple[FrameCounts, ...]

    @cached_property
    def strict(self) -> Counts:
        """Exact counts, pooled."""
        return metrics.pool(frame.strict for frame in self.frames)

    @cached_property
    def near(self) -> Counts:
        """Counts within 2 px, pooled."""
        return metrics.pool(frame.near for frame in self.frames)

    @cached_property
    def far(self) -> Counts:
        """Counts within 5 px, pooled."""
        return metrics.pool(frame.far for frame in self.frames)

    @cached_property
    def patches(self) -> PatchCounts:
        """Counts of patches, pooled."""
        return reduce(add, (frame.patches for frame in self.frames))

    @cached_property
    def scores(self) -> dict[str, float]:
        """Metric -> value in 0..1, in reading order; see `LABELS` for what each is.

        IoU, mean IoU and patch F1 are taken at the strict best threshold, as their papers do.
        """
        if not self.labelled:
            return {"fired_share": float(self.strict.predicted[threshold_level(self.threshold)] / self.strict.pixels)}
        return self._strict_scores() | self._near_scores()

    def to_json(self) -> dict[str, Any]:
        """Plain values under stable names; `scores` is what a `ModelSpec` keeps under the name of its test list."""
        about = {
            "dataset": self.dataset,
            "model": self.model,
            "threshold": self.threshold,
            "frames": len(self.frames),
            "pixels": self.strict.pixels,
        }
        truth = {"crack_share": self.strict.truth / self.strict.pixels} if self.labelled else {}
        return {**about, **truth, "scores": dict(self.scores)}

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) in reading order, for a table."""
        rows = [("frames", f"{len(self.frames)}"), ("pixels", f"{self.strict.pixels}")]
        if self.labelled:
            rows.append(("crack share", f"{self.strict.truth / self.strict.pixels:.2%}"))
        rows.append(("threshold", f"{self.threshold:.3f}"))
        return rows + [(LABELS[name], _written(name, value)) for name, value in self.scores.items()]

    def _strict_scores(self) -> dict[str, float]:
        per_frame = [frame.strict for frame in self.frames]
        best, threshold = metrics.best_f1(self.strict)
        level = threshold_level(threshold)
        f1 = metrics.f_score(self.strict)
        aelf = metrics.f_score(self.strict, AELF_BETA_SQUARED)
        return {
            "best_f1": best,
            "best_f1_threshold": threshold,
            "f1_at_0.5": float(f1[HALF]),
            "f1": float(f1[threshold_level(self.threshold)]),
            "average_precision": metrics.average_precision(self.strict),
            "area_under_curve": metrics.area_under_curve(self.strict),
            "ois": metrics.ois(per_frame),
            "iou": float(metrics.iou(self.strict)[level]),
            "iou_frame_mean": float(np.mean([metrics.iou(frame)[level] for frame in per_frame])),
            "mean_iou": float(metrics.mean_iou(self.strict)[level]),
            "aiu": metrics.aiu(per_frame),
            "patch_f1": float(metrics.patch_f1(self.patches)[level]),
            "f0.3_frame_mean": float(np.mean([metrics.f_score(frame, AELF_BETA_SQUARED)[HALF] for frame in per_frame])),
            "f0.3": float(aelf[HALF]),
        }

    def _near_scores(self) -> dict[str, float]:
        best, threshold = metrics.best_f1(self.near)
        far, far_threshold = metrics.best_f1(self.far)
        return {
            "best_f1_2px": best,
            "best_f1_2px_threshold": threshold,
            "f1_2px": float(metrics.f_score(self.near)[threshold_level(self.threshold)]),
            "best_f1_5px": far,
            "best_f1_5px_threshold": far_threshold,
        }


def evaluate(
    detector: Detector,
    dataset: LabelledFrames,
    track: Callable[[Iterable[LabelledFrame]], Iterable[LabelledFrame]] = iter,
) -> Evaluation:
    """Run `detector` over `dataset` and count; some 20 kB a frame are kept, whatever its size.

    `track` wraps the frames on their way, for example in a progress bar.
    Raises FrameError when the detector answers in another type or size than the frame's, and what reading one raises.
    """
    frames = tuple(_count(frame, detector.run(frame.image).probability) for frame in track(dataset))
    return Evaluation(dataset.name, detector.spec.name, detector.threshold, dataset.has_masks, frames)


def _count(frame: LabelledFrame, probability: NDArray[np.uint8]) -> FrameCounts:
    # A frame without labels counts as one without cracks: what is predicted there is the same.
    mask = np.zeros(frame.image.shape[:2], np.bool_) if frame.mask is None else frame.mask
    strict, near, far = (metrics.counts(probability, mask, tolerance) for tolerance in (0.0, NEAR, FAR))
    return FrameCounts(frame.name, strict, near, far, metrics.patch_counts(probability, mask))


def _written(name: str, value: float) -> str:
    return f"{value:.4%}" if name == "fired_share" else f"{value:.3f}" if name.endswith("threshold") else f"{value:.4f}"
