"""Reading, writing and listing images: one reader for training, calibration, evaluation and the runtime."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import FrameError, SourceError
from edgecrack.files import write_atomic

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether the suffix is that of an image, in upper or lower case."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


class DamagedImage(SourceError):
    """A file that was read but not decoded: it is truncated, or not an image."""


UNUSABLE = DamagedImage, FrameError  # what `read_image` raises for a file that no second try makes better


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read the image at `path` as uint8 (H, W, 3) BGR.

    Greyscale is replicated to three channels, alpha is dropped, the EXIF orientation is applied.
    Raises SourceError when the file cannot be read, DamagedImage when it is truncated or not an image, FrameError if it
    has over 8 bits per channel.
    """
    image = _decode(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image.dtype != np.uint8:
        raise FrameError(f"{path} has {image.dtype} pixels, wanted 8 bits a channel; scale it to 0..255 first")
    return image.astype(np.uint8, copy=False)


def read_mask(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Read the mask at `path` as bool (H, W): True where the grey value is above 127. Raises what `read_grey` does.

    If its maximum is 1 it holds class indices, and 1 is True; except in a JPEG, where a 1 would be noise.
    """
    level = read_grey(path)
    classes = level.max(initial=0) == 1 and Path(path).suffix.lower() not in (".jpg", ".jpeg")
    return np.asarray(level > (0 if classes else 127))


def read_grey(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an 8- or 16-bit image as greyscale, uint8 (H, W). Raises SourceError, FrameError for other pixel types."""
    level = _decode(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if level.dtype == np.uint16:  # some tools write masks of 0 and 255, or of classes, in 16 bits
        level = np.asarray(level, np.uint16) >> (0 if level.max(initial=0) <= 255 else 8)
    elif level.dtype != np.uint8:
        raise FrameError(f"{path} has {level.dtype} pixels, wanted 8 or 16 bits; scale it to 0..255 first")
    return level.astype(np.uint8, copy=False)


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W) or (H, W, 3) BGR atomically, in the format of the suffix. Raises SourceError."""
    try:
        done, data = cv2.imencode(Path(path).suffix or ".png", image)
    except cv2.error as error:
        raise SourceError(f"cannot write {path}: OpenCV knows no image format {Path(path).suffix!r}") from error
    if not done:
        raise SourceError(f"cannot write {path}: OpenCV could not encode it")
    write_atomic(path, data.tobytes())


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """List the images directly in `folder`, by name. Raises SourceError if there is no folder or no image in it."""
    folder = Path(folder)
    try:
        there = sorted(folder.iterdir()) if folder.is_dir() else None
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error
    if there is None:
        raise SourceError(f"no folder {folder}")
    found = [path for path in there if is_image_name(path) and _is_visible(path)]
    if not found:
        raise SourceError(f"no image in {folder}; wanted one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _is_visible(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")  # macOS leaves ._x.jpg files on memory cards


def _decode(path: str | os.PathLike[str], flags: int) -> NDArray[np.generic]:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        image = cv2.imdecode(data, flags) if data.size and not is_cut_jpeg(data.tobytes()) else None
    except cv2.error as error:
        raise DamagedImage(f"{path} cannot be decoded: {error}".splitlines()[0]) from error
    if image is None:
        raise DamagedImage(f"{path} is not an image, or is truncated ({data.size} bytes)")
    return image


def is_cut_jpeg(content: bytes) -> bool:
    """Whether a JPEG is truncated: OpenCV 4 would fill the missing part with grey.

    The end-of-image marker is searched for from the first scan on: a thumbnail, which has its own, comes before that,
    and data that a phone appends after the picture, such as a video, may contain any bytes.
    """
    if content[:2] != b"\xff\xd8":
        return False
    place = 2
    while content[place : place + 1] == b"\xff" and (kind := content[place + 1 : place + 2]) != b"\xda":
        is_filling = kind == b"\xff"
        place += 1 if is_filling else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return content.find(b"\xff\xd9", place) < 0
