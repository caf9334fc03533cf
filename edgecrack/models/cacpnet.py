"""CACPNet: Chen, Wang, Liu, Jiang, "Pavement Crack Detection with Continuous Attention Mechanism and Convolution Pyramid"."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models.blocks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CrackNet,
    Unpooling,
    by_stride,
    choice,
    conv_norm_relu,
    initialise,
    scaled,
)


class CACPNet(CrackNet):
    """SegNet with attention between the encoder layers (Eq. 1 to 4) and a convolution pyramid over their outputs.

    Args:
        width: multiplier of the channel counts 64-128-256-512-512 and of the pyramid's.
        attention: False for the ablation.
        attention_out: "full" (one attention map per channel) or "one" (a single map).
        attention_from: the layer's "input" (the image for the first layer) or its own "output" before pooling.
        softmax: over the "channel" axis or over "spatial" positions.
        pyramid: "sum", "cat" (a quarter of the channels each, concatenated and added to the last output), "catcat" (the
            last output concatenated too) or "none".
        unpool: "index" or "mask", see `Unpooling`.
    """

    stride = 32
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        width: float = 1.0,
        *,
        attention: bool = True,
        attention_out: str = "full",
        attention_from: str = "input",
        softmax: str = "channel",
        pyramid: str = "sum",
        unpool: str = "index",
    ) -> None:
        super().__init__()
        channels = scaled((64, 128, 256, 512, 512), width)
        counts = (2, 2, 3, 3, 3)
        inputs = [3, *channels[:-1]]
        self.pyramid = choice("pyramid", pyramid, "sum", "cat", "catcat", "none")
        self.attention_from = choice("attention_from", attention_from, "input", "output")
        self.unpooling = Unpooling(choice("unpool", unpool, "index", "mask"))
        one = choice("attention_out", attention_out, "full", "one") == "one"
        self.encoder = nn.ModuleList(_block([i, *[o] * n]) for i, o, n in zip(inputs, channels, counts, strict=True))
        sources = inputs if attention_from == "input" else channels
        self.attention = nn.ModuleList(
            Attention(i, 1 if one else o, softmax) for i, o in zip(sources, channels, strict=True) if attention
        )
        deep = channels[-1]
        quarters = [(deep + level) // 4 for level in range(4)]  # they add up to `deep` at any width
        lateral = {"sum": [deep] * 4, "cat": quarters, "catcat": quarters, "none": []}[pyramid]
        self.lateral = nn.ModuleList(Lateral(i, o) for i, o in zip(channels, lateral, strict=False))
        self.mix = nn.ModuleList([nn.Conv2d(2 * deep, deep, 1)] if pyramid == "catcat" else [])
        ends = [channels[0], *channels[:-1]]
        decoder = [_block([*[c] * n, e]) for c, e, n in zip(channels, ends, counts, strict=True)]
        decoder[0] = nn.Sequential(decoder[0][0], nn.Conv2d(ends[0], 1, 3, padding=1))
        self.decoder = nn.ModuleList(decoder)
        self.projection = None
        self.feature_channels = by_stride(ends)
        initialise(self, "he")

    def logits_and_features(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        outputs, memories = [], []
        decoded: dict[int, Tensor] = {}
        for level, block in enumerate(self.encoder):
            features = block(x)
            pooled, memory = self.unpooling.pool(features)
            if self.attention:
                pooled = (1 + self.attention[level](x if self.attention_from == "input" else features)) * pooled
            x = pooled
            outputs.append(x)
            memories.append(memory)
        x = self._fuse(outputs)
        for level in reversed(range(5)):
            x = self.decoder[level](self.unpooling.unpool(x, memories[level]))
            decoded[2**level] = x
        return [x], decoded

    def _fuse(self, outputs: list[Tensor]) -> Tensor:
        """The decoder input from the five encoder outputs: 1x1 convolution, then pooling; the two do not commute."""
        if self.pyramid == "none":
            return outputs[-1]
        levels = []
        for level, (lateral, output) in enumerate(zip(self.lateral, outputs[:4], strict=True)):
            assert isinstance(lateral, Lateral)  # noqa: S101 (for the type checker)
            levels.append(lateral.biased(F.max_pool2d(lateral(output), 2 ** (4 - level))))
        if self.pyramid == "sum":
            return levels[0] + levels[1] + levels[2] + levels[3] + outputs[-1]
        if self.pyramid == "cat":
            return torch.cat(levels, 1) + outputs[-1]
        mixed: Tensor = self.mix[0](torch.cat([*levels, outputs[-1]], 1))
        return mixed


class Lateral(nn.Conv2d):
    """1x1 convolution whose bias is added after pooling: bit-identical, and the unpooled map is the net's largest."""

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)

    def biased(self, pooled: Tensor) -> Tensor:
        return pooled + self.bias[:, None, None]


class Attention(nn.Module):
    """1x1 convolution, batch norm, ReLU, softmax, 2x2 max-pool (Eq. 2 to 4)."""

    def __init__(self, inputs: int, outputs: int, softmax: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.softmax = choice("softmax", softmax, "channel", "spatial")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        if self.softmax == "channel":
            last = torch.softmax(x.permute(0, 2, 3, 1), -1)  # channels last, as inference engines compute anyway
            trained_so = x.is_contiguous(memory_format=torch.channels_last)
            layout = (
                torch.channels_last if trained_so else torch.contiguous_format
            )  # any other would be copied back and forth
            return F.max_pool2d(last.permute(0, 3, 1, 2).contiguous(memory_format=layout), 2)
        # maxpool(softmax(x)) = exp(maxpool(x) - logsumexp(x)): exact, and safe in half precision
        return torch.exp(F.max_pool2d(x, 2) - torch.logsumexp(x, (2, 3), keepdim=True))


def _block(sizes: list[int]) -> nn.Sequential:
    return nn.Sequential(*(conv_norm_relu(i, o, "batch", bias=True) for i, o in pairwise(sizes)))
