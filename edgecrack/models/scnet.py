"""SCNet: Sharma, Pradhan, Purushothaman, "SCNet: A Generalized Attention-based Model for Crack Fault Segmentation"."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.errors import SpecError
from edgecrack.models.blocks import (
    CrackNet,
    Unpooling,
    by_stride,
    choice,
    conv_norm_relu,
    fused,
    initialise,
    scaled,
    upsample,
)
from edgecrack.models.hed import HED


class SCNet(CrackNet):
    """Attention encoder and decoder (VGG-16 layout, max-unpooling), enhancement encoder, fused network (Eq. 1 to 5).

    Args:
        width: multiplier of the channel counts 64-128-256-512-512.
        levels: 5, or 4 for the paper's "-1 level".
        prior: the fourth input channel: "none", "hed" (the paper's; needs `attach_prior`) or "cheap" (11x11 black-hat
            of the grey frame).
        norm: "instance" (the paper's best), "instance-affine" or "batch" (foldable, trained separately).
        attention: False for the ablation: no gating, but a 1x1 convolution still gives each scale's response.
        gate_main: whether the gated features continue along the main path, or feed the side branch only.
        unpool: "index", "mask" or "bilinear", see `Unpooling`.
        side_up: "bilinear", or "deconv": a transposed convolution initialised to bilinear.
        half: pooling of the enhancement encoder, "max" or "average".
        attention_bias: whether the 1x1 convolutions of the attention have a bias.
    """

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    stride = 32

    def __init__(
        self,
        width: float = 1.0,
        *,
        levels: int = 5,
        prior: str = "none",
        norm: str = "instance",
        attention: bool = True,
        gate_main: bool = True,
        unpool: str = "index",
        side_up: str = "bilinear",
        half: str = "max",
        attention_bias: bool = True,
    ) -> None:
        super().__init__()
        if levels not in (4, 5):
            raise SpecError(f"levels is 4 or 5; got {levels!r}")
        self.stride = 2**levels
        self.prior = choice("prior", prior, "none", "hed", "cheap")
        self.gate_main, self.unpooling = gate_main, Unpooling(unpool)
        self.average = choice("half", half, "max", "average") == "average"
        self.edge: tuple[HED, ...] = ()  # in a tuple, so that its weights are not registered as this net's
        channels = scaled((64, 128, 256, 512, 512), width)[:levels]
        counts = (2, 2, 3, 3, 3)[:levels]
        inputs = [3 if prior == "none" else 4, *channels[:-1]]
        ends = [channels[0], *channels[:-1]]  # output channels of the decoder blocks, by scale
        self.encoder = nn.ModuleList(_block(i, o, o, n, norm) for i, o, n in zip(inputs, channels, counts, strict=True))
        self.encoder_attention = nn.ModuleList(ScaleAttention(c, attention_bias, attention) for c in channels)
        self.decoder = nn.ModuleList(_block(c, c, e, n, norm) for c, e, n in zip(channels, ends, counts, strict=True))
        self.decoder_attention = nn.ModuleList(ScaleAttention(c, attention_bias, attention) for c in ends)
        self.side = nn.ModuleList(nn.Conv2d(scale + 2, 1, 1) for scale in range(levels))
        self.side_up = nn.ModuleList(_side_up(scale) for scale in range(levels) if side_up == "deconv")
        choice("side_up", side_up, "bilinear", "deconv")
        self.fuse = nn.Conv2d(levels, 1, 1)
        self.projection = None
        self.feature_channels = by_stride(ends)
        initialise(self, "xavier")

    def attach_prior(self, hed: HED) -> None:
        """Use `hed`, with its weights loaded, for the fourth input channel of `prior="hed"`."""
        self.edge = (hed.eval(),)

    def prepare(self, rgb: Tensor) -> Tensor:
        """RGB in 0..1 -> (N, 3 or 4, H, W) in [-1, 1], the prior last. Raises SpecError if HED is not attached."""
        x = super().prepare(rgb)
        if self.prior == "none":
            return x
        return torch.cat([x, self._edges(rgb)], 1)

    def logits_and_features(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        enhanced: list[Tensor] = []
        decoded: dict[int, Tensor] = {}
        memories, sides = [], []
        for block, attention in zip(self.encoder, self.encoder_attention, strict=True):
            features = block(x)
            gated, response = attention(features)
            enhanced.append(torch.cat([self._halved(enhanced[-1]), response], 1) if enhanced else response)
            x, memory = self.unpooling.pool(gated if self.gate_main else features)
            memories.append(memory)
        for scale in reversed(range(len(self.decoder))):
            features = self.decoder[scale](self.unpooling.unpool(x, memories[scale]))
            gated, response = self.decoder_attention[scale](features)
            sides.append(self._side(scale, torch.cat([enhanced[scale], response], 1)))
            x = gated if self.gate_main else features
            decoded[2**scale] = x
        sides.reverse()
        return [fused(sides, self.fuse), *sides], decoded

    def _halved(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.average else F.max_pool2d(x, 2)

    def _side(self, scale: int, x: Tensor) -> Tensor:
        logit: Tensor = self.side[scale](x)
        if not self.side_up:
            return upsample(logit, 2**scale)
        learned: Tensor = self.side_up[scale](logit)
        return learned

    def _edges(self, rgb: Tensor) -> Tensor:
        if self.prior == "hed":
            if not self.edge:
                raise SpecError('prior "hed" needs HED weights; call attach_prior first')
            edges: Tensor = self.edge[0].to(rgb.device)(rgb)
            return (edges >= 0.5).to(rgb.dtype) * 2 - 1
        grey = (rgb * rgb.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)
        closing = -F.max_pool2d(-F.max_pool2d(grey, 11, 1, 5), 11, 1, 5)
        return (closing - grey) * 2 - 1


class ScaleAttention(nn.Module):
    """Eq. 1: the gated features sigmoid(conv(F)) * F, (N, C, H, W), and their one-channel response.

    Without `gated` the features stay unchanged.
    """

    def __init__(self, channels: int, bias: bool, gated: bool = True) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, 1, 1, bias=bias) if gated else None
        self.response = nn.Conv2d(channels, 1, 1, bias=bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        gated = features if self.gate is None else torch.sigmoid(self.gate(features)) * features
        return gated, self.response(gated)


def _block(inputs: int, inner: int, outputs: int, convolutions: int, norm: str) -> nn.Sequential:
    sizes = [inputs, *[inner] * (convolutions - 1), outputs]
    return nn.Sequential(*(conv_norm_relu(i, o, norm, bias=False) for i, o in pairwise(sizes)))


def _side_up(scale: int) -> nn.Module:
    """A transposed convolution that upsamples by 2**scale, initialised to bilinear interpolation."""
    factor = 2**scale
    size = 2 * factor if scale else 1
    layer = nn.ConvTranspose2d(1, 1, size, factor, factor // 2)
    line = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor if scale else torch.ones(1)
    with torch.no_grad():
        layer.weight.copy_((line[:, None] * line[None, :]).view(1, 1, size, size))
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
