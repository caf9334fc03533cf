"""Confidence-based contrastive loss: confident pixels, how others are pulled towards them, and the memory bank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from edgecrack.errors import SpecError

CRACK, BACKGROUND = 1, 0


@dataclass(frozen=True)
class Contrast:
    """Hyperparameters of semi-supervised training.

    Attributes:
        unlabelled_batch: unlabelled frames per step, over all processes; each gives two views.
        embed_from: stride of the decoder features that are compared, 2, 4 or 8.
        temperature: temperature of the contrastive (InfoNCE) loss.
        sure_crack, sure_background: confidence from which a pixel counts as sure, by predicted class; background is
            easy and plentiful, so its bar is higher.
        sure_labelled: confidence from which a correctly predicted labelled pixel enters the bank.
        anchors: maximum number of anchor pixels per class in each contrastive term.
        bank_size, bank_step, bank_least: vectors per class that the bank holds at most, takes per step at most, and
            must hold before the contrastive loss counts.
        contrast_start, contrast_ramp: fractions of the run after which the contrastive loss starts and over which its
            weight grows.
        contrast_weight: weight of the contrastive loss after the ramp.
        instance_weight: within it, weight of the pull towards the bank's mean vector of a pixel's class.
        mean_teacher: if not 0, confidence and targets come from a mean teacher: an exponential moving average of the
            weights with this decay.
        pseudo_weight: weight of the data imbalance loss on the sure pixels of unlabelled frames (pseudo-labels).
    """

    unlabelled_batch: int = 4
    embed_from: int = 4
    temperature: float = 0.1
    sure_crack: float = 0.75
    sure_background: float = 0.95
    sure_labelled: float = 0.9
    anchors: int = 512
    bank_size: int = 2048
    bank_step: int = 64
    bank_least: int = 256
    contrast_start: float = 0.2
    contrast_ramp: float = 0.1
    contrast_weight: float = 0.1
    instance_weight: float = 0.5
    mean_teacher: float = 0.0
    pseudo_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.embed_from not in (2, 4, 8):
            raise SpecError(f"embed_from is a stride of 2, 4 or 8; got {self.embed_from!r}")
        for name in ("unlabelled_batch", "temperature", "anchors", "bank_size", "bank_step", "bank_least"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in (
            "sure_crack",
            "sure_background",
            "sure_labelled",
            "contrast_start",
            "contrast_ramp",
            "mean_teacher",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name} must be at least 0 and at most 1, got {getattr(self, name)!r}")
        for name in ("contrast_weight", "instance_weight", "pseudo_weight"):
            if not getattr(self, name) >= 0:
                raise SpecError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        if not self.bank_least <= self.bank_size:
            raise SpecError(f"bank_least must be at most bank_size, {self.bank_size}; got {self.bank_least}")


class Bank(nn.Module):
    """Memory bank of the newest embeddings of sure pixels per class, without gradient; saved for resuming."""

    vectors: Tensor
    counts: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(2, size, width))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))  # taken so far

    def of(self, kind: int) -> Tensor:
        """A copy of the vectors of a class, (k, D), since newer ones may overwrite them before the backward pass."""
        return self.vectors[kind, : int(self.counts[kind].clamp(max=self.vectors.shape[1]))].clone()

    @property
    def least(self) -> int:
        """Number of vectors of the class that has fewer."""
        return min(int(self.counts.min()), self.vectors.shape[1])

    @torch.no_grad()
    def take(self, kind: int, vectors: Tensor) -> None:
        """Replace the oldest vectors of a class by (k, D) new ones, gathered from all processes, alike in each."""
        vectors = _gathered(vectors)[-self.vectors.shape[1] :]
        first = int(self.counts[kind])
        places = (first + torch.arange(len(vectors), device=vectors.device)) % self.vectors.shape[1]
        self.vectors[kind, places] = vectors.detach().float()
        self.counts[kind] += len(vectors)


def sure(p: Tensor, contrast: Contrast) -> Tensor:
    """Whether each crack probability is high or low enough to count as sure."""
    return (p >= contrast.sure_crack) | (1 - p >= contrast.sure_background)


def confidence(p: Tensor) -> Tensor:
    """Confidence of a crack probability: max(p, 1 - p)."""
    return torch.maximum(p, 1 - p)


def directional(f: Tensor, p: Tensor, other_f: Tensor, other_p: Tensor, bank: Bank, contrast: Contrast) -> Tensor:
    """Contrastive loss that pulls pixels of one view to those of the other where that is sure and more confident.

    Args:
        f, other_f: embeddings (n, D); no gradient reaches `other_f`.
        p, other_p: crack probabilities (n,).
    """
    drawn = sure(other_p, contrast) & (confidence(p) < confidence(other_p))
    return _by_class(f, other_f, other_p >= 0.5, drawn, bank, contrast)


def instance(f: Tensor, crack: Tensor, used: Tensor, bank: Bank, contrast: Contrast) -> Tensor:
    """Contrastive loss that pulls `f` (n, D) to the bank's mean vector of its class; `crack`, `used` are bool (n,)."""
    means = torch.stack([F.normalize(bank.of(kind).sum(0), dim=0) for kind in (BACKGROUND, CRACK)])
    return _by_class(f, means[crack.long()], crack, used, bank, contrast)


def info_nce(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """InfoNCE: mean of logsumexp(pos, neg...) - pos over anchors (n, D), with positives (n, D), negatives (k, D)."""
    close = (anchors * positives.detach()).sum(1, keepdim=True) / temperature
    far = anchors @ negatives.detach().T / temperature
    return (torch.logsumexp(torch.cat([close, far], 1), 1) - close[:, 0]).mean()


def _by_class(f: Tensor, positives: Tensor, crack: Tensor, used: Tensor, bank: Bank, contrast: Contrast) -> Tensor:
    """Mean InfoNCE over the classes that have anchors; if none has, a zero that keeps the graph."""
    losses = []
    for kind in (BACKGROUND, CRACK):
        chosen = _some(used & (crack == bool(kind)), contrast.anchors)
        if len(chosen):
            losses.append(info_nce(f[chosen], positives[chosen], bank.of(1 - kind), contrast.temperature))
    return torch.stack(losses).mean() if losses else f.sum() * 0


def _some(among: Tensor, count: int) -> Tensor:
    """Indices of at most `count` of the true values, drawn at random."""
    places = among.nonzero()[:, 0]
    return places[torch.randperm(len(places))[:count].to(places.device)]


def newest(f: Tensor, groups: list[Tensor], count: int) -> Tensor:
    """At most `count` of the (n, D) vectors: random ones of the first group, bool (n,), then of the next."""
    places = torch.cat([_some(group, count) for group in groups])[:count]
    return f[places]


def _gathered(vectors: Tensor) -> Tensor:
    """The (k, D) vectors of every process, in the order of the processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return vectors
    sizes = [torch.zeros(1, dtype=torch.int64, device=vectors.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, torch.tensor([len(vectors)], device=vectors.device))
    padded = vectors.new_zeros((int(max(sizes)), vectors.shape[1]))
    padded[: len(vectors)] = vectors
    parts = [torch.zeros_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])
