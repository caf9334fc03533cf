"""Compare checkpoints on held-back frames: `python tools/held_back.py OLD.safetensors NEW.safetensors --data DIR,DIR`.

Decides whether a further leg of training is kept. Prints for each checkpoint the best 2-pixel F1 of each set on crops
of the held-back training frames, at other scales and in other light, as training draws them: a few unaugmented frames
say too little about other cameras, and the test lists must choose nothing. With `--elsewhere DIR` also on the training
list of a set that none was trained on, unaugmented, to tell how they do on other cameras.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecrack.dataset import LabelledFrame, open_dataset
from edgecrack.metrics import f_score
from edgecrack.models import CrackNet
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.training.augment import augment, random_crop
from edgecrack.training.data import Frames, open_training_sets
from edgecrack.training.validation import score

CROPS, SIDE, SEED = 150, 320, 123  # per set


@dataclass(frozen=True)
class Crops:
    """Augmented crops of the frames of a set, the same on every access."""

    frames: Frames

    @property
    def name(self) -> str:
        return self.frames.name

    def __len__(self) -> int:
        return CROPS

    def __getitem__(self, index: int) -> LabelledFrame:
        frame = self.frames[index % len(self.frames)]
        assert frame.mask is not None  # noqa: S101 (for the type checker)
        rng = np.random.default_rng((SEED, index))
        return LabelledFrame(frame.name, *augment(*random_crop(frame.image, frame.mask, SIDE, rng), rng))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--data", required=True, help="the labelled sets that all of them were trained on")
    parser.add_argument("--elsewhere", type=Path, help="a set that none of them was trained on")
    options = parser.parse_args()
    _, held_back = open_training_sets(filter(None, options.data.split(",")), rendered=0)
    elsewhere = [open_dataset(options.elsewhere, "train")] if options.elsewhere else []
    for path in options.checkpoints:
        net, _ = load_checkpoint(path)
        best, other = best_f1(net, [*map(Crops, held_back)]), best_f1(net, elsewhere)
        told = [*map(written, best.items()), f"mean {statistics.mean(best.values()):.3f}", *map(written, other.items())]
        print(f"{path}: {', '.join(told)}", flush=True)


def best_f1(net: CrackNet, sets: Sequence[Frames]) -> dict[str, float]:
    """F1 within 2 pixels on each set, at the threshold that is best for it."""
    return {name: float(np.max(f_score(pooled))) for name, pooled in score(net, sets).items()}


def written(of: tuple[str, float]) -> str:
    return f"{of[0]} {of[1]:.3f}"


if __name__ == "__main__":
    main()
