"""The frames on which a calibration measures ranges."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import Dataset, open_dataset, read_labels
from edgecrack.errors import CalibrationError, SourceError
from edgecrack.fitting import Fit
from edgecrack.images import read_image
from edgecrack.spec import FrameSpec, check_frame

COUNT = 200


@dataclass(frozen=True)
class CalibrationFrames:
    """Calibration frames fitted to `frame`, uint8 (H, W, 3) BGR, in a fixed order.

    Attributes:
        frame: the size they are fitted to.
        sources: files, or images already read, uint8 (any height, any width, 3) BGR.
    """

    frame: FrameSpec
    sources: tuple[Path | NDArray[np.uint8], ...]

    def __post_init__(self) -> None:
        if not self.sources:
            raise CalibrationError("no frame to calibrate on; wanted at least one, better two hundred")

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        frame: FrameSpec,
        count: int = COUNT,
        *,
        seed: int = 0,
        split: str | None = "train",
    ) -> CalibrationFrames:
        """At most `count` frames of `split` of the data set in `folder`, one drawn from each of `count` equal strata.

        With masks, strata are by the fraction of crack pixels, in increasing order; without, by name. The same folder,
        count and seed give the same frames. Raises CalibrationError when there is no image, SourceError for bad masks.
        """
        if count < 1:
            raise CalibrationError(f"wanted at least one frame to calibrate on, got {count}")
        try:
            dataset = open_dataset(folder, split)
        except SourceError as error:
            raise CalibrationError(f"nothing to calibrate on: {error}") from error
        ordered = _by_crack_share(dataset)
        return cls(frame, tuple(ordered[index] for index in _spread(len(ordered), count, seed)))

    @classmethod
    def from_images(cls, images: Sequence[NDArray[np.uint8]], frame: FrameSpec) -> CalibrationFrames:
        """All given images, uint8 (H, W, 3) BGR of any size. Raises CalibrationError when there is none, FrameError."""
        for image in images:
            check_frame(image)
        return cls(frame, tuple(images))

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Each fitted frame, read on demand. Raises SourceError or FrameError naming the file."""
        for source in self.sources:
            image = read_image(source) if isinstance(source, Path) else source
            yield Fit.of(image.shape[0], image.shape[1], self.frame).apply(image)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the pixels of all fitted frames, in order."""
        digest = hashlib.sha256(str(self.frame).encode())
        for image in self:
            digest.update(image.tobytes())
        return digest.hexdigest()


def _by_crack_share(dataset: Dataset) -> list[Path]:
    if dataset.masks is None:
        return list(dataset.images)
    shares = [float(read_labels(mask).mean()) for mask in dataset.masks]
    return [path for _, path in sorted(zip(shares, dataset.images, strict=True))]


def _spread(total: int, count: int, seed: int) -> list[int]:
    """`count` different indices below `total`, one from each of `count` equal intervals; all if there are fewer."""
    if count >= total:
        return list(range(total))
    edges = np.linspace(0, total, count + 1).astype(int)
    chosen = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    return [int(index) for index in chosen]
