"""Labelled frames on disk: a folder of images and masks, or a rendered clip with its masks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
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


class LabelledFrames(Protocol):
    """What can be scored: named frames, with masks or without."""

    @property
    def name(self) -> str: ...
    @property
    def has_masks(self) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[LabelledFrame]: ...
    def every(self, step: int) -> LabelledFrames: ...


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


@dataclass(frozen=True)
class LabelledClip:
    """A video and the mask of each of its frames, `masks_beside(video)`/000000.png and on."""

    video: Path
    step: int = 1
    has_masks: bool = True

    @property
    def name(self) -> str:
        return self.video.stem

    def __len__(self) -> int:
        return len(list_images(masks_beside(self.video))[:: self.step])

    def __iter__(self) -> Iterator[LabelledFrame]:
        """Raises SourceError when the video has fewer frames than masks."""
        capture = cv2.VideoCapture(str(self.video))
        try:
            for index, mask in enumerate(list_images(masks_beside(self.video))):
                read, image = capture.read()
                if not read:
                    raise SourceError(f"{self.video} ends after {index} frames and has more masks than that")
                if index % self.step == 0:
                    yield LabelledFrame(mask.stem, image.astype(np.uint8, copy=False), read_mask(mask))
        finally:
            capture.release()

    def every(self, step: int) -> LabelledClip:
        """Each `step`-th frame, from the first."""
        return LabelledClip(self.video, self.step * step)


def masks_beside(video: str | os.PathLike[str]) -> Path:
    """The folder of a clip's masks: CLIP.masks beside CLIP.mp4."""
    return Path(video).with_suffix(".masks")


def open_labelled(path: str | os.PathLike[str], split: str | None = None) -> LabelledFrames:
    """A data set folder, or a clip with its masks beside it. Raises SourceError as `open_dataset` does."""
    if Path(path).is_file() and masks_beside(path).is_dir():
        return LabelledClip(Path(path))
    return open_dataset(path, split)


def open_dataset(folder: str | os.PathLike[str], split: str | None = None) -> Dataset:
    """The data set in `folder`: `images/`, `masks/` (8-bit PNG, same stem and size) and lists of stems `SPLIT.txt`.

    Without a `split` every image is taken, as it is when the folder has no list at all. A folder without `masks/` has no
    labels; one without `images/` holds its images itself.
    Raises SourceError, naming what is missing.
    """
    folder = Path(folder).resolve()  # "." has no name
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
    if len(set(masks)) < len(masks):
        raise SourceError(f"{folder} has images of the same stem; each wants a mask of its own")
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
    if any((folder / f"{other}.txt").is_file() for other in ("train", "val", "test")):
        raise SourceError(f"{folder} has no {split}.txt; its lists are {sorted(p.name for p in folder.glob('*.txt'))}")
    return None
