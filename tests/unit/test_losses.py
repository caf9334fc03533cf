"""The losses: finite everywhere, equal to their formulas written out in float64, and the identities between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecrack.errors import SpecError
from edgecrack.models import MODELS
from edgecrack.training.losses import (
    LOSSES,
    aelf,
    cross_entropy,
    data_imbalance,
    dice,
    focal,
    scnet_loss,
    soft_iou,
    tversky,
)

Values = NDArray[np.float64]
SIDES = {"aelf-unet": 0, "cacpnet": 0, "msfnet": 5, "scnet": 5}


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def mask(share: float = 0.1, images: int = 3) -> Tensor:
    return (torch.rand(images, 1, 16, 24) < share).float()


# The formulas as the papers print them. In float64 the logarithms need no care while logits stay below 30.
def sigmoid(z: Values) -> Values:
    return 1 / (1 + np.exp(-z))


def true_share(z: Values, y: Values) -> Values:
    """The probability given to the true class."""
    return np.where(y > 0.5, sigmoid(z), sigmoid(-z))


def by_image(loss: Callable[[Values, Values], float]) -> Callable[[Values, Values], float]:
    return lambda z, y: float(np.mean([loss(one, other) for one, other in zip(sigmoid(z), y, strict=True)]))


def plain_aelf(z: Values, y: Values, a: float = 1, b: float = 0.7, g1: float = 0, g2: float = 0) -> float:
    d = sigmoid(z) - y
    return float(np.mean(np.exp(a * np.abs(d) ** 3 + b * d**2 + np.where(d > 0, g1, g2) * d)) - 1)


def plain_entropy(z: Values, y: Values) -> float:
    return float(np.mean(-np.log(true_share(z, y))))


def plain_focal(z: Values, y: Values) -> float:
    right = true_share(z, y)
    return float(np.mean((1 - right) ** 2 * -np.log(right)))


def plain_iou(p: Values, y: Values) -> float:
    return float(1 - (np.sum(p * y) + 1) / (np.sum(p + y - p * y) + 1))


def plain_tversky(p: Values, y: Values, a: float = 0.3, b: float = 0.7) -> float:
    hit = np.sum(p * y)
    return float(1 - (hit + 1) / (hit + a * np.sum(p * (1 - y)) + b * np.sum((1 - p) * y) + 1))


def plain_dice(z: Values, y: Values) -> float:
    p = sigmoid(z)
    return float(1 - (2 * np.sum(p * y) + 1) / (np.sum(p) + np.sum(y) + 1))


def plain_imbalance(z: Values, y: Values) -> float:
    share = np.clip(y.mean(), 1e-6, 1 - 1e-6)
    weight = np.where(y > 0.5, min(10.0, math.sqrt((1 - share) / share)), 1.0)
    right = true_share(z, y)
    return float(np.sum(weight * (1 - right) * -np.log(right)) / np.sum(weight)) + plain_dice(z, y)


PLAIN: list[tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Values, Values], float]]] = [
    (aelf, plain_aelf),
    (
        lambda z, y: aelf(z, y, 0.8, 0.5, 0.07, -0.03),
        lambda z, y: plain_aelf(z, y, 0.8, 0.5, 0.07, -0.03),
    ),
    (cross_entropy, plain_entropy),
    (focal, plain_focal),
    (soft_iou, by_image(plain_iou)),
    (tversky, by_image(plain_tversky)),
    (lambda z, y: tversky(z, y, 0.6, 0.4), by_image(lambda p, y: plain_tversky(p, y, 0.6, 0.4))),
    (dice, plain_dice),
    (data_imbalance, plain_imbalance),
]


@pytest.mark.parametrize("pair", PLAIN, ids=[plain.__name__ for _, plain in PLAIN])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_a_loss_is_its_formula(pair: tuple[Any, Any], share: float, scale: float) -> None:
    loss, plain = pair
    z, y = torch.randn(3, 1, 16, 24) * scale, mask(share)
    assert loss(z, y).item() == pytest.approx(plain(z.double().numpy(), y.double().numpy()), rel=1e-4, abs=1e-6)


def test_the_nets_add_their_losses_up_as_the_papers_do() -> None:
    z, y = torch.randn(6, 3, 1, 16, 24), mask()
    fused, sides, target = z[0].double().numpy(), z[1:].double().numpy(), y.double().numpy()
    p = sigmoid(fused)
    weights = (0.5, 0.75, 1.0, 0.75, 0.5)
    focals = [weight * plain_focal(side, target) for weight, side in zip(weights, sides, strict=True)]
    iou = by_image(plain_iou)(fused, target)
    wanted = {
        "aelf-unet": plain_aelf(fused, target, g2=-0.07),
        "cacpnet": 0.7 * by_image(plain_tversky)(fused, target) + 0.3 * float(np.mean(np.abs(p - target))),
        "msfnet": plain_imbalance(fused, target) + 0.5 * float(np.mean([plain_imbalance(s, target) for s in sides])),
        "scnet": plain_focal(fused, target) + sum(focals) + iou,
    }
    found = {name: loss(list(z[: 1 + SIDES[name]]), y).item() for name, loss in LOSSES.items()}
    assert found == pytest.approx(wanted, rel=1e-4)
    four = plain_focal(fused, target) + sum(focals[:4]) + iou  # 0.5, 0.75, 1.0, 0.75 from full resolution down
    assert scnet_loss(list(z[:5]), y).item() == pytest.approx(four, rel=1e-4)
    with pytest.raises(SpecError, match="side_weights are as many as sides, 4, got 1"):
        scnet_loss(list(z[:5]), y, side_weights=(1.0,))


def test_every_net_has_a_loss() -> None:
    assert set(LOSSES) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_value_and_gradient_are_finite(name: str, scale: float, share: float, kind: torch.dtype) -> None:
    logits = [(torch.randn(2, 1, 16, 24) * scale).to(kind).requires_grad_() for _ in range(1 + SIDES[name])]
    loss = LOSSES[name](logits, mask(share, 2))
    gradients = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float32  # half precision would round what a small step changes
    assert loss.isfinite()
    assert loss >= 0
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.any() or scale > 1  # only a saturated map may be without a gradient


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float16])
def test_a_mask_may_be_of_any_type(name: str, kind: torch.dtype) -> None:
    logits, y = [torch.randn(3, 1, 16, 24)] * (1 + SIDES[name]), mask()
    assert LOSSES[name](logits, y.to(kind)) == LOSSES[name](logits, y)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    y = mask()
    logits = [torch.randn(3, 1, 16, 24, requires_grad=True) for _ in range(1 + SIDES[name])]
    loss = LOSSES[name](logits, y)
    moved = [z - 0.1 * g / g.norm() for z, g in zip(logits, torch.autograd.grad(loss, logits), strict=True)]
    assert LOSSES[name](moved, y) < loss


@pytest.mark.parametrize("name", MODELS)
def test_a_perfect_map_costs_nearly_nothing_and_a_wrong_one_much(name: str) -> None:
    y = mask()
    right = [(y * 2 - 1) * 40] * (1 + SIDES[name])
    wrong = [-z for z in right]
    assert LOSSES[name](right, y) < 1e-3
    assert LOSSES[name](wrong, y) > 0.9


@pytest.mark.parametrize(("d", "printed"), [(0.25, 1.0612), (0.5, 1.3499), (1.0, 5.4739)])
@pytest.mark.parametrize("crack", [0.0, 1.0])
def test_aelf_has_the_printed_values_above_an_offset_of_1(d: float, printed: float, crack: float) -> None:
    p = torch.tensor(abs(crack - d)).double()
    assert round(aelf(torch.logit(p), torch.tensor(crack)).item() + 1, 4) == printed


def test_the_gammas_of_aelf_weigh_false_alarms_and_misses() -> None:
    z = torch.zeros(1, 1, 1, 1)
    background, crack = z, z + 1
    assert aelf(z, background, gamma1=0.07) > aelf(z, background) > aelf(z, background, gamma1=-0.07)
    assert aelf(z, crack, gamma2=-0.07) > aelf(z, crack) > aelf(z, crack, gamma2=0.07)
    assert aelf(z, background, gamma2=0.07) == aelf(z, background)
    assert aelf(z, crack, gamma1=0.07) == aelf(z, crack)


def test_aelf_with_free_parameters_does_not_overflow() -> None:
    loss = aelf(torch.full((1, 1, 2, 2), 30.0), torch.zeros(1, 1, 2, 2), alpha=50.0, beta=50.0)
    assert loss.item() == pytest.approx(math.expm1(10))


@pytest.mark.parametrize("gammas", [(1.46, 0.0), (0.0, -1.46), (-2.0, 2.0)])
def test_a_gamma_that_moves_the_optimum_past_one_half_is_refused(gammas: tuple[float, float]) -> None:
    with pytest.raises(SpecError, match=r"1\.45"):
        aelf(torch.zeros(1), torch.zeros(1), gamma1=gammas[0], gamma2=gammas[1])


@pytest.mark.parametrize("gamma", [-1.4, 1.4])
def test_a_gamma_that_is_taken_leaves_the_optimum_below_one_half(gamma: float) -> None:
    z = torch.linspace(-6, 6, 2001)
    loss = torch.stack([aelf(value, torch.tensor(0.0), gamma1=gamma) for value in z])
    assert z[loss.argmin()] < 0


def test_focal_without_gamma_is_cross_entropy_and_its_sum_is_a_sum() -> None:
    z, y = torch.randn(3, 1, 16, 24) * 5, mask()
    torch.testing.assert_close(focal(z, y, gamma=0), cross_entropy(z, y))
    torch.testing.assert_close(focal(z, y, reduction="sum"), focal(z, y) * z.numel())
    torch.testing.assert_close(focal(z, y, alpha=0.25), focal(z, y) * 0.25)


def test_focal_forgives_the_easy_pixels() -> None:
    z = torch.tensor([-4.0, -1.0, 1.0, 4.0])
    y = torch.zeros(4)
    ratios = [(focal(a, b) / cross_entropy(a, b)).item() for a, b in zip(z, y, strict=True)]
    assert ratios == pytest.approx(torch.sigmoid(z).square().tolist(), rel=1e-4)


def test_tversky_of_equal_halves_is_dice_image_by_image() -> None:
    z, y = torch.randn(3, 1, 16, 24), mask()
    each = torch.stack([dice(a, b, epsilon=0) for a, b in zip(z, y, strict=True)])
    torch.testing.assert_close(tversky(z, y, 0.5, 0.5, epsilon=0), each.mean())
    assert dice(z, y, epsilon=0) != each.mean()  # dice itself is over the batch


def test_tversky_weighs_misses_more_than_alarms() -> None:
    y = torch.zeros(1, 1, 8, 8)
    y[..., :4, :] = 1
    more, fewer = torch.full_like(y, -50), torch.full_like(y, -50)
    more[..., :6, :], fewer[..., :2, :] = 50, 50
    assert tversky(more, y) < tversky(fewer, y)
    assert tversky(more, y, 0.7, 0.3) > tversky(fewer, y, 0.7, 0.3)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_overlap_losses_of_a_perfect_mask_are_exactly_0(share: float) -> None:
    y = mask(share)
    z = (y * 2 - 1) * 1e4
    assert [loss(z, y).item() for loss in (soft_iou, tversky, dice, aelf)] == [0, 0, 0, 0]


def test_the_crack_weight_of_the_imbalance_loss_is_capped() -> None:
    y = torch.zeros(1, 1, 100, 100)
    y[..., 0, 0] = 1  # one pixel in 10000: the square root would weigh it 100 times
    z = torch.full_like(y, -3.0)
    right = 1 / (1 + math.exp(-3))
    pixel = 9999 * (1 - right) * -math.log(right) + 10 * right * -math.log(1 - right)
    expected = pixel / (9999 + 10) + dice(z, y).item()
    assert data_imbalance(z, y).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [soft_iou, tversky])
def test_losses_by_image_do_not_let_a_large_crack_hide_a_small_one(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    y = torch.zeros(2, 1, 32, 32)
    y[0], y[1, 0, 0] = 1, 1
    z = (y * 2 - 1) * 50
    z[1] = -50  # the small one is missed altogether
    assert loss(z, y) > 0.4
