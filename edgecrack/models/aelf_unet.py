"""AELF-UNet: Liu, Wang, Chen, Shen, Xu, "Asymmetric exponential loss function for crack segmentation"."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models.blocks import CrackNet, by_stride, choice, initialise, scaled


class AELFUNet(CrackNet):
    """Plain U-Net with a deep prediction head (section 3.2, Eq. 2, 3): no normalisation, nearest-neighbour upsampling.

    Args:
        width: multiplier of the channel counts 64-128-256-512-1024 and of the head's.
        head: "deep" (64, 64, 64, 2, 1), "deep-64" (the same, not scaled by width) or "shallow" (one 1x1 convolution).
        up: "direct" concatenates the upsampled tensor (Eq. 3); "conv2" first halves its channels with a 2x2
            convolution, as the public Keras U-Net does.
        dropout: whether to apply dropout of 0.5 after the two deepest stages, as in the public Keras U-Net.
    """

    stride = 16
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, width: float = 1.0, *, head: str = "deep", up: str = "direct", dropout: bool = False) -> None:
        super().__init__()
        channels = scaled((64, 128, 256, 512, 1024), width)
        self.up = choice("up", up, "direct", "conv2")
        self.dropout = nn.Dropout(0.5 if dropout else 0.0)
        self.encoder = nn.ModuleList(_double(i, o) for i, o in zip([3, *channels[:-1]], channels, strict=True))
        pairs = list(pairwise(channels))
        self.halve = nn.ModuleList(nn.Conv2d(deep, near, 2) for near, deep in pairs if up == "conv2")
        joined = [near + (near if up == "conv2" else deep) for near, deep in pairs]
        self.decoder = nn.ModuleList(_double(i, o) for i, o in zip(joined, channels[:-1], strict=True))
        self.head = _head(channels[0], choice("head", head, "deep", "deep-64", "shallow"))
        self.projection = None
        self.feature_channels = by_stride(channels)
        initialise(self, "he")
        for layer in self.head:
            if isinstance(layer, nn.Conv2d) and layer.out_channels == 2 and layer.bias is not None:
                nn.init.constant_(layer.bias, 0.1)  # if both ReLU channels died, no gradient would flow

    def logits_and_features(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        skips: list[Tensor] = []
        features: dict[int, Tensor] = {}
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            x = self.dropout(x) if level >= 3 else x
            skips.append(x)
        for level in (3, 2, 1, 0):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if self.up == "conv2":
                x = F.relu(self.halve[level](F.pad(x, (0, 1, 0, 1))))
            x = self.decoder[level](torch.cat([skips[level], x], 1))
            features[2**level] = x
        return [self.head(x)], features


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
    )


def _head(inputs: int, kind: str) -> nn.Sequential:
    if kind == "shallow":
        return nn.Sequential(nn.Conv2d(inputs, 1, 1))
    inner = 64 if kind == "deep-64" else inputs
    layers: list[nn.Module] = []
    for i, o in zip((inputs, inner, inner, inner), (inner, inner, inner, 2), strict=True):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(2, 1, 1))
