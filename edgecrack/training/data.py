"""What a net is trained on: labelled sets and rendered roads, sampled evenly, a slice of each held back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import Dataset, LabelledFrame, open_dataset
from edgecrack.errors import SourceError
from edgecrack.rendering import DEMO_SEEDS, rendered_frame
from edgecrack.training.augment import augment, random_crop


class Frames(Protocol):
    """A named sequence of labelled frames."""

    @property
    def name(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> LabelledFrame: ...


@dataclass(frozen=True)
class RenderedFrames:
    """`count` rendered roads from `first_seed` on; never a seed that a demo uses."""

    count: int
    first_seed: int = DEMO_SEEDS.stop
    name: str = "rendered"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledFrame:
        if not 0 <= index < self.count:  # the seed before the first is a demo's
            raise IndexError(index)
        seed = self.first_seed + index
        image, mask = rendered_frame(seed, *((512, 512), (512, 768))[index % 2])
        return LabelledFrame(f"seed-{seed}", image, mask)


class Kept:
    """A set whose frames stay in memory once read, as many as fit in `budget` bytes; the others are read each time."""

    def __init__(self, frames: Frames, budget: int = 2 << 30) -> None:
        self.frames, self.name, self._left = frames, frames.name, budget
        self._kept: dict[int, LabelledFrame] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        if index in self._kept:
            return self._kept[index]
        frame = self.frames[index]
        self._left -= frame.image.nbytes + (frame.mask.nbytes if frame.mask is not None else 0)
        if self._left >= 0:
            self._kept[index] = frame
        return frame


@dataclass(frozen=True)
class Selected:
    """Some of the frames of a set."""

    frames: Frames
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.frames.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.frames[self.indices[index]]


def hold_back(frames: Frames, share: float = 0.06, blocks: int = 3) -> tuple[Selected, Selected]:
    """The training part and the held-back part of a set.

    Whole blocks of neighbours are held back, since neighbouring frames of a drive show the same pavement; a small set
    gives fewer blocks.
    """
    count = len(frames)
    blocks = max(1, min(blocks, round(count * share)))
    size = max(1, round(count * share / blocks))
    starts = [round((block + 0.5) * count / blocks) - size // 2 for block in range(blocks)]
    held = {min(max(index, 0), count - 1) for start in starts for index in range(start, start + size)}
    rest = tuple(index for index in range(count) if index not in held)
    if not rest:
        raise SourceError(f"{frames.name} has {count} frames to train on; wanted at least {len(held) + 1}")
    return Selected(frames, rest), Selected(frames, tuple(sorted(held)))


def open_training_sets(folders: Iterable[str], rendered: int) -> tuple[list[Selected], list[Selected]]:
    """The sets to train on and their held-back parts. The rendered one is held back only where there is no other.

    Raises SourceError when a folder has no masks or there is nothing at all.
    """
    labelled: list[Dataset] = [open_dataset(folder, "train") for folder in folders]
    for dataset in labelled:
        if not dataset.has_masks:
            raise SourceError(f"{dataset.name} has no masks/; training needs labelled frames")
    pairs = [hold_back(Kept(frames)) for frames in labelled]
    if rendered:
        roads = Kept(RenderedFrames(rendered))
        everything, nothing = Selected(roads, tuple(range(rendered))), Selected(roads, ())
        pairs.append((everything, nothing) if labelled else hold_back(roads))
    if not pairs:
        raise SourceError("nothing to train on; give --data DIR, or --rendered N for rendered roads")
    return [train for train, _ in pairs], [held for _, held in pairs if len(held)]


def batch(
    sets: Sequence[Frames], count: int, size: int, seed: int, step: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The crops of one training step: uint8 (count, size, size, 3) BGR and bool (count, size, size).

    They depend on `seed` and `step` alone, so that a resumed run sees what an undisturbed one would. Each crop draws its
    set first: a small set counts as much as a large one.
    """
    rng = np.random.default_rng((seed, step))
    images, masks = [], []
    for _ in range(count):
        frames = sets[int(rng.integers(len(sets)))]
        frame = frames[int(rng.integers(len(frames)))]
        if frame.mask is None:
            raise SourceError(f"{frames.name} has no mask for {frame.name}")
        image, mask = augment(*random_crop(frame.image, frame.mask, size, rng), rng)
        images.append(image)
        masks.append(mask)
    return np.stack(images), np.stack(masks)
