"""Find test frames that overlap with training frames: `python benchmarks/overlap.py --data uav --model msfnet`.

A pair is tied by at least ten SIFT matches that one similarity transform (scale 0.6 to 1.7) maps onto each other within
4 pixels. It is of one photograph if the shared area differs by at most 2 grey levels in the median. Prints both counts,
the pairs with --pairs, and with --model the net's F1 on the frames that are tied and on those that are not; the two
differ in difficulty too.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import Dataset, open_dataset
from edgecrack.metrics import Counts, best_f1, counts_within, f_score, pool
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.spec import threshold_level
from edgecrack.training.validation import probability
from edgecrack.weights import weights_path

POINTS, SCALES, RATIO = 10, (0.6, 1.7), 0.8
SAME = 2  # grey levels


@dataclass(frozen=True)
class Seen:
    """A grey frame with its SIFT keypoints: places float32 (n, 2) and descriptors (n, 128)."""

    name: str
    grey: NDArray[np.uint8]
    places: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def seen(frames: Dataset) -> list[Seen]:
    """The frames of a list that have enough keypoints to be tied."""
    found = []
    sift = cv2.SIFT.create(1500)
    for frame in frames:
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY), np.uint8)
        points, descriptors = sift.detectAndCompute(grey, None)
        if len(points) >= POINTS:
            places = np.array([point.pt for point in points], np.float32)
            found.append(Seen(frame.name, grey, places, np.asarray(descriptors, np.float32)))
    return found


def tie(test: Seen, train: Seen) -> tuple[int, NDArray[np.float64]] | None:
    """The number of matches that tie the two and the 2x3 matrix from test to train; None if they are not tied."""
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(test.descriptors, train.descriptors, k=2)
    good = [first for first, second in pairs if first.distance < RATIO * second.distance]
    if len(good) < POINTS:
        return None
    here = test.places[[match.queryIdx for match in good]]
    there = train.places[[match.trainIdx for match in good]]
    matrix, fits = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=4)
    if matrix is None or fits.sum() < POINTS or not SCALES[0] < np.hypot(matrix[0, 0], matrix[1, 0]) < SCALES[1]:
        return None
    return int(fits.sum()), np.asarray(matrix, np.float64)


def is_one_photograph(test: Seen, train: Seen, matrix: NDArray[np.float64]) -> bool:
    shape, back = test.grey.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(train.grey, matrix, shape, flags=back)
    shared = cv2.warpAffine(np.full_like(train.grey, 255), matrix, shape, flags=back) == 255
    return bool(shared.any() and np.median(cv2.absdiff(test.grey, moved)[shared]) <= SAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uav", help="the folder of labelled frames in EDGECRACK_DATA")
    parser.add_argument("--model", help="score this shipped net on both parts")
    parser.add_argument("--pairs", action="store_true", help="print each")
    options = parser.parse_args()
    folder = Path(os.environ.get("EDGECRACK_DATA", "../shared/data")) / options.data
    train, frames = seen(open_dataset(folder, "train")), open_dataset(folder, "test")
    tied: dict[str, tuple[int, str, bool]] = {}
    for test in seen(frames):
        for other in train:
            if (found := tie(test, other)) and found[0] > tied.get(test.name, (0,))[0]:
                tied[test.name] = found[0], other.name, is_one_photograph(test, other, found[1])
    same = sum(photograph for _, _, photograph in tied.values())
    print(
        f"{options.data}: {len(tied)} of {len(frames)} test frames are tied to a training frame, {same} of one photograph"
    )
    for name, (points, partner, photograph) in tied.items() if options.pairs else ():
        print(f"  {name} {partner}: {points} points{', one photograph' if photograph else ''}")
    if options.model:
        score(options.model, frames, set(tied))


def score(model: str, frames: Dataset, tied: set[str]) -> None:
    net, spec = load_checkpoint(weights_path(model))
    parts: dict[str, list[tuple[Counts, ...]]] = {"tied": [], "not tied": []}
    for frame in frames:
        counts = counts_within(probability(net, frame.image), np.asarray(frame.mask), (0.0, 2.0))
        parts["tied" if frame.name in tied else "not tied"].append(counts)
    for name, found in parts.items():
        strict, near = (pool(each) for each in zip(*found, strict=True))
        own = f_score(near)[threshold_level(spec.threshold)]
        best = f"strict {best_f1(strict)[0]:.3f}, within 2 pixels {best_f1(near)[0]:.3f}"
        print(f"{model}, {name}, {len(found)} frames: best F1 {best}, at its own threshold {own:.3f}")


if __name__ == "__main__":
    main()
