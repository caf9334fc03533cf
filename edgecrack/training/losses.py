"""The papers' losses, with numerics that stay finite. z: logits, y: masks in {0, 1}, both (N, 1, H, W); computed in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgecrack.errors import SpecError

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]  # (final and side logits, mask) -> scalar


def aelf(
    z: Tensor, y: Tensor, alpha: float = 1.0, beta: float = 0.7, gamma1: float = 0.0, gamma2: float = 0.0
) -> Tensor:
    """Asymmetric exponential loss, Liu et al., Eq. 6 and 7, less the constant 1: a perfect pixel costs 0.

    `gamma1` weighs background pixels (false alarms), `gamma2` crack pixels; a lower `gamma2` punishes misses more. Both 0
    gives the plain exponential loss. Raises SpecError where a gamma would move the optimum past 0.5.
    """
    if max(abs(gamma1), abs(gamma2)) > beta + 0.75 * alpha:
        raise SpecError(f"gamma must lie within +-{beta + 0.75 * alpha}, got {gamma1} and {gamma2}")
    d = torch.sigmoid(z.float()) - y.float()
    gamma = torch.where(d > 0, gamma1, gamma2)
    exponent = d * d * (alpha * d.abs() + beta) + gamma * d
    return torch.expm1(exponent.clamp(max=10)).mean()  # half precision overflows at 11.09


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(z.float(), y.float())


def focal(z: Tensor, y: Tensor, alpha: float = 1.0, gamma: float = 2.0, reduction: str = "mean") -> Tensor:
    """Focal loss, SCNet's Eq. 9: alpha (1 - p_t)^gamma (-log p_t), the power computed in the log domain."""
    z, y = z.float(), y.float()
    loss = alpha * torch.exp(gamma * F.logsigmoid((1 - 2 * y) * z)) * (F.softplus(z) - z * y)
    return loss.mean() if reduction == "mean" else loss.sum()


def soft_iou(z: Tensor, y: Tensor, epsilon: float = 1.0) -> Tensor:
    """1 - soft intersection over union of the crack class, per image, then averaged; SCNet's Eq. 10."""
    p, y = torch.sigmoid(z.float()).flatten(1), y.float().flatten(1)
    return (1 - ((p * y).sum(1) + epsilon) / ((p + y - p * y).sum(1) + epsilon)).mean()


def tversky(z: Tensor, y: Tensor, alpha: float = 0.3, beta: float = 0.7, epsilon: float = 1.0) -> Tensor:
    """1 - Tversky index, per image, then averaged; `alpha` weighs false alarms, `beta` misses."""
    p, y = torch.sigmoid(z.float()).flatten(1), y.float().flatten(1)
    hit, alarm, miss = (p * y).sum(1), (p * (1 - y)).sum(1), ((1 - p) * y).sum(1)
    return (1 - (hit + epsilon) / (hit + alpha * alarm + beta * miss + epsilon)).mean()


def dice(z: Tensor, y: Tensor, epsilon: float = 1.0) -> Tensor:
    """1 - Dice over the whole batch."""
    p, y = torch.sigmoid(z.float()), y.float()
    return 1 - (2 * (p * y).sum() + epsilon) / (p.sum() + y.sum() + epsilon)


def data_imbalance(z: Tensor, y: Tensor, power: float = 0.5, cap: float = 10.0) -> Tensor:
    """MSF-Net's loss: class-weighted focal cross-entropy (exponent 1) plus Dice.

    The crack weight is ((1 - f) / f)^power, at most `cap`, with f the crack share of the batch.
    """
    z, y = z.float(), y.float()
    share = y.mean().clamp(1e-6, 1 - 1e-6)
    weight = 1 + y * (((1 - share) / share).pow(power).clamp(max=cap) - 1)
    pixel = torch.exp(F.logsigmoid((1 - 2 * y) * z)) * (F.softplus(z) - z * y)
    return (weight * pixel).sum() / weight.sum() + dice(z, y)


def aelf_unet_loss(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """AELF with misses weighed more; the paper searches both gammas per data set and prints none of those it found."""
    return aelf(logits[0], y, gamma1=0.0, gamma2=-0.07)


def scnet_loss(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """SCNet's Eq. 11: focal of the fused map, weighted focal of the sides, soft IoU of the fused map."""
    fused, *sides = logits
    weights = (0.5, 0.75, 1.0, 0.75, 0.5)
    weighted = sum(weight * focal(side, y) for weight, side in zip(weights, sides, strict=False))  # 4 or 5 scales
    return focal(fused, y) + weighted + soft_iou(fused, y)


def cacpnet_loss(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """CACPNet: 0.7 Tversky + 0.3 mean absolute error."""
    z = logits[0].float()
    return 0.7 * tversky(z, y) + 0.3 * (torch.sigmoid(z) - y.float()).abs().mean()


def msfnet_loss(logits: Sequence[Tensor], y: Tensor) -> Tensor:
    """Data imbalance loss of the fused map plus half its mean over the stages."""
    fused, *sides = logits
    return data_imbalance(fused, y) + 0.5 * torch.stack([data_imbalance(side, y) for side in sides]).mean()


LOSSES: dict[str, Loss] = {
    "aelf-unet": aelf_unet_loss,
    "cacpnet": cacpnet_loss,
    "msfnet": msfnet_loss,
    "scnet": scnet_loss,
}
