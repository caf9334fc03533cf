"""HED: Xie, Tu, "Holistically-Nested Edge Detection"; the edge prior of SCNet's fourth channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models.blocks import upsample

_MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


class HED(nn.Module):
    """VGG-16 with five side outputs. Takes RGB in 0..1, (N, 3, H, W), H and W multiples of 16; returns edge probability.

    The user supplies its weights, since they have their own licence.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = [3, 64, 128, 256, 512, 512]
        self.blocks = nn.ModuleList(
            _block(channels[i], channels[i + 1], convolutions) for i, convolutions in enumerate((2, 2, 3, 3, 3))
        )
        self.sides = nn.ModuleList(nn.Conv2d(count, 1, 1) for count in channels[1:])
        self.fuse = nn.Conv2d(5, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        x = rgb.flip(1) * 255 - rgb.new_tensor(_MEAN_BGR).view(1, 3, 1, 1)
        sides = []
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            sides.append(upsample(self.sides[level](x), 2**level))
        return torch.sigmoid(self.fuse(torch.cat(sides, 1)))


def _block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convolutions):
        layers += [nn.Conv2d(inputs if index == 0 else outputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)
