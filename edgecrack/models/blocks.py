"""Building blocks shared by the nets: base class, convolution blocks, max-unpooling and its exact exportable form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.errors import SpecError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CrackNet(nn.Module, ABC):
    """Base class of the crack segmentation nets: `forward` maps the output of `prepare` to logits, (N, 1, H, W).

    Attributes:
        stride: H and W must be multiples of it.
        feature_channels: channel counts of the feature maps that `logits_and_features` returns, by stride.
        mean, std: for normalising the RGB input in 0..1.
        projection: projection head from a decoder feature map to embeddings; None unless the net has its own.
        compact_width: the width at which the full-resolution stage has 16 channels; weights are shipped for it.
    """

    stride: int
    feature_channels: dict[int, int]
    projection: nn.Sequential | None
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    compact_width: ClassVar[float] = 0.25

    def prepare(self, rgb: Tensor) -> Tensor:
        """Normalise RGB in 0..1, (N, 3, H, W), as this net was trained."""
        mean = rgb.new_tensor(self.mean).view(1, 3, 1, 1)
        std = rgb.new_tensor(self.std).view(1, 3, 1, 1)
        return (rgb - mean) / std

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[0]

    def stages(self, x: Tensor) -> list[Tensor]:
        """The final logits, then the side logits used by the loss, each (N, 1, H, W)."""
        return self.logits_and_features(x)[0]

    @abstractmethod
    def logits_and_features(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The result of `stages`, and decoder maps by stride s = 2, 4, 8: (N, feature_channels[s], H / s, W / s)."""


def rgb_from_frames(frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) BGR frames -> float32 (N, 3, H, W) RGB in 0..1, in training and export alike."""
    return frames.to(torch.float32).permute(0, 3, 1, 2).flip(1) / 255


def conv_norm_relu(inputs: int, outputs: int, norm: str, bias: bool) -> nn.Sequential:
    """3x3 convolution, normalisation ("instance", "instance-affine", "batch"), ReLU."""
    chosen: nn.Module
    if choice("norm", norm, "instance", "instance-affine", "batch") == "batch":
        chosen = nn.BatchNorm2d(outputs)
    else:
        chosen = nn.InstanceNorm2d(outputs, affine=norm == "instance-affine")
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), chosen, nn.ReLU())


def choice(name: str, value: str, *known: str) -> str:
    """Return `value` if it is one of `known`; otherwise raise a SpecError that lists them."""
    if value not in known:
        raise SpecError(f"{name} is one of {', '.join(known)}; got {value!r}")
    return value


def scaled(channels: tuple[int, ...], width: float) -> list[int]:
    """Channel counts times the width multiplier, each at least 1."""
    return [max(1, round(count * width)) for count in channels]


FEATURE_LEVELS = (1, 2, 3)  # decoder levels, 0 being full resolution: strides 2, 4 and 8


def by_stride(channels: list[int]) -> dict[int, int]:
    """`CrackNet.feature_channels` from the channel counts of a decoder's levels, full resolution first."""
    return {2**level: channels[level] for level in FEATURE_LEVELS}


def upsample(x: Tensor, scale: int) -> Tensor:
    """Bilinear upsampling by an integer factor, half-pixel centres: (N, C, H, W) -> (N, C, scale x H, scale x W).

    For one channel it is a 3x3 convolution to scale x scale phases: the same result, which engines compute several
    times as fast as their interpolation.
    """
    if scale == 1:
        return x
    if x.shape[1] != 1:
        return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    line = x.new_tensor(_taps(scale))
    kernel = (line[:, None, :, None] * line[None, :, None, :]).view(scale * scale, 1, 3, 3)
    return F.pixel_shuffle(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel), scale)


def _taps(scale: int) -> list[list[float]]:
    """Weights of the previous, own and next input pixel for each of the `scale` output samples within a pixel."""
    offsets = [(2 * phase + 1 - scale) / (2 * scale) for phase in range(scale)]
    return [[max(0.0, -offset), 1 - abs(offset), max(0.0, offset)] for offset in offsets]


def fused(maps: list[Tensor], fuse: nn.Conv2d) -> Tensor:
    """Apply `fuse`, a 1x1 convolution to one channel, to (N, 1, H, W) maps without concatenating them first."""
    total = maps[0] * fuse.weight[:, 0:1]
    for index, one in enumerate(maps[1:], 1):
        total = total + one * fuse.weight[:, index : index + 1]
    return total if fuse.bias is None else total + fuse.bias.view(1, 1, 1, 1)


class Unpooling:
    """2x2 max-pooling that records the position of each maximum, and the unpooling that puts values back there.

    Forms: "index" is torch's own; "mask" is bit-identical to it and built from operators that ONNX parsers support;
    "bilinear" records nothing and interpolates. Weights trained with "index" or "mask" work with either.
    """

    def __init__(self, form: str) -> None:
        self.form = choice("unpool", form, "index", "mask", "bilinear")

    def pool(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(N, C, H, W) -> (N, C, H/2, W/2) and the `memory` for `unpool`; H and W must be even."""
        if self.form == "index":
            pooled, index = F.max_pool2d(x, 2, return_indices=True)
            return pooled, (index,)
        pooled = F.max_pool2d(x, 2)
        if self.form == "bilinear":
            return pooled, ()
        phases = (x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2])
        return pooled, tuple(phase < pooled for phase in phases)

    def unpool(self, y: Tensor, memory: tuple[Tensor, ...]) -> Tensor:
        """(N, C, H/2, W/2) -> (N, C, H, W): each value at the position of its maximum, zeros elsewhere."""
        if self.form == "index":
            return F.max_unpool2d(y, memory[0], [2, 2])
        if self.form == "bilinear":
            return upsample(y, 2)
        # Ties go to the first in row-major order, as in torch: comparing with the upsampled maximum alone would repeat
        # tied values, and all-zero windows after a ReLU are ties. Phases along the channels let engines stay in their
        # channels-last layout, which is twice as fast.
        n, channels, height, width = y.shape
        phases = []
        for below in memory:
            here = torch.where(below, y.new_zeros(()), y)
            phases.append(here)
            y = y - here
        blocks = torch.cat([*phases, y], 1).view(n, 2, 2, channels, height, width)
        return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, channels, 2 * height, 2 * width)


def initialise(net: nn.Module, kind: str) -> None:
    """Initialise the weights of every convolution by "he" or "xavier" (normal) and its bias to 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            if kind == "he":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
