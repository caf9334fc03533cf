"""Evaluation of a detector on a data set: every metric of `edgecrack.metrics`, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack import metrics
from edgecrack.dataset import LabelledFrame, LabelledFrames
from edgecrack.errors import FrameError
from edgecrack.evaluation.bootstrap import Interval, interval, sampled
from edgecrack.evaluation.false_alarms import KINDS, FalsePiece, false_pieces
from edgecrack.evaluation.protocols import LABELS, TOLERANCES, Stacked, fired, scored
from edgecrack.metrics import Counts, Floats, PatchCounts
from edgecrack.spec import ModelSpec, threshold_level


class Answer(Protocol):
    """A detector's output for a frame: crack probability, uint8 (H, W) at the frame's size, 255 for certain."""

    @property
    def probability(self) -> NDArray[np.uint8]: ...


class Detector(Protocol):
    """Interface that `evaluate` needs of a detector; `edgecrack.CrackDetector` has it."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def threshold(self) -> float: ...

    def run(self, frame: NDArray[np.uint8], /) -> Answer: ...


@dataclass(frozen=True)
class FrameCounts:
    """One frame's counts, for each suffix in `TOLERANCES` and for 32x32 patches, and its false alarms."""

    name: str
    within: tuple[Counts, ...]
    patches: PatchCounts
    false: tuple[FalsePiece, ...] = ()

    @property
    def strict(self) -> Counts:
        """The exact counts."""
        return self.within[0]

    @property
    def near(self) -> Counts:
        """The counts within 2 px."""
        return self.within[1]


Witness = Callable[[LabelledFrame, NDArray[np.uint8], FrameCounts], None]


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a detector on a data set.

    Attributes:
        dataset: the data set's name.
        model: the model's name in tables; by default that of its net.
        threshold: the threshold that was scored, in (0, 1]; by default the model's own.
        labelled: whether the data set has masks; without them only the fraction of pixels predicted as crack is known.
        frames: counts of each frame, in the order of the data set.
        spec: the model's spec.
        seconds: time spent reading frames, in the net (scaling included), counting and keeping pictures.
        draws: number of bootstrap draws for the intervals; 0 for none.
        seed: random seed of the draws; the same seed draws the same frames for every model.
    """

    dataset: str
    model: str
    threshold: float
    labelled: bool
    frames: tuple[FrameCounts, ...]
    spec: ModelSpec = field(default_factory=lambda: ModelSpec("unknown"))
    seconds: dict[str, float] = field(default_factory=dict)
    draws: int = 1000
    seed: int = 0

    @cached_property
    def stacked(self) -> Stacked:
        """The counts of all frames, one row each."""
        within = zip(*(frame.within for frame in self.frames), strict=True)
        named = {ending: metrics.stack(parts) for ending, parts in zip(TOLERANCES, within, strict=True)}
        return Stacked(named, metrics.stack([frame.patches for frame in self.frames]))

    @property
    def strict(self) -> Counts:
        """Exact counts, pooled."""
        return metrics.pool(frame.strict for frame in self.frames)

    @property
    def near(self) -> Counts:
        """Counts within 2 px, pooled."""
        return metrics.pool(frame.near for frame in self.frames)

    @cached_property
    def scores(self) -> dict[str, float]:
        """Metric -> value in 0..1 (`area_ratio` can exceed 1), in reading order; `protocols.LABELS` explains each."""
        whole = np.ones((1, len(self.frames)))
        return {name: float(values[0]) for name, values in self._scored(whole).items()}

    @cached_property
    def samples(self) -> dict[str, Floats]:
        """Metric -> float64 (draws,): its values on the bootstrap draws of the frames; empty without draws."""
        start = perf_counter()
        cracked = np.array([self.labelled and frame.strict.truth > 0 for frame in self.frames], np.float64)
        found = sampled(self._scored, len(self.frames), self.draws, self.seed, cracked)
        self.seconds["intervals"] = perf_counter() - start
        return found

    @property
    def intervals(self) -> dict[str, Interval]:
        """Metric -> its 95 % bootstrap (percentile) interval."""
        return {name: interval(values) for name, values in self.samples.items()}

    def difference(self, other: Evaluation, name: str) -> tuple[float, Interval | None]:
        """This model's score `name` minus another's on the same frames, and the interval of the difference.

        The bootstrap is paired: both use the same draws, so that frames hard for both do not widen the interval.
        """
        if [frame.name for frame in self.frames] != [frame.name for frame in other.frames]:
            raise ValueError("wanted two evaluations of the same frames")
        apart = self.scores[name] - other.scores[name]
        if not self.samples or (self.seed, self.draws) != (other.seed, other.draws):
            return apart, None
        return apart, interval(self.samples[name] - other.samples[name])

    @cached_property
    def false_alarms(self) -> dict[str, dict[str, float]]:
        """Kind of false alarm -> its pieces, its pixels and their share of all pixels, at the model's threshold."""
        pieces = [piece for frame in self.frames for piece in frame.false]
        found = {}
        for kind in KINDS:
            pixels = [piece.pixels for piece in pieces if piece.kind == kind]
            found[kind] = {"pieces": len(pixels), "pixels": sum(pixels), "share": sum(pixels) / self.pixels}
        return found

    @property
    def pixels(self) -> int:
        """The number of pixels of all frames."""
        return sum(frame.strict.pixels for frame in self.frames)

    @property
    def crack_share(self) -> float:
        """The fraction of all pixels that is labelled as crack."""
        return float(sum(frame.strict.truth for frame in self.frames) / self.pixels)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values under stable names; `scores` is what a `ModelSpec` stores by the name of its test list."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            "net": self.spec.name,
            "precision": self.spec.precision,
            "size": str(self.spec.input_frame),
            "threshold": self.threshold,
            "frames": len(self.frames),
            "pixels": self.pixels,
            **({"crack_share": self.crack_share} if self.labelled else {}),
            "scores": dict(self.scores),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "draws": self.draws,
            "seed": self.seed,
            "false_alarms": self.false_alarms,
        }

    def frame_rows(self) -> list[dict[str, Any]]:
        """One row per frame, at the model's threshold: pixels predicted and labelled as crack, and F1 by tolerance."""
        level, rows = threshold_level(self.threshold), []
        for frame in self.frames:
            row: dict[str, Any] = {"dataset": self.dataset, "model": self.model, "frame": frame.name}
            row["fired_pixels"] = int(frame.strict.predicted[level])
            if self.labelled:
                row["crack_pixels"] = frame.strict.truth
                row |= {
                    f"f1{ending}": round(float(metrics.f_score(part)[level]), 4)
                    for ending, part in zip(TOLERANCES, frame.within, strict=True)
                }
            rows.append(row)
        return rows

    def _scored(self, weights: Floats) -> dict[str, Floats]:
        return (scored if self.labelled else fired)(self.stacked, self.threshold, weights)


def evaluate(
    detector: Detector,
    dataset: LabelledFrames,
    track: Callable[[Iterable[LabelledFrame]], Iterable[LabelledFrame]] = iter,
    *,
    name: str | None = None,
    witness: Witness | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate `detector` on `dataset`; about 30 kB are kept per frame, whatever its size.

    `track` wraps the iterable of frames, for example in a progress bar; `witness` is called with each frame, its crack
    probability and its counts; `name` is the model's name in tables.
    Raises FrameError when the detector's output has another type or size than the frame's, or no mask has a crack, and
    what reading a frame raises.
    """
    if dataset.has_masks and not any(frame.mask is not None and frame.mask.any() for frame in dataset):
        raise FrameError(
            f"none of the {len(dataset)} masks of {dataset.name} has a crack; wanted 255 on cracks and 0 elsewhere, or, where "
            "there are no cracks, a folder without masks"
        )
    level, frames = threshold_level(detector.threshold), []
    seconds: dict[str, float] = {}
    last = perf_counter()

    def took(what: str) -> None:
        nonlocal last
        now = perf_counter()
        seconds[what], last = seconds.get(what, 0.0) + now - last, now

    for frame in track(dataset):
        took("reading")
        probability = detector.run(frame.image).probability
        took("net")
        frames.append(_count(frame, probability, level))
        took("metrics")
        if witness:
            witness(frame, probability, frames[-1])
            took("pictures")
    about = (detector.threshold, dataset.has_masks, tuple(frames), detector.spec, seconds, draws, seed)
    return Evaluation(dataset.name, name or detector.spec.name, *about)


def _count(frame: LabelledFrame, probability: NDArray[np.uint8], level: int) -> FrameCounts:
    # An unlabelled frame is counted like one without cracks: the predicted pixels are the same.
    mask = np.zeros(frame.image.shape[:2], np.bool_) if frame.mask is None else frame.mask
    within = metrics.counts_within(probability, mask, TOLERANCES.values())
    patches = metrics.patch_counts(probability, mask)
    return FrameCounts(frame.name, within, patches, false_pieces(frame.image, probability >= level, mask))


__all__ = ["LABELS", "Evaluation", "FrameCounts", "evaluate"]
