"""Labelled frames on disk: a data set in one of many layouts, or a rendered clip with its masks."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, MissingDependency, SourceError
from edgecrack.images import IMAGE_SUFFIXES, list_images, read_image, read_mask
from edgecrack.layouts import find_pairs


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
    """Images and their masks; a frame is read when it is asked for. `layout` says how the folder was read."""

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    layout: str = "images and masks"

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
        mask = read_labels(self.masks[index])
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
        return Dataset(self.name, self.images[::step], self.masks[::step] if self.masks else None, self.layout)


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
    if Path(path).is_file() and Path(path).suffix.lower() != ".csv":
        if not masks_beside(path).is_dir():
            raise SourceError(f"{path} has no masks beside it, in the folder {masks_beside(path)}")
        return LabelledClip(Path(path))
    return open_dataset(path, split)


def open_dataset(path: str | os.PathLike[str], split: str | None = None, *, skip_unpaired: bool = False) -> Dataset:
    """The data set at `path`, a folder laid out in one of the ways that `edgecrack.layouts` knows, or a CSV of pairs.

    Without a `split` every image is taken, as it is when the data set has no splits at all. A folder of images alone has no
    labels.
    Raises SourceError, naming what is missing: also for an image without a mask, unless `skip_unpaired`.
    """
    path = Path(path).resolve()  # "." has no name
    pairs = find_pairs(path, split)
    if pairs.unpaired and not skip_unpaired:
        first, wrong = pairs.unpaired[0]
        more = f" (and {len(pairs.unpaired) - 1} more like it)" if len(pairs.unpaired) > 1 else ""
        raise SourceError(f"{first} {wrong}{more}")
    return Dataset(path.stem if path.is_file() else path.name, pairs.images, pairs.masks, pairs.layout)


def open_images(path: str | os.PathLike[str], split: str | None = None, *, without: Collection[str] = ()) -> Dataset:
    """The images of the data set at `path`, those without a mask too, and no masks; none whose stem is in `without`.

    Raises SourceError as `open_dataset` does, but for masks that are not there.
    """
    path = Path(path).resolve()
    pairs = find_pairs(path, split)
    alone = [image for image, _ in pairs.unpaired if image.suffix.lower() in IMAGE_SUFFIXES and image.is_file()]
    images = tuple(image for image in sorted({*pairs.images, *alone}) if image.stem not in without)
    return Dataset(path.stem if path.is_file() else path.name, images, None, pairs.layout)


def read_labels(path: Path) -> NDArray[np.bool_]:
    """The mask at `path`, an image or a .mat of CrackForest: bool (H, W), True where a crack is. Raises SourceError."""
    return _read_mat(path) if path.suffix.lower() == ".mat" else read_mask(path)


def _read_mat(path: Path) -> NDArray[np.bool_]:
    """Labels 2 and 4 of CrackForest are crack; 3 is background that cracks enclose."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependency(f"reading {path} needs SciPy; pip install 'edgecrack[train]'") from error
    try:
        labels = loadmat(path)["groundTruth"]["Segmentation"][0, 0]
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # SciPy answers a damaged file with whatever its parser runs into
        raise SourceError(f"{path} is no .mat with groundTruth.Segmentation, as CrackForest has ({error})") from error
    return np.isin(np.asarray(labels), (2, 4))
