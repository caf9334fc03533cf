"""MSF-Net: our multi-stage fusion net for few labels, inspired by (not a reproduction of) Kangcheng Liu,
"Semi-Supervised Confidence-Level-based Contrastive Discrimination for Class-Imbalanced Semantic Segmentation"."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models.blocks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CrackNet,
    by_stride,
    conv_norm_relu,
    fused,
    initialise,
    scaled,
    upsample,
)


class MSFNet(CrackNet):
    """Five-stage encoder, feature pyramid, one side logit map per stage, and their fusion.

    Args:
        width: multiplier of the encoder's channel counts 32-64-128-256-256 and of the pyramid's 64.
    """

    stride = 16
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    compact_width = 0.5
    projection: nn.Sequential

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled((32, 64, 128, 256, 256), width)
        (pyramid,) = scaled((64,), width)
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_norm_relu(i, o, "batch", False), conv_norm_relu(o, o, "batch", False))
            for i, o in zip([3, *channels[:-1]], channels, strict=True)
        )
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, pyramid, 1, bias=False), nn.BatchNorm2d(pyramid)) for c in channels
        )
        self.smooth = nn.ModuleList(conv_norm_relu(pyramid, pyramid, "batch", False) for _ in channels)
        self.side = nn.ModuleList(nn.Conv2d(pyramid, 1, 1) for _ in channels)
        self.fuse = nn.Conv2d(len(channels), 1, 1)
        # only for semi-supervised training; never part of an exported graph
        self.projection = nn.Sequential(nn.Conv2d(pyramid, pyramid, 1), nn.ReLU(), nn.Conv2d(pyramid, pyramid, 1))
        self.feature_channels = by_stride([pyramid] * len(channels))
        initialise(self, "he")
        nn.init.constant_(self.fuse.weight, 0.2)

    def logits_and_features(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        maps = self._fused(x)
        sides = [upsample(side(t), 2**level) for level, (side, t) in enumerate(zip(self.side, maps, strict=True))]
        return [fused(sides, self.fuse), *sides], {2**level: t for level, t in enumerate(maps)}

    def embedding(self, x: Tensor) -> Tensor:
        """L2-normalised embeddings at stride 4, (N, 64 x width, H/4, W/4)."""
        return F.normalize(self.projection(self._fused(x)[2]), dim=1)

    def _fused(self, x: Tensor) -> list[Tensor]:
        """The fused features of the five stages, full resolution first."""
        laterals = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            laterals.append(self.lateral[level](x))
        fused = [self.smooth[-1](F.relu(laterals[-1]))]
        for level in (3, 2, 1, 0):
            up = F.interpolate(fused[0], scale_factor=2, mode="nearest")
            fused.insert(0, self.smooth[level](F.relu(laterals[level] + up)))
        return fused
