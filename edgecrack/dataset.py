"""Labelled frames on disk: a data set in one of several layouts, or a rendered clip with its masks."""

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
from edgecrack.images import is_image_name, list_images, read_image, read_mask
from edgecrack.layouts import find_pairs, located


@dataclass(frozen=True)
class LabelledFrame:
    """One frame: uint8 (H, W, 3) BGR, and its mask, bool (H, W), or None where the data set has none."""

    name: str
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None


class LabelledFrames(Protocol):
    """Named frames that a model can be scored on, with or without masks."""

    @property
    def name(self) -> str: ...
    @property
    def has_masks(self) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[LabelledFrame]: ...
    def every(self, step: int) -> LabelledFrames: ...


@dataclass(frozen=True)
class Dataset:
    """Images and their masks; each frame is read on access. `layout` names the folder layout that was recognised."""

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
        """Read frame `index`. Raises SourceError or FrameError, naming the file, if unreadable or sizes differ."""
        path = self.images[index]
        image = read_image(path)
        if self.masks is None:
            return LabelledFrame(path.stem, image, None)
        return _labelled(path.stem, image, self.masks[index], read_labels(self.masks[index]))

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))

    def every(self, step: int) -> Dataset:
        """Every `step`-th frame, starting with the first."""
        return Dataset(self.name, self.images[::step], None if self.masks is None else self.masks[::step], self.layout)


@dataclass(frozen=True)
class LabelledClip:
    """A video and the masks of its frames, `masks_beside(video)`/000000.png and so on."""

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
        capture = cv2.VideoCapture(str(self.video.absolute()))  # a : in a bare name would be a protocol to FFmpeg
        try:
            for index, mask in enumerate(list_images(masks_beside(self.video))):
                if mask.stem != f"{index:06}":
                    raise SourceError(
                        f"{mask.parent} has no mask {index:06}.png; wanted one for each frame of {self.video}"
                    )
                read, image = capture.read()
                if not read and not index:
                    raise SourceError(f"{self.video} is not a video that OpenCV can read, or is truncated")
                if not read:
                    raise SourceError(f"{self.video} ends after {index} frames and has more masks than that")
                if index % self.step == 0:
                    yield _labelled(mask.stem, image.astype(np.uint8, copy=False), mask, read_mask(mask))
        finally:
            capture.release()

    def every(self, step: int) -> LabelledClip:
        """Every `step`-th frame, starting with the first."""
        return LabelledClip(self.video, self.step * step)


def _labelled(name: str, image: NDArray[np.uint8], path: Path, mask: NDArray[np.bool_]) -> LabelledFrame:
    """Pair `image` with the `mask` that `path` holds. Raises FrameError where their sizes differ."""
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    if (height, width) != (rows, columns):
        raise FrameError(f"the mask {path} is {columns}x{rows}, its image is {width}x{height}")
    return LabelledFrame(name, image, mask)


def masks_beside(video: str | os.PathLike[str]) -> Path:
    """The folder of a clip's masks: CLIP.masks beside CLIP.mp4."""
    return Path(video).with_suffix(".masks")


def open_labelled(path: str | os.PathLike[str], split: str | None = None) -> LabelledFrames:
    """Open a data set, or a clip with its masks beside it. Raises SourceError as `open_dataset` does."""
    if Path(path).is_file() and Path(path).suffix.lower() != ".csv":
        if not masks_beside(path).is_dir():
            raise SourceError(f"{path} has no masks beside it, in the folder {masks_beside(path)}")
        return LabelledClip(Path(path))
    return open_dataset(path, split)


def open_dataset(path: str | os.PathLike[str], split: str | None = None, *, skip_unpaired: bool = False) -> Dataset:
    """Open the data set at `path`, a folder in one of the layouts that `edgecrack.layouts` knows, or a CSV of pairs.

    All images are used without a `split`, or when the data set has no splits. A folder with images only has no labels.
    Raises SourceError, naming what is missing, also for an image without a mask unless `skip_unpaired`.
    """
    path = located(path)
    pairs = find_pairs(path, split)
    if pairs.unpaired and not skip_unpaired:
        first, wrong = pairs.unpaired[0]
        more = f" (and {len(pairs.unpaired) - 1} more like it)" if len(pairs.unpaired) > 1 else ""
        raise SourceError(f"{first} {wrong}{more}")
    return Dataset(path.stem if path.is_file() else path.name, pairs.images, pairs.masks, pairs.layout)


def open_images(path: str | os.PathLike[str], split: str | None = None, *, without: Collection[Path] = ()) -> Dataset:
    """Open the data set at `path` without its masks: all images, unpaired ones too, except the resolved paths `without`.

    Raises SourceError as `open_dataset` does, except for missing masks.
    """
    path = located(path)
    pairs = find_pairs(path, split)
    alone = [image for image, _ in pairs.unpaired if is_image_name(image) and image.is_file()]
    images = tuple(image for image in sorted({*pairs.images, *alone}) if image.resolve() not in without)
    return Dataset(path.stem if path.is_file() else path.name, images, None, pairs.layout)


def read_labels(path: Path) -> NDArray[np.bool_]:
    """Read the mask at `path`, an image or a CrackForest .mat: bool (H, W), True on crack. Raises SourceError."""
    return _read_mat(path) if path.suffix.lower() == ".mat" else read_mask(path)


def _read_mat(path: Path) -> NDArray[np.bool_]:
    """Read a CrackForest .mat: labels 2 and 4 are crack, 3 is background enclosed by cracks."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingDependency(f"reading {path} needs SciPy; pip install 'edgecrack[train]'") from error
    try:
        labels = loadmat(path)["groundTruth"]["Segmentation"][0, 0]
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # SciPy raises whatever its parser runs into in a damaged file
        raise SourceError(f"{path} is no .mat with groundTruth.Segmentation, as CrackForest has ({error})") from error
    return np.isin(np.asarray(labels), (2, 4))
