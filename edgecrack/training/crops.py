"""Drawing of crops: each depends on the seed and its number in the run alone, whichever thread or process draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError
from edgecrack.training.augment import SCALES
from edgecrack.training.data import Frames
from edgecrack.training.recipes import Recipe
from edgecrack.training.views import AT_OWN_SCALE, Image, Mask, two_views, view_for

Arrays = dict[str, NDArray[Any]]  # of one step, by name; the first axis is the crop


@dataclass(frozen=True)
class Crops:
    """The labelled crops of a run.

    A resumed run sees the same crops as an uninterrupted one, and several processes together the same as a single one.
    """

    sets: Sequence[Frames]
    recipe: Recipe

    def batch(self, numbers: range) -> Arrays:
        """`frames` uint8 (n, H, W, 3) BGR and `masks` bool (n, H, W) of the crops with these numbers."""
        drawn = [self._crop(number) for number in numbers]
        return {"frames": np.stack([image for image, _ in drawn]), "masks": np.stack([mask for _, mask in drawn])}

    def _crop(self, number: int) -> tuple[Image, Mask]:
        rng = np.random.default_rng((self.recipe.seed, number))
        chosen, index = place(self.sets, self.recipe, number, rng)
        frames = self.sets[chosen]
        frame = frames[index]
        if frame.mask is None:
            raise SourceError(f"{frames.name} has no mask for {frame.name}")
        view = view_for(self.recipe.augmentation, self.recipe.strict_nearest)
        return view(frame.image, frame.mask, self.recipe.crop, rng)


@dataclass(frozen=True)
class Views:
    """Two views of each unlabelled frame of a run."""

    sets: Sequence[Frames]
    recipe: Recipe

    def batch(self, numbers: range) -> Arrays:
        """`first` and `second` uint8 (n, H, W, 3), `corners` int64 (n, 2, 2), `flips` bool (n, 2): see `two_views`."""
        parts: dict[str, list[NDArray[Any]]] = {"first": [], "second": [], "corners": [], "flips": []}
        for number in numbers:
            rng = np.random.default_rng((self.recipe.seed, number, 1))  # 1: another stream than the labelled crop's
            chosen, index = place(self.sets, self.recipe, number, rng)
            image, augmentation = self.sets[chosen][index].image, self.recipe.augmentation
            (first, second), corners, flips = two_views(image, self.recipe.crop, augmentation, rng)
            for name, part in (("first", first), ("second", second), ("corners", corners), ("flips", flips)):
                parts[name].append(part)
        return {name: np.stack(part) for name, part in parts.items()}


def place(sets: Sequence[Frames], recipe: Recipe, number: int, rng: np.random.Generator) -> tuple[int, int]:
    """The indices (set, frame) that crop `number` of a run is cut from."""
    if recipe.order == "drawn":
        chosen = int(rng.integers(len(sets)))
        return chosen, int(rng.integers(len(sets[chosen])))
    ends = np.cumsum([len(frames) for frames in sets])
    epoch, position = divmod(number, int(ends[-1]))
    index = int(_shuffled(int(ends[-1]), recipe.seed, epoch)[position])
    chosen = int(np.searchsorted(ends, index, side="right"))
    return chosen, index - int(ends[chosen] - len(sets[chosen]))


def scales_shown(recipe: Recipe, sets: Sequence[Frames]) -> tuple[float, float]:
    """The smallest and the largest scale at which a run shows frames, 1 being their own size.

    The first frame of each set stands for all of it.
    """
    if recipe.augmentation in AT_OWN_SCALE:
        return 1.0, 1.0
    shapes = [frames[0].image.shape for frames in sets if len(frames)]
    if recipe.augmentation == "fast":  # a window cannot exceed the frame, whatever scale was drawn
        side = max(recipe.crop.height, recipe.crop.width)
        least = max(SCALES[0], min((side / min(shape[:2]) for shape in shapes), default=0.0))
        return least, max(SCALES[1], least)
    found = [min(recipe.crop.height / shape[0], recipe.crop.width / shape[1]) for shape in shapes] or [1.0]
    return min(found), max(found)


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, 2)).permutation(count)
