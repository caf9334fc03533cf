"""Tiny data sets of rendered roads under the names of the real ones, so that the whole plan can be rehearsed anywhere."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edgecrack.files import write_atomic
from edgecrack.images import write_image
from edgecrack.rendering import rendered_frame
from studies.plan import SETS

HEIGHT, WIDTH = 64, 96
FRAMES = {"train": 8, "test": 2}
SIZES = dict.fromkeys(SETS, f"{WIDTH}x{HEIGHT}")


def write_sets(folder: Path) -> None:
    """Write them into `folder`, unless they are there."""
    for place, name in enumerate(SETS):
        if (folder / name / "test.txt").is_file():
            continue
        first = 10_000 + 100 * place
        for split, count in FRAMES.items():
            stems = [f"{split}-{index}" for index in range(count)]
            for stem in stems:
                _write_frame(folder / name, stem, first)
                first += 1
            write_atomic(folder / name / f"{split}.txt", "\n".join(stems) + "\n")


def _write_frame(folder: Path, stem: str, seed: int) -> None:
    image, mask = rendered_frame(seed, HEIGHT, WIDTH)
    labels = mask.astype(np.uint8) * 255
    cv2.line(labels, (5, 5), (WIDTH - 5, HEIGHT - 5), 255, 2)  # or a road so small may come without a crack
    image[labels > 0] = 40
    for kind, picture in (("images", image), ("masks", labels)):
        write_image(folder / kind / f"{stem}.png", picture)
