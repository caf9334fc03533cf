"""The nets: sizes that pin every layer, every switch, the exact unpooling, the priors."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.errors import SpecError
from edgecrack.models import HED, MODELS, AELFUNet, CACPNet, CrackNet, MSFNet, SCNet, build_model, rgb_from_frames
from edgecrack.models.blocks import Unpooling
from edgecrack.spec import ModelSpec

NARROW = {"aelf-unet": 0.05, "cacpnet": 0.0625, "msfnet": 0.125, "scnet": 0.05}
SWITCHES: dict[str, dict[str, list[Any]]] = {
    "aelf-unet": {"head": ["deep-64", "shallow"], "up": ["conv2"], "dropout": [True]},
    "cacpnet": {
        "attention": [False],
        "attention_out": ["one"],
        "attention_from": ["output"],
        "softmax": ["spatial"],
        "pyramid": ["cat", "catcat", "none"],
        "unpool": ["mask"],
    },
    "msfnet": {},
    "scnet": {
        "levels": [4],
        "prior": ["cheap"],
        "norm": ["instance-affine", "batch"],
        "attention": [False],
        "gate_main": [False],
        "unpool": ["mask", "bilinear"],
        "side_up": ["deconv"],
        "half": ["average"],
        "attention_bias": [False],
    },
}
SWITCHED = [(name, key, value) for name, keys in SWITCHES.items() for key, values in keys.items() for value in values]


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def narrow(name: str, **options: Any) -> CrackNet:
    return build_model(ModelSpec(name, NARROW[name], options))


def on_paper(net: type[nn.Module], *args: Any, **options: Any) -> nn.Module:
    """A net of shapes without numbers: full size costs nothing."""
    with torch.device("meta"):
        return net(*args, **options)


def parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def gmacs(net: nn.Module, *size: int) -> float:
    """Multiply-adds of all convolutions at batch 1, in 10^9."""
    done: list[int] = []

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        done.append(out.numel() * layer.weight[0].numel())

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    net(torch.empty(1, *size, device="meta"))
    return sum(done) / 1e9


@pytest.mark.parametrize(
    ("net", "width", "options", "size", "count", "work"),
    [
        (AELFUNet, 1, {}, (3, 512, 512), 31_490_821, 252.01),
        (AELFUNet, 1, {"head": "shallow"}, (3, 512, 512), 31_378_945, 222.73),
        (AELFUNet, 1, {"up": "conv2"}, (3, 512, 512), 31_143_621, 247.72),
        (AELFUNet, 0.5, {}, (3, 512, 512), 7_874_949, 63.19),
        (AELFUNet, 0.5, {"head": "deep-64"}, (3, 512, 512), 7_940_133, 80.25),
        (AELFUNet, 0.25, {}, (3, 512, 512), 1_969_861, 15.89),
        (AELFUNet, 0.25, {"head": "deep-64"}, (3, 512, 512), 2_046_901, 36.05),
        (SCNet, 1, {"prior": "hed"}, (4, 256, 256), 29_461_683, 42.46),
        (SCNet, 1, {"prior": "hed", "levels": 4}, (4, 256, 256), 15_303_847, 38.83),
        (SCNet, 1, {"prior": "cheap"}, (4, 512, 512), 29_461_683, 169.83),
        (SCNet, 1, {"prior": "hed", "norm": "batch"}, (4, 256, 256), 29_477_683, 42.46),
        (SCNet, 1, {"prior": "hed", "norm": "instance-affine"}, (4, 256, 256), 29_477_683, 42.46),
        (SCNet, 1, {"prior": "hed", "side_up": "deconv"}, (4, 256, 256), 29_461_683 + 1_366, 42.46),
        (SCNet, 1, {"prior": "hed", "gate_main": False}, (4, 256, 256), 29_461_683, 42.46),
        (SCNet, 1, {}, (3, 256, 256), 29_461_107, 42.42),
        (CACPNet, 1, {}, (3, 320, 480), 30_375_937, 97.27),
        (CACPNet, 1, {"attention": False, "pyramid": "none"}, (3, 320, 480), 29_443_585, 93.78),
        (CACPNet, 1, {"pyramid": "none"}, (3, 320, 480), 29_882_369, 94.91),
        (CACPNet, 1, {"pyramid": "cat"}, (3, 320, 480), 30_005_761, 95.50),
        (CACPNet, 1, {"pyramid": "catcat"}, (3, 320, 480), 30_530_561, 95.58),
        (MSFNet, 1, {}, (3, 512, 512), 2_586_923 + 8_320, 28.64),
    ],
)
def test_weights_and_work_are_the_papers(
    net: type[CrackNet], width: float, options: dict[str, Any], size: tuple[int, ...], count: int, work: float
) -> None:
    model = on_paper(net, width, **options)
    assert parameters(model) == count
    assert round(gmacs(model, *size), 2) == work


def test_hed_has_the_weights_and_work_of_vgg_16() -> None:
    hed = on_paper(HED)
    assert parameters(hed) == 14_716_171
    assert round(gmacs(hed, 3, 256, 256), 2) == 20.05


@pytest.mark.parametrize(
    ("net", "options", "parts"),
    [
        (
            AELFUNet,
            {},
            {"head.0": 36_928, "head.6": 1_154, "head.8": 3, "decoder.3": 9_438_208, "encoder.4": 14_157_824},
        ),
        (AELFUNet, {}, {"encoder.0": 38_720, "decoder.2": 2_359_808, "decoder.1": 590_080, "decoder.0": 147_584}),
        (SCNet, {"prior": "hed"}, {"encoder": 14_711_040, "decoder": 14_745_600, "side": 25, "fuse": 6}),
        (SCNet, {"prior": "hed"}, {"encoder_attention": 2_954, "decoder_attention": 2_058}),
        (SCNet, {"prior": "hed", "levels": 4}, {"encoder": 7_633_152, "decoder": 7_667_712, "side": 18, "fuse": 5}),
        (SCNet, {"prior": "hed", "levels": 4}, {"encoder_attention": 1_928, "decoder_attention": 1_032}),
        (CACPNet, {}, {"encoder": 14_723_136, "attention": 438_784, "lateral": 493_568, "decoder": 14_720_449}),
        (MSFNet, {}, {"encoder": 2_353_888, "lateral": 47_744, "smooth": 184_960, "side": 325, "fuse": 6}),
        (MSFNet, {}, {"projection": 8_320}),
    ],
)
def test_weights_lie_where_the_papers_have_them(
    net: type[CrackNet], options: dict[str, Any], parts: dict[str, int]
) -> None:
    model = on_paper(net, **options)
    assert {part: parameters(model.get_submodule(part)) for part in parts} == parts


def seen(net: nn.Module, x: Tensor, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> list[list[int]]:
    """The shapes, less the batch, that the named parts take and give, in the order of the run."""
    shapes: list[list[int]] = []
    for part in inputs:
        net.get_submodule(part).register_forward_pre_hook(lambda _, given: shapes.append([*given[0].shape[1:]]))
    for part in outputs:
        net.get_submodule(part).register_forward_hook(lambda _, __, out: shapes.append([*out.shape[1:]]))
    assert net(x).shape == (1, 1, *x.shape[2:])
    return shapes


def test_shapes_along_the_nets_are_the_papers() -> None:
    x = torch.empty(1, 3, 512, 512, device="meta")
    stages = seen(on_paper(AELFUNet), x, outputs=tuple(f"encoder.{level}" for level in range(5)))
    assert stages == [[64, 512, 512], [128, 256, 256], [256, 128, 128], [512, 64, 64], [1024, 32, 32]]
    sides = seen(on_paper(SCNet), x[:, :, :256, :256], inputs=tuple(f"side.{scale}" for scale in range(5)))
    assert sides == [[6, 16, 16], [5, 32, 32], [4, 64, 64], [3, 128, 128], [2, 256, 256]]
    scales = tuple(f"encoder.{level}" for level in range(1, 5))
    x = x.new_empty(1, 3, 320, 480)
    pooled = seen(on_paper(CACPNet), x, inputs=(*scales, "decoder.4"))
    assert pooled == [[64, 160, 240], [128, 80, 120], [256, 40, 60], [512, 20, 30], [512, 20, 30]]
    assert seen(on_paper(CACPNet), x, outputs=("lateral.0", "lateral.3")) == [[512, 160, 240], [512, 20, 30]]


@pytest.mark.parametrize(("name", "logits"), [("aelf-unet", 1), ("cacpnet", 1), ("msfnet", 6), ("scnet", 6)])
def test_the_stages_begin_with_what_forward_gives(name: str, logits: int) -> None:
    net = narrow(name).eval()
    x = torch.rand(2, 3, 64, 96)
    stages = net.stages(x)
    assert [stage.shape for stage in stages] == [(2, 1, 64, 96)] * logits
    assert torch.equal(stages[0], net(x))


@pytest.mark.parametrize(("name", "key", "value"), SWITCHED)
def test_every_switch_trains_and_makes_a_difference(name: str, key: str, value: Any) -> None:
    net, plain = narrow(name, **{key: value}), narrow(name)
    rgb = torch.rand(2, 3, 64, 64)
    logits = net.stages(net.prepare(rgb))
    assert all(logit.shape == (2, 1, 64, 64) for logit in logits)
    sum(logit.square().mean() for logit in logits).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    if {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}:
        plain.load_state_dict(net.state_dict())
        same = torch.equal(net(net.prepare(rgb)), plain(plain.prepare(rgb)))
        assert same == (value == "mask")  # the one switch that must not change the answer


@pytest.mark.parametrize("name", MODELS)
def test_all_defaults_are_named_in_the_switches_here(name: str) -> None:
    known = MODELS[name].__init__.__kwdefaults__ or {}
    assert set(known) == set(SWITCHES[name])


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_switch_and_an_unknown_value_are_refused_by_name(name: str) -> None:
    with pytest.raises(SpecError, match=f"{name} has no such switch.*colour"):
        build_model(ModelSpec(name, options={"colour": "blue"}))
    for key, values in SWITCHES[name].items():
        if not isinstance(values[0], bool):
            with pytest.raises(SpecError, match=f"{key} is .*; got '?7"):
                build_model(ModelSpec(name, NARROW[name], {key: 7}))


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match="no model 'unet'; the models are aelf-unet, cacpnet, msfnet, scnet"):
        build_model(ModelSpec("unet"))


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_every_layer(name: str) -> None:
    # A layer that kept its channels would dominate a slim net: the head, the pyramid and the fusion shrink too.
    options = {"pyramid": "catcat"} if name == "cacpnet" else {}
    full, slim = on_paper(MODELS[name], 1.0, **options), on_paper(MODELS[name], 0.25, **options)
    pairs = list(zip(full.named_parameters(), slim.named_parameters(), strict=True))
    assert len(pairs) > 20
    for (key, whole), (_, part) in pairs:
        fixed = 8  # colours in, logits out, one map a scale: not the width's
        want = [side if side < fixed else side // 4 for side in whole.shape]
        assert list(part.shape) == want, key


@pytest.mark.parametrize("name", MODELS)
def test_the_compact_net_has_16_channels_at_full_resolution(name: str) -> None:
    net = MODELS[name]
    first = next(m for m in on_paper(net, net.compact_width).modules() if isinstance(m, nn.Conv2d))
    assert first.out_channels == 16


@pytest.mark.parametrize("pyramid", ["cat", "catcat"])
@pytest.mark.parametrize("width", [0.02, 0.05, 0.3])
def test_a_pyramid_of_quarters_fits_widths_that_4_does_not_divide(pyramid: str, width: float) -> None:
    net = CACPNet(width, pyramid=pyramid)
    assert net.encoder[4][0][0].out_channels % 4  # type: ignore[index]
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("name", "options", "stride"),
    [
        ("aelf-unet", {}, 16),
        ("cacpnet", {}, 32),
        ("msfnet", {}, 16),
        ("scnet", {}, 32),
        ("scnet", {"levels": 4}, 16),
    ],
)
def test_the_stride_is_the_smallest_that_the_net_takes(name: str, options: dict[str, Any], stride: int) -> None:
    net = narrow(name, **options).eval()
    assert net.stride == stride
    assert net(torch.rand(1, 3, stride * 2, stride * 3)).shape == (1, 1, stride * 2, stride * 3)
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 3, stride * 2, stride * 3 + stride // 2))


@pytest.mark.parametrize("name", MODELS)
def test_a_net_turns_into_half_precision_and_back(name: str) -> None:
    # An attribute of a net must not hide a method of torch's module.
    net = narrow(name).half()
    assert {value.dtype for value in net.parameters()} == {torch.float16}
    assert net.float().eval()(torch.rand(1, 3, 32, 32)).dtype == torch.float32


# Values with many ties: all-zero windows after a ReLU, equal maxima in every pair of places.
def tied(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 5, 12, 18, generator=generator)
    return {"relu": F.relu(x), "coarse": F.relu(x * 2).round(), "signed": (x * 2).round(), "zeros": x * 0}[kind]


@pytest.mark.parametrize("kind", ["relu", "coarse", "signed", "zeros"])
@pytest.mark.parametrize("seed", range(5))
def test_mask_unpooling_is_torchs_own_bit_by_bit(kind: str, seed: int) -> None:
    x = tied(kind, seed)
    y = torch.randn(2, 5, 6, 9) + 3
    answers = []
    for form in ("index", "mask"):
        unpooling = Unpooling(form)
        pooled, memory = unpooling.pool(x)
        assert torch.equal(pooled, F.max_pool2d(x, 2))
        answers.append(unpooling.unpool(y, memory))
    assert torch.equal(*answers)
    assert torch.equal(F.max_pool2d(answers[0].abs(), 2), y.abs())  # each value once, in its own window


@pytest.mark.parametrize(
    ("name", "options"),
    [("scnet", {}), ("scnet", {"gate_main": False, "levels": 4}), ("cacpnet", {}), ("cacpnet", {"pyramid": "none"})],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_net_of_masks_is_the_net_of_indices_bit_by_bit(name: str, options: dict[str, Any], training: bool) -> None:
    index, mask = narrow(name, unpool="index", **options), narrow(name, unpool="mask", **options)
    mask.load_state_dict(index.state_dict())
    x = torch.randn(2, 3, 96, 64)
    for found, wanted in zip(mask.train(training).stages(x), index.train(training).stages(x), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("net", "mean", "std"),
    [
        ("aelf-unet", 0.0, 1.0),
        ("scnet", 0.5, 0.5),
        ("cacpnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("msfnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_a_bgr_frame_becomes_what_the_net_was_trained_on(net: str, mean: Any, std: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    wanted = (frames[..., ::-1] / 255.0 - np.array(mean)) / np.array(std)
    found = narrow(net).prepare(rgb_from_frames(torch.from_numpy(frames)))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted.transpose(0, 3, 1, 2), atol=1e-6)


def test_the_cheap_prior_is_opencvs_black_hat() -> None:
    rgb = torch.rand(1, 3, 64, 64)
    prior = narrow("scnet", prior="cheap").prepare(rgb)
    assert prior.shape == (1, 4, 64, 64)
    grey = np.tensordot([0.299, 0.587, 0.114], rgb[0].double().numpy(), 1)
    hat = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((11, 11), np.uint8))
    np.testing.assert_allclose(prior[0, 3].numpy(), hat * 2 - 1, atol=1e-6)
    assert torch.equal(prior[:, :3], rgb * 2 - 1)


def test_the_hed_prior_is_a_map_of_two_values_that_follows_the_edges() -> None:
    net, hed = narrow("scnet", prior="hed"), HED()
    with pytest.raises(SpecError, match="attach_prior"):
        net.prepare(torch.rand(1, 3, 32, 32))
    assert isinstance(net, SCNet)
    weights = net.state_dict().keys()
    net.attach_prior(hed.train())
    assert net.state_dict().keys() == weights  # HED's weights have a licence of their own
    with torch.no_grad():
        nn.init.zeros_(hed.fuse.bias)  # type: ignore[arg-type]
        rgb = torch.rand(1, 3, 32, 32)
        prior, edges = net.prepare(rgb)[:, 3:], hed(rgb)
    assert torch.equal(prior, torch.where(edges >= 0.5, 1.0, -1.0))
    assert 0 < (prior > 0).float().mean() < 1
    assert net(net.prepare(rgb)).shape == (1, 1, 32, 32)


def test_hed_sees_bgr_less_its_mean() -> None:
    hed, given = HED(), []
    hed.blocks[0].register_forward_pre_hook(lambda _, x: given.append(x[0]))
    hed(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16))
    wanted = [-104.00698793, 127.5 - 116.66876762, 255 - 122.67891434]
    torch.testing.assert_close(given[0][0, :, 3, 5], torch.tensor(wanted))


def test_instance_norm_has_nothing_to_learn_and_sees_one_image() -> None:
    net = narrow("scnet").double()
    assert {value.ndim for key, value in net.state_dict().items() if "coder." in key} == {4}  # convolutions alone
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    alone = net.train()(x[:1])
    torch.testing.assert_close(net(x)[:1], alone)
    torch.testing.assert_close(net.eval()(x)[:1], alone)  # no running statistics


def test_the_embedding_of_msfnet_is_normalised_and_of_stride_4() -> None:
    net = MSFNet(0.25)
    found = net.embedding(torch.randn(2, 3, 64, 96))
    assert found.shape == (2, 16, 16, 24)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2, 16, 24))


@pytest.mark.parametrize(("name", "gain"), [("aelf-unet", 2.0), ("cacpnet", 2.0), ("msfnet", 2.0), ("scnet", None)])
def test_weights_start_as_the_papers_have_them(name: str, gain: float | None) -> None:
    for key, layer in MODELS[name](0.5).named_modules():
        if isinstance(layer, nn.Conv2d):
            inputs, outputs = layer.weight[0].numel(), layer.weight[:, 0].numel()
            std = math.sqrt(gain / inputs) if gain else math.sqrt(2 / (inputs + outputs))  # He, or Xavier with gain 1
            if layer.weight.numel() > 2000:
                assert layer.weight.std().item() == pytest.approx(std, rel=0.1), key
            if layer.bias is not None:
                assert (layer.bias == (0.1 if (name, key) == ("aelf-unet", "head.6") else 0)).all(), key
    assert (MSFNet(0.5).fuse.weight == 0.2).all()
