"""Find what limits a net's score on a labelled set: `python benchmarks/ceiling.py --model msfnet`. Prints two tables.

The first compares frames that it was trained on with those it was not, at increasing tolerances: a net that does no
better on frames it has seen lacks training, capacity or consistent labels, not variety; what a wider tolerance gains
was found, but drawn elsewhere. The second shows where in the frame, from the top, it errs at its shipped threshold.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import open_dataset
from edgecrack.metrics import best_f1, counts_within, dilated, pool
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.spec import threshold_level
from edgecrack.training.validation import probability
from edgecrack.weights import weights_path

TOLERANCES = (0.0, 2.0, 5.0, 10.0)  # pixels
BANDS = 4  # of the frame, from the top


def band_counts(found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 (BANDS, 4): found pixels, those within 2 px of a crack, crack pixels, those within 2 px of a found one."""
    near_crack, near_find = (dilated(part.view(np.uint8), 2.0).astype(np.bool_) for part in (mask, found))
    parts = (found, found & near_crack, mask, mask & near_find)
    split = [np.array_split(part, BANDS) for part in parts]
    return np.array([[int(part[band].sum()) for part in split] for band in range(BANDS)], np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="msfnet")
    parser.add_argument("--data", default="road_survey", help="the folder of labelled frames in EDGECRACK_DATA")
    parser.add_argument("--every", type=int, default=4, help="every N-th of the frames trained on, and of the others")
    options = parser.parse_args()
    folder = Path(os.environ.get("EDGECRACK_DATA", "../shared/data")) / options.data
    net, spec = load_checkpoint(weights_path(options.model))
    print(f"{options.model} on every {options.every}th frame of {options.data}")
    print("| list | frames | " + " | ".join(f"{tolerance:.0f} px, best F1" for tolerance in TOLERANCES) + " |")
    print("|---" * (2 + len(TOLERANCES)) + "|")
    bands = np.zeros((BANDS, 4), np.int64)
    for split in ("train", "test"):
        frames = open_dataset(folder, split).every(options.every)
        scores = []
        for frame in frames:
            mask, answer = np.asarray(frame.mask), probability(net, frame.image)
            scores.append(counts_within(answer, mask, TOLERANCES))
            if split == "test":
                bands += band_counts(answer >= threshold_level(spec.threshold), mask)
        told = " | ".join(f"{best_f1(pool(found))[0]:.3f}" for found in zip(*scores, strict=True))
        print(f"| {split} | {len(frames)} | {told} |", flush=True)
    print(
        f"\n| test, from the top | share of the cracks | precision, 2 px at {spec.threshold:.3f} | recall |\n|---|---|---|---|"
    )
    for band, (found, hit, truth, seen) in enumerate(bands):
        share = truth / max(1, bands[:, 2].sum())
        print(f"| {band + 1} of {BANDS} | {share:.0%} | {hit / max(1, found):.2f} | {seen / max(1, truth):.2f} |")
    found, hit, truth, seen = bands.sum(axis=0)
    print(f"| all | 100% | {hit / max(1, found):.2f} | {seen / max(1, truth):.2f} |")


if __name__ == "__main__":
    main()
