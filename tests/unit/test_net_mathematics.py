"""The nets against straightforward readings of their papers, written a second time and run in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models import AELFUNet, CACPNet, CrackNet, MSFNet, SCNet
from edgecrack.models.blocks import fused, upsample


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def trained(net: CrackNet) -> Any:
    """The net as if it had been trained: no bias is 0, no statistics are those of the start."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 2)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return net.double().eval()


def layers(block: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> list[Any]:
    return [module for module in block.modules() if isinstance(module, kind)]


def conv(layer: Any, x: Tensor) -> Tensor:
    weight: Tensor = layer.weight
    return F.conv2d(x, weight, layer.bias, padding=weight.shape[-1] // 2)


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def nearest(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """OpenCV's linear resize: half-pixel centres, the border repeated."""
    return torch.stack([torch.from_numpy(cv2.resize(one[0].numpy(), size[::-1]))[None] for one in x])


def pool(x: Tensor, size: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // size, size, w // size, size).amax((3, 5))


def unpool(y: Tensor, where: Tensor) -> Tensor:
    """Each value where the first maximum of its window of `where` is, found window by window."""
    out = torch.zeros_like(where)
    for n, c, i, j in np.ndindex(*y.shape):
        window = where[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1).tolist()
        first = window.index(max(window))
        out[n, c, 2 * i + first // 2, 2 * j + first % 2] = y[n, c, i, j]
    return out


def instance_norm(x: Tensor) -> Tensor:
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def batch_norm(layer: Any, x: Tensor) -> Tensor:
    given: list[Tensor] = [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    weight, bias, mean, var = (values.view(1, -1, 1, 1) for values in given)
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def convs_norms(block: nn.Module) -> Iterable[tuple[Any, Any]]:
    return zip(layers(block), layers(block, nn.BatchNorm2d), strict=True)


def aelf_unet(net: Any, x: Tensor) -> Tensor:
    skips: list[Tensor] = []
    for block in net.encoder:
        x = pool(x) if skips else x
        for layer in layers(block):
            x = relu(conv(layer, x))
        skips.append(x)
    for scale in (3, 2, 1, 0):
        x = torch.cat([skips[scale], nearest(x)], 1)
        for layer in layers(net.decoder[scale]):
            x = relu(conv(layer, x))
    *deep, last = layers(net.head)
    for layer in deep:
        x = relu(conv(layer, x))
    return conv(last, x)


def scnet(net: Any, x: Tensor, gate_main: bool = True) -> list[Tensor]:
    def block(part: nn.Module, x: Tensor) -> Tensor:
        for layer in layers(part):
            x = relu(instance_norm(conv(layer, x)))
        return x

    def attention(part: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        focused = 1 / (1 + (-conv(part.gate, x)).exp()) * x
        return focused, conv(part.response, focused)

    size = (x.shape[2], x.shape[3])
    enhanced: list[Tensor] = []
    pooled_from: list[Tensor] = []
    for part, attend in zip(net.encoder, net.encoder_attention, strict=True):
        x = block(part, x)
        focused, response = attention(attend, x)
        enhanced.append(torch.cat([*[pool(e) for e in enhanced[-1:]], response], 1))
        pooled_from.append(focused if gate_main else x)
        x = pool(pooled_from[-1])
    sides: list[Tensor] = []
    for scale in reversed(range(len(net.decoder))):
        x = block(net.decoder[scale], unpool(x, pooled_from[scale]))
        focused, response = attention(net.decoder_attention[scale], x)
        x = focused if gate_main else x
        sides.insert(0, bilinear(conv(net.side[scale], torch.cat([enhanced[scale], response], 1)), size))
    return [conv(net.fuse, torch.cat(sides, 1)), *sides]


def cacpnet(net: Any, x: Tensor) -> Tensor:
    outputs: list[Tensor] = []
    pooled_from: list[Tensor] = []
    for part, attend in zip(net.encoder, net.attention, strict=True):
        exponent = relu(batch_norm(attend.norm, conv(attend.conv, x))).exp()
        alpha = pool(exponent / exponent.sum(1, keepdim=True))
        for layer, norm in convs_norms(part):
            x = relu(batch_norm(norm, conv(layer, x)))
        pooled_from.append(x)
        x = alpha * pool(x) + pool(x)
        outputs.append(x)
    for lateral, output, size in zip(net.lateral, outputs[:4], (16, 8, 4, 2), strict=True):
        x = x + pool(conv(lateral, output), size)
    for scale in (4, 3, 2, 1, 0):
        x = unpool(x, pooled_from[scale])
        for layer in layers(net.decoder[scale]):
            norms = dict(zip(layers(net.decoder[scale]), layers(net.decoder[scale], nn.BatchNorm2d), strict=False))
            x = relu(batch_norm(norms[layer], conv(layer, x))) if layer in norms else conv(layer, x)
    return x


def msfnet(net: Any, x: Tensor) -> list[Tensor]:
    size = (x.shape[2], x.shape[3])
    laterals: list[Tensor] = []
    for part, lateral in zip(net.encoder, net.lateral, strict=True):
        x = pool(x) if laterals else x
        for layer, norm in convs_norms(part):
            x = relu(batch_norm(norm, conv(layer, x)))
        laterals.append(batch_norm(lateral[1], conv(lateral[0], x)))
    fused: list[Tensor] = []
    for scale in (4, 3, 2, 1, 0):
        joined = relu(laterals[scale] + (nearest(fused[0]) if fused else 0))
        ((layer, norm),) = convs_norms(net.smooth[scale])
        fused.insert(0, relu(batch_norm(norm, conv(layer, joined))))
    sides = [bilinear(conv(side, stage), size) for side, stage in zip(net.side, fused, strict=True)]
    features = conv(net.projection[2], relu(conv(net.projection[0], fused[2])))
    return [conv(net.fuse, torch.cat(sides, 1)), *sides, features / features.square().sum(1, keepdim=True).sqrt()]


@pytest.mark.parametrize(
    ("kind", "width", "options", "paper"),
    [
        (AELFUNet, 0.05, {}, lambda net, x: [aelf_unet(net, x)]),
        (SCNet, 0.05, {}, scnet),
        (SCNet, 0.05, {"levels": 4}, scnet),
        (SCNet, 0.05, {"gate_main": False}, lambda net, x: scnet(net, x, gate_main=False)),
        (CACPNet, 0.05, {}, lambda net, x: [cacpnet(net, x)]),
        (MSFNet, 0.125, {}, lambda net, x: msfnet(net, x)[:-1]),
    ],
)
def test_a_net_computes_what_its_paper_says(
    kind: type[CrackNet], width: float, options: dict[str, Any], paper: Callable[[Any, Tensor], list[Tensor]]
) -> None:
    net, x = trained(kind(width, **options)), torch.randn(2, 3, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted, found = paper(net, x), net.stages(x)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.std() > 1e-3  # a constant would agree with anything
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_embedding_of_msfnet_is_the_projection_of_its_third_stage() -> None:
    net, x = trained(MSFNet(0.125)), torch.randn(2, 3, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.embedding(x), msfnet(net, x)[-1], rtol=1e-9, atol=1e-9)


def test_the_conv2_upsampling_of_aelf_unet_pads_right_and_bottom() -> None:
    net = AELFUNet(0.05, up="conv2")
    given: list[Tensor] = []
    net.halve[0].register_forward_hook(lambda *call: given.extend((call[1][0], call[2])))
    net(torch.randn(1, 3, 32, 48))
    before, after = given
    assert after.shape[2:] == (32, 48)
    assert not before[:, :, -1].any()
    assert not before[:, :, :, -1].any()
    assert before[:, :, :-1, :-1].any()


def test_one_attention_map_of_a_channel_softmax_doubles_every_feature() -> None:
    # Section 3.2, reading R3: with one output channel the softmax over channels is 1 everywhere.
    net = trained(CACPNet(0.05, attention_out="one", pyramid="none"))
    plain = trained(CACPNet(0.05, attention=False, pyramid="none"))
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("attention")})
    for level in range(5):
        plain.encoder[level].register_forward_hook(lambda _, __, out: out * 2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(x), plain(x))


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_spatial_softmax_is_exact_and_does_not_overflow(scale: float) -> None:
    attention = trained(CACPNet(0.05, softmax="spatial")).attention[0]
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64) * scale
    scores = relu(batch_norm(attention.norm, conv(attention.conv, x)))
    wanted = pool(torch.softmax(scores.flatten(2), 2).view_as(scores))
    torch.testing.assert_close(attention(x), wanted)


def test_the_learned_upsampling_of_scnet_starts_as_the_bilinear_one() -> None:
    net = SCNet(0.05, side_up="deconv")
    for scale, layer in enumerate(net.side_up):
        factor = 2**scale
        x = torch.randn(1, 1, 6, 9)
        wanted, found = bilinear(x, (6 * factor, 9 * factor)), layer(x)
        inner = slice(factor // 2, -(factor // 2) or None)  # a transposed convolution knows no border to repeat
        torch.testing.assert_close(found[:, :, inner, inner], wanted[:, :, inner, inner])


def test_the_gate_of_scnet_feeds_back_only_where_it_is_on_the_main_path() -> None:
    x = torch.randn(1, 3, 32, 32)
    for gate_main in (True, False):
        net = SCNet(0.05, gate_main=gate_main)
        deepest = net.stages(x)[5]
        first: Any = net.encoder_attention[0]
        with torch.no_grad():
            first.gate.bias += 3
            for values in first.response.parameters():
                values.zero_()  # the way round through the enhancement encoder is closed
        assert torch.equal(net.stages(x)[5], deepest) == (not gate_main)


@pytest.mark.parametrize("scale", [1, 2, 4, 8, 16])
def test_upsampling_by_convolution_is_bilinear(scale: int) -> None:
    x = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, scale), wanted, atol=1e-6, rtol=0)


def test_maps_are_fused_as_the_convolution_would() -> None:
    torch.manual_seed(0)
    fuse, maps = torch.nn.Conv2d(4, 1, 1), [torch.randn(2, 1, 5, 3) for _ in range(4)]
    torch.testing.assert_close(fused(maps, fuse), fuse(torch.cat(maps, 1)), atol=1e-6, rtol=0)
