"""The papers' losses, numerically stable, in float32. z: logits, y: masks in {0, 1}, both (N, 1, H, W).

Sums over a batch include the batches of all processes, so that several processes train as one would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from edgecrack.errors import SpecError
from edgecrack.models.blocks import choice

Loss = Callable[..., Tensor]  # (final and side logits, mask, switches as keywords) -> scalar


def pooled(sums: Tensor) -> Tensor:
    """Sum `sums` over all processes; the gradient reaches each of them."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    total: Tensor = _Pooled.apply(sums)  # type: ignore[no-untyped-call]
    return total


class _Pooled(torch.autograd.Function):
    """All-reduce sum. As all processes compute the same loss and average gradients later, backward sums them too."""

    @staticmethod
    def forward(_: Any, sums: Tensor) -> Tensor:
        total = sums.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def aelf(
    z: Tensor,
    y: Tensor,
    alpha: float = 1.0,
    beta: float = 0.7,
    gamma1: float = 0.0,
    gamma2: float = 0.0,
    printed: bool = False,
) -> Tensor:
    """Asymmetric exponential loss, Liu et al., Eq. 6 and 7, minus the constant 1, so that a perfect pixel costs 0.

    `gamma1` weights background pixels (false positives), `gamma2` crack pixels; a lower `gamma2` penalises misses more.
    With both 0 it is the plain exponential loss; `printed` keeps the constant. Raises SpecError for a gamma that would
    move the optimum past 0.5.
    """
    if not max(abs(gamma1), abs(gamma2)) <= beta + 0.75 * alpha:  # NaN is not either
        raise SpecError(f"gamma must lie within +-{beta + 0.75 * alpha}, got {gamma1} and {gamma2}")
    d = torch.sigmoid(z.float()) - y.float()
    gamma = torch.where(d > 0, gamma1, gamma2)
    exponent = d * d * (alpha * d.abs() + beta) + gamma * d
    return torch.expm1(exponent.clamp(max=10)).mean() + float(printed)  # exp overflows at 11.09 in half precision


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(z.float(), y.float())


def focal(z: Tensor, y: Tensor, alpha: float = 1.0, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """Focal loss, SCNet's Eq. 9: alpha (1 - p_t)^gamma (-log p_t), the power computed in the log domain."""
    z, y = z.float(), y.float()
    loss = alpha * torch.exp(gamma * F.logsigmoid((1 - 2 * y) * z)) * (F.softplus(z) - z * y)
    return loss.mean() if reduction == "mean" else pooled(loss.sum())


def soft_iou(z: Tensor, y: Tensor, epsilon: float = 1.0) -> Tensor:
    """1 - soft intersection over union of the crack class, per image, then averaged; SCNet's Eq. 10."""
    p, y = torch.sigmoid(z.float()).flatten(1), y.float().flatten(1)
    return (1 - ((p * y).sum(1) + epsilon) / ((p + y - p * y).sum(1) + epsilon)).mean()


def tversky(z: Tensor, y: Tensor, alpha: float = 0.3, beta: float = 0.7, epsilon: float = 1.0) -> Tensor:
    """1 - Tversky index, per image, then averaged; `alpha` weights false positives, `beta` false negatives."""
    p, y = torch.sigmoid(z.float()).flatten(1), y.float().flatten(1)
    hit, alarm, miss = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    return (1 - (hit + epsilon) / (hit + alpha * alarm + beta * miss + epsilon)).mean()


def dice(z: Tensor, y: Tensor, epsilon: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """1 - Dice over the whole batch; pixels where `valid`, (N, 1, H, W) in {0, 1}, is 0 are ignored."""
    p, y = torch.sigmoid(z.float()), y.float()
    if valid is not None:
        p, y = p * valid, y * valid
    hit, both = pooled(torch.stack([(p * y).sum(), p.sum() + y.sum()])).unbind()
    return 1 - (2 * hit + epsilon) / (both + epsilon)


def data_imbalance(
    z: Tensor,
    y: Tensor,
    power: float = 0.5,
    cap: float = 10.0,
    exponent: float = 1.0,
    share: float = 0.0,
    valid: Tensor | None = None,
) -> Tensor:
    """MSF-Net's loss: class-weighted focal cross-entropy plus Dice.

    The weight of crack pixels is ((1 - f) / f)^power, at most `cap`, where f is the fraction of crack pixels: `share`,
    or that of the batch if `share` is 0. Pixels where `valid`, (N, 1, H, W) in {0, 1}, is 0 are ignored.
    """
    z, y = z.float(), y.float()
    counted = torch.ones_like(y) if valid is None else valid.float().expand_as(y)
    cracks, pixels = pooled(torch.stack([(counted * y).sum(), counted.sum()])).detach().unbind()
    found = (cracks / pixels.clamp(min=1) if share == 0 else cracks.new_tensor(share)).clamp(1e-6, 1 - 1e-6)
    weight = counted * (1 + y * (((1 - found) / found).pow(power).clamp(max=cap) - 1))
    pixel = torch.exp(exponent * F.logsigmoid((1 - 2 * y) * z)) * (F.softplus(z) - z * y)
    cost, total = pooled(torch.stack([(weight * pixel).sum(), weight.sum()])).unbind()
    return cost / total.clamp(min=1e-6) + dice(z, y, valid=valid)


def aelf_unet_loss(
    logits: Sequence[Tensor],
    y: Tensor,
    *,
    objective: str = "aelf",
    alpha: float = 1.0,
    beta: float = 0.7,
    gamma1: float = 0.0,
    gamma2: float = -0.07,
    printed: bool = False,
) -> Tensor:
    """AELF-UNet's loss, or for comparison the `objective` "cross-entropy", "dice" or "focal" on the same logits.

    The gammas depend on the data set; `edgecrack search` finds them.
    """
    if choice("objective", objective, "aelf", *PLAIN) == "aelf":
        return aelf(logits[0], y, alpha, beta, gamma1, gamma2, printed)
    return PLAIN[objective](logits[0], y)


def scnet_loss(
    logits: Sequence[Tensor],
    y: Tensor,
    *,
    pixel: str = "focal",
    focal_alpha: float = 1.0,
    focal_gamma: float = 2.0,
    soft_iou_weight: float = 1.0,
    side_weights: Sequence[float] = (0.5, 0.75, 1.0, 0.75, 0.5),
    reduction: str = "mean",
) -> Tensor:
    """SCNet's loss, Eq. 9 to 11: focal loss of the fused and the side maps, plus soft IoU loss of the fused map.

    `pixel` may also be "cross-entropy"; `reduction` may also be "sum", as in the equations.
    """
    choice("pixel", pixel, "focal", "cross-entropy")
    choice("reduction", reduction, "mean", "sum")
    alpha, gamma = (focal_alpha, focal_gamma) if pixel == "focal" else (1.0, 0.0)
    fused, *sides = logits
    if len(side_weights) not in (len(sides), 5):  # the default is of five scales, for four too
        raise SpecError(f"side_weights are as many as sides, {len(sides)}, got {len(side_weights)}")
    total = focal(fused, y, alpha, gamma, reduction)
    for weight, side in zip(side_weights, sides, strict=False):
        total = total + weight * focal(side, y, alpha, gamma, reduction)
    return total + soft_iou_weight * soft_iou(fused, y)


def cacpnet_loss(
    logits: Sequence[Tensor],
    y: Tensor,
    *,
    tversky_weight: float = 0.7,
    tversky_alpha: float = 0.3,
    tversky_beta: float = 0.7,
) -> Tensor:
    """CACPNet's loss: 0.7 Tversky + 0.3 mean absolute error."""
    z = logits[0].float()
    distance = (torch.sigmoid(z) - y.float()).abs().mean()
    return tversky_weight * tversky(z, y, tversky_alpha, tversky_beta) + (1 - tversky_weight) * distance


def msfnet_loss(
    logits: Sequence[Tensor],
    y: Tensor,
    *,
    stage_weight: float = 0.5,
    imbalance_power: float = 0.5,
    imbalance_cap: float = 10.0,
    imbalance_exponent: float = 1.0,
    crack_share: float = 0.0,
) -> Tensor:
    """MSF-Net's loss: data imbalance loss of the fused map plus half its mean over the stages' maps."""
    fused, *sides = (
        data_imbalance(z, y, imbalance_power, imbalance_cap, imbalance_exponent, crack_share) for z in logits
    )
    return fused + stage_weight * torch.stack(sides).mean()


PLAIN: dict[str, Loss] = {"cross-entropy": cross_entropy, "dice": dice, "focal": focal}

LOSSES: dict[str, Loss] = {
    "aelf-unet": aelf_unet_loss,
    "cacpnet": cacpnet_loss,
    "msfnet": msfnet_loss,
    "scnet": scnet_loss,
}
