"""Trainings of a few steps on small frames in memory, whole or stopped; found through `pythonpath`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from edgecrack.dataset import LabelledFrame
from edgecrack.models.checkpoint import load_tensors
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training.data import Frames
from edgecrack.training.fit import Trainer
from edgecrack.training.recipes import Recipe
from edgecrack.training.states import LAST

NARROW = {"aelf-unet": 0.05, "cacpnet": 0.0625, "msfnet": 0.0625, "scnet": 0.05}
TINY: dict[str, Any] = {"steps": 4, "batch": 2, "crop": FrameSpec(32, 32), "warm_up": 0}


def one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class Roads:
    """Four frames of a dark line on grey, in memory."""

    def __init__(self, name: str = "roads", first: int = 0) -> None:
        self.name, self.first = name, first

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> LabelledFrame:
        rng = np.random.default_rng(self.first + index)
        drawn = np.zeros((40, 50), np.uint8)
        cv2.polylines(drawn, [rng.integers(0, 40, (2, 2)).astype(np.int32)], False, 1, 3)
        image = rng.normal(150, 8, (40, 50, 3)) - 90 * drawn[:, :, None]
        return LabelledFrame(f"{self.name}-{index}", image.clip(0, 255).astype(np.uint8), drawn > 0)


def trainer(
    folder: Path,
    name: str = "msfnet",
    *,
    resume: bool = False,
    unlabelled: Sequence[Frames] = (),
    teacher: Any = None,
    tensorboard: bool = False,
    **recipe: Any,
) -> Trainer:
    plan = Recipe(**{**TINY, **recipe})
    spec = ModelSpec(name, NARROW[name])
    held: list[Frames] = [Roads("held", 9)]
    extra: dict[str, Any] = {"unlabelled": unlabelled, "teacher": teacher, "tensorboard": tensorboard}
    return Trainer(spec, plan, [Roads()], held, folder, resume=resume, **extra)


def same(one: Path, other: Path) -> bool:
    (first, _), (second, _) = load_tensors(one / LAST), load_tensors(other / LAST)
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[key]) for key, value in first.items())


def stopped(training: Trainer, after: int) -> None:
    """Ctrl-C after so many steps."""
    steps: list[None] = []

    def press(*_: Any) -> None:
        steps.append(None)
        if len(steps) == after:
            raise KeyboardInterrupt

    training.log.step = press  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        training.run(lambda _: None)
    assert training.made.step == after
