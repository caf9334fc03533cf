"""Fitting of frames inside a graph: what `edgecrack.fitting` does on the host, in operators that engines run.

It is exported as Cast, Slice, AveragePool, Resize and Gather, in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecrack.fitting import HALF, Fit


def fitted(frames: Tensor, fit: Fit) -> Tensor:
    """uint8 (N, H, W, 3 or 4) BGR or BGRx -> float32 (N, h, w, 3) BGR, integers in 0..255, as `Fit.apply`."""
    image = frames.to(torch.float32)[..., :3]
    if fit.is_exact:
        return image
    image = shrink(image.permute(0, 3, 1, 2), fit.inner_height, fit.inner_width)
    image = mirrored(mirrored(image, 2, fit.frame.height), 3, fit.frame.width)
    return image.permute(0, 2, 3, 1)


def scaled_back(levels: Tensor, fit: Fit) -> Tensor:
    """float32 (N, 1, h, w) in 0..255 -> float32 (N, 1, H, W), not yet rounded, as `Fit.undo`."""
    if fit.is_exact:
        return levels
    scaled = linear(rounded(levels[:, :, : fit.inner_height, : fit.inner_width]), *fit.covered)
    return extended(extended(scaled, 2, fit.height), 3, fit.width)


def shrink(image: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) -> (N, C, height, width) by exact halving while possible, then bilinearly; rounded like uint8."""
    while image.shape[2] >= 2 * height and image.shape[3] >= 2 * width:
        image = rounded(F.avg_pool2d(image, 2))
    return image if image.shape[2:] == (height, width) else rounded(linear(image, height, width))


def rounded(image: Tensor) -> Tensor:
    """Round to integers, as the host's uint8 images are at every step."""
    return torch.floor(image + float(HALF))


def linear(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear (N, C, H, W) -> (N, C, height, width); the same tensor if it has that size."""
    if image.shape[2:] == (height, width):
        return image
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)


def extended(image: Tensor, axis: int, length: int) -> Tensor:
    """Pad `image` along `axis` to `length` with its last row or column."""
    size = image.shape[axis]
    if size == length:
        return image
    return image.index_select(axis, torch.tensor([min(place, size - 1) for place in range(length)]))


def mirrored(image: Tensor, axis: int, length: int) -> Tensor:
    """Pad `image` along `axis` to `length` by reflection, back and forth as often as needed.

    By indexing, since a Pad may not be longer than what it reflects.
    """
    size = image.shape[axis]
    if size == length:
        return image
    period = max(1, 2 * (size - 1))
    index = [min(place % period, -place % period) for place in range(length)]
    return image.index_select(axis, torch.tensor(index))
