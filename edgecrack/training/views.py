"""Training views of frames: the fast recipe's crops, the papers' augmentations, and view pairs of unlabelled frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import resize
from edgecrack.spec import FrameSpec
from edgecrack.training.augment import COVERED, augment, random_crop

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


AT_OWN_SCALE = ("scnet", "msfnet")  # augmentations that crop and do not scale
View = Callable[[Image, Mask, FrameSpec, np.random.Generator], tuple[Image, Mask]]  # of a frame, at a given size


def view_for(augmentation: str, strict_nearest: bool = False) -> View:
    """The view function for a recipe's `augmentation`."""
    if augmentation == "aelf-unet":
        return partial(aelf_view, nearest=strict_nearest)
    views: dict[str, View] = {
        "fast": fast_view,
        "scnet": scnet_view,
        "cacpnet": cacpnet_view,
        "msfnet": msfnet_view,
        "none": plain_view,
    }
    return views[augmentation]


def fast_view(image: Image, mask: Mask, size: FrameSpec, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Random scale and position, flips, rotation, light, blur and noise; a crop that is not square is cut from one."""
    side = max(size.height, size.width)
    image, mask = augment(*random_crop(image, mask, side, rng), rng)
    return _cut(image, mask, size, (side - size.height) // 2, (side - size.width) // 2)


def plain_view(image: Image, mask: Mask, size: FrameSpec, _: np.random.Generator | None = None) -> tuple[Image, Mask]:
    """The whole frame at `size`; the mask is thresholded by coverage, since nearest neighbour breaks thin cracks."""
    covered = resize(mask.astype(np.uint8) * 255, size.height, size.width)
    shrinks = size.height < mask.shape[0] or size.width < mask.shape[1]  # else a half keeps a crack's width
    return resize(image, size.height, size.width), np.asarray(covered > (COVERED if shrinks else 127))


def aelf_view(
    image: Image, mask: Mask, size: FrameSpec, rng: np.random.Generator, nearest: bool = False
) -> tuple[Image, Mask]:
    """The whole frame, rotated by up to 15 degrees, shifted by up to 5 %, sheared by up to 5 degrees, flipped."""
    image, mask = _nearest(image, mask, size) if nearest else plain_view(image, mask, size)
    turn, shear = np.radians(rng.uniform(-15, 15)), np.radians(rng.uniform(-5, 5))
    shift = rng.uniform(-0.05, 0.05, 2) * (size.width, size.height)
    linear = np.array([[np.cos(turn), -np.sin(turn + shear)], [np.sin(turn), np.cos(turn + shear)]])
    return _flipped(*_warped(image, mask, linear, shift, nearest), rng)


def scnet_view(image: Image, mask: Mask, size: FrameSpec, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A crop at the frame's own scale, rotated by 0 to 90 degrees and flipped; outside the frame, it is mirrored."""
    height, width = mask.shape
    turn = np.radians(rng.uniform(0, 90))
    inverse = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # how far the crop's corners reach from its centre, to keep them within the frame where that is large enough
    reach = np.abs(inverse) @ (size.width / 2, size.height / 2)
    middle = [_between(rng, far, length) for far, length in zip(reach, (width, height), strict=True)]
    origin = middle - inverse @ ((size.width - 1) / 2, (size.height - 1) / 2)
    matrix = np.column_stack([inverse, origin])
    turned = {"dsize": (size.width, size.height), "borderMode": cv2.BORDER_REFLECT_101}
    inverse_map = cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(image, matrix, flags=cv2.INTER_LINEAR | inverse_map, **turned)  # type: ignore[call-overload]
    cracks = cv2.warpAffine(  # type: ignore[call-overload]
        mask.view(np.uint8), matrix, flags=cv2.INTER_NEAREST | inverse_map, **turned
    )
    return _flipped(seen, cracks.astype(np.bool_), rng)


def cacpnet_view(image: Image, mask: Mask, size: FrameSpec, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The whole frame, flipped."""
    return _flipped(*plain_view(image, mask, size), rng)


def msfnet_view(image: Image, mask: Mask, size: FrameSpec, rng: np.random.Generator) -> tuple[Image, Mask]:
    """`scnet_view` with photometric augmentation."""
    image, mask = scnet_view(image, mask, size, rng)
    return photometric(image, rng), mask


def photometric(image: Image, rng: np.random.Generator) -> Image:
    """Jitter brightness, contrast and saturation by up to 0.4, hue by up to a tenth of the circle, blur, add noise."""
    grey = np.float32(image.mean())
    seen = (image.astype(np.float32) - grey) * np.float32(rng.uniform(0.6, 1.4)) + grey
    seen = np.clip(seen * np.float32(rng.uniform(0.6, 1.4)), 0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(seen, cv2.COLOR_BGR2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(-18, 18)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.6, 1.4), 0, 255)
    seen = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR).astype(np.uint8, copy=False)
    if rng.random() < 0.3:
        seen = cv2.GaussianBlur(seen, (0, 0), float(rng.uniform(0.4, 1.3))).astype(np.uint8, copy=False)
    noise = rng.standard_normal(seen.shape, np.float32) * np.float32(rng.uniform(0, 8))
    return np.asarray(np.clip(seen + noise, 0, 255), np.uint8)


GRID = 16  # the corners of two views lie on it, so that their maps align at every stride


def two_views(
    image: Image, size: FrameSpec, augmentation: str, rng: np.random.Generator
) -> tuple[tuple[Image, Image], NDArray[np.int64], NDArray[np.bool_]]:
    """Two crops of a frame that overlap by at least a quarter of their area, each with its own flip and light.

    They have the scale at which `augmentation` shows labelled frames, and for "fast" also its rotation and shear.
    Returns the crops, uint8 (h, w, 3); their corners (2, 2), (top, left) in a common plane; and whether each was
    flipped, (2,).
    """
    shift = np.array([size.height, size.width]) // 2 // GRID
    height, width = int(size.height + GRID * shift[0]), int(size.width + GRID * shift[1])
    if augmentation == "fast":
        plane, _ = random_crop(image, np.zeros(image.shape[:2], np.bool_), max(height, width), rng)
    elif augmentation in AT_OWN_SCALE:
        plane = _window(image, height, width, rng)
    else:
        plane = _window(resize(image, size.height, size.width), height, width, rng)
    corners = GRID * rng.integers(0, shift + 1, (2, 2))
    flips = rng.random(2) < 0.5
    crops = []
    for (top, left), flip in zip(corners, flips, strict=True):
        crop = plane[top : top + size.height, left : left + size.width]
        crops.append(photometric(np.ascontiguousarray(crop[:, ::-1] if flip else crop), rng))
    return (crops[0], crops[1]), corners, flips


def _window(image: Image, height: int, width: int, rng: np.random.Generator) -> Image:
    """A window at a random place; a smaller image is mirrored to fill it."""
    lacking = np.array([max(0, height - image.shape[0]), max(0, width - image.shape[1])])
    top, left = rng.integers(0, lacking + 1)
    bottom, right = lacking - (top, left)
    whole = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    top, left = rng.integers(0, [whole.shape[0] - height + 1, whole.shape[1] - width + 1])
    return np.asarray(whole[top : top + height, left : left + width], np.uint8)


def _between(rng: np.random.Generator, reach: float, length: int) -> float:
    """A random position at least `reach` from both ends of `length`, or the middle if there is none."""
    return float(rng.uniform(reach, length - reach)) if length > 2 * reach else (length - 1) / 2


def _cut(image: Image, mask: Mask, size: FrameSpec, top: int, left: int) -> tuple[Image, Mask]:
    window = np.s_[top : top + size.height, left : left + size.width]
    return image[window], mask[window]


def _flipped(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    for axis in (0, 1):
        if rng.random() < 0.5:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _nearest(image: Image, mask: Mask, size: FrameSpec) -> tuple[Image, Mask]:
    rows = (np.arange(size.height) * 2 + 1) * mask.shape[0] // (2 * size.height)
    columns = (np.arange(size.width) * 2 + 1) * mask.shape[1] // (2 * size.width)
    return image[np.ix_(rows, columns)], mask[np.ix_(rows, columns)]


def _warped(
    image: Image, mask: Mask, linear: NDArray[np.float64], shift: NDArray[np.float64], nearest: bool
) -> tuple[Image, Mask]:
    """Warp by `linear` about the centre of the frame, then by `shift`, (x, y); the border is repeated."""
    height, width = mask.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([linear, middle - linear @ middle + shift])
    same = {"dsize": (width, height), "borderMode": cv2.BORDER_REPLICATE}
    smooth = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    seen = cv2.warpAffine(image, matrix, flags=smooth, **same)  # type: ignore[call-overload]
    cracks = cv2.warpAffine(mask.view(np.uint8), matrix, flags=cv2.INTER_NEAREST, **same)  # type: ignore[call-overload]
    return seen, cracks.astype(np.bool_)
