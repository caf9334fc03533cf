"""Labelled frames on disk: a folder of images and masks, or a rendered clip with its masks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, SourceError
from edgecrack.images import list_images, read_image, read_mask


@dataclass(frozen=True)
class LabelledFrame:
    """One frame: uint8 (H, W, 3) BGR, and its mask, bool (H, W), or None where the data set has none."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Dataset:
    """Images with masks of the same stem; a frame is read when it is asked for."""

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None

    @property
    def has_masks(self) -> bool:
        return self.masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledFrame:
        """Frame `index`. Raises SourceError or FrameError naming the file when it cannot be read or sizes differ."""
        path = self.images[index]
        image = read_image(path)
        if self.masks is None:
            return LabelledFrame(path.stem, image, None)
        mask = read_mask(self.masks[index])
        if mask.shape != image.shape[:2]:
            raise FrameError(
                f"the mask {self.masks[index]} is {mask.shape[1]}x{mask.shape[0]}, "
                f"its image is {image.shape[1]}x{image.shape[0]}"
            )
        return LabelledFrame(path.stem, image, mask)

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))

    def every(self, step: int) -> Dataset:
        """Each `step`-th frame, from the first."""
        return Dataset(self.name, self.images[::step], self.masks[::step] if self.masks else None)


def open_dataset(folder: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """The data set in `folder`: `images/`, `masks/` (8-bit PNG, same stem and size) and lists of stems `SPLIT.txt`.

    Without a `split` every image is taken, as it is when the folder has no list at all. A folder without `masks/` has no
    labels; one without `images/` holds its images itself.
    Raises SourceError, naming what is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SourceError(f"no data set folder {folder}")
    images = list_images(folder / "images" if (folder / "images").is_dir() else folder)
    stems = _stems(folder, split)
    if stems is not None:
        by_stem = {path.stem: path for path in images}
        missing = [stem for stem in stems if stem not in by_stem]
        if missing:
            raise SourceError(f"{folder / f'{split}.txt'} lists {missing[0]!r} and {folder} has no such image")
        images = [by_stem[stem] for stem in stems]
    if not (folder / "masks").is_dir():
        return Dataset(folder.name, tuple(images), None)
    masks = tuple(folder / "masks" / f"{path.stem}.png" for path in images)
    for mask in masks:
        if not mask.is_file():
            raise SourceError(f"no mask {mask}; wanted one of the same stem for each image")
    return Dataset(folder.name, tuple(images), masks)


def _stems(folder: Path, split: str | None) -> list[str] | None:
    if split is None:
        return None
    path = folder / f"{split}.txt"
    if path.is_file():
        stems = path.read_text().split()
        if not stems:
            raise SourceError(f"{path} lists no frame")
        return stems
    if any((folder / f"{other}.txt").is_file() for other in ("train", "test")):
        raise SourceError(f"{folder} has no {split}.txt; its lists are {sorted(p.name for p in folder.glob('*.txt'))}")
    return None
