"""Labelled frames in memory, for tests of training; found through `pythonpath`."""

from __future__ import annotations

import cv2
import numpy as np

from edgecrack.dataset import LabelledFrame


class Roads:
    """Four frames of a dark line on grey, in memory."""

    def __init__(self, name: str = "roads", first: int = 0, size: tuple[int, int] = (40, 50)) -> None:
        self.name, self.first, self.size = name, first, size

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> LabelledFrame:
        rng = np.random.default_rng(self.first + index)
        drawn = np.zeros(self.size, np.uint8)
        ends = rng.integers(0, min(self.size), (2, 2)).astype(np.int32)
        cv2.polylines(drawn, [ends], False, 1, 3)
        image = rng.normal(150, 8, (*self.size, 3)) - 90 * drawn[:, :, None]
        return LabelledFrame(f"{self.name}-{index}", image.clip(0, 255).astype(np.uint8), drawn > 0)
