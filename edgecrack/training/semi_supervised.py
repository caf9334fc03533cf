"""Semi-supervised training: labelled crops, and two views of unlabelled frames that should agree.

Inspired by, and not a reproduction of, Kangcheng Liu, "Semi-Supervised Confidence-Level-based Contrastive
Discrimination for Class-Imbalanced Semantic Segmentation", whose formulas are not public.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from edgecrack.errors import SpecError
from edgecrack.training.contrast import (
    BACKGROUND,
    CRACK,
    Bank,
    Contrast,
    confidence,
    directional,
    instance,
    newest,
    sure,
)
from edgecrack.training.crops import Arrays, Crops, Views
from edgecrack.training.losses import data_imbalance
from edgecrack.training.machine import lowered
from edgecrack.training.objectives import Batch, Forward, Learner, Supervised
from edgecrack.training.recipes import Recipe

Answers = tuple[Tensor, Tensor]  # logits (N, 1, H, W) and embeddings (N, D, h, w)


class FewLabels(Supervised):
    """Supervised loss on labelled crops plus contrastive loss between two views of unlabelled frames.

    Args:
        learner: the model being trained; its embedding sets the width of the bank's vectors.
        crops: labelled crops.
        views: views of unlabelled frames.
    """

    def __init__(self, net: str, recipe: Recipe, crops: Crops, views: Views, learner: Learner) -> None:
        super().__init__(net, recipe, crops)
        self.contrast = Contrast(**recipe.contrast)
        if self.contrast.unlabelled_batch % recipe.batch and recipe.batch % self.contrast.unlabelled_batch:
            raise SpecError(
                f"of batch, {recipe.batch}, and unlabelled_batch, {self.contrast.unlabelled_batch}, one must be a multiple "
                "of the other"
            )
        if self.contrast.unlabelled_batch < _processes():
            raise SpecError(
                f"unlabelled_batch must be at least the {_processes()} processes, got {self.contrast.unlabelled_batch}"
            )
        self.views, self.learner = views, learner
        self.bank = Bank(self.contrast.bank_size, _width(learner))
        self.began = 2.0  # progress at which the contrastive loss started; 2 is not yet
        self.teacher = copy.deepcopy(learner).requires_grad_(False).eval() if self.contrast.mean_teacher else None

    def draw(self, numbers: range) -> Arrays:
        """The labelled crops with these numbers, and the matching number of unlabelled frames."""
        share = self.contrast.unlabelled_batch / self.recipe.batch
        return self.crops.batch(numbers) | self.views.batch(
            range(round(numbers.start * share), round(numbers.stop * share))
        )

    def loss(self, learner: Forward, batch: Batch, progress: float) -> Tensor:
        labelled = len(batch["frames"])
        frames = torch.cat([batch["frames"], batch["first"], batch["second"]])
        self.bank.to(frames.device)
        logits, embedded = learner(frames)  # one pass: batch norm sees both kinds of frames, processes synchronise once
        if embedded is None:
            raise SpecError("learning with few labels needs embeddings; give the learner embed_from")
        target = batch["masks"][:, None].float()
        total = self.of_logits([z[:labelled] for z in logits], target, progress)
        total = total + 0 * embedded.sum()  # gives every weight a gradient, as distributed training needs
        seen = logits[0][labelled:], embedded[labelled:]
        sure_of = self._taught(frames[labelled:], seen)
        known = _flat(embedded[:labelled]), _flat(_strided(target, self.contrast.embed_from))[:, 0] > 0
        weight = self._weight(progress)
        if weight > 0:
            total = total + weight * self._contrast(seen, sure_of, batch, known)
        if self.contrast.pseudo_weight:
            total = total + self.contrast.pseudo_weight * self._pseudo(seen[0], torch.sigmoid(sure_of[0]))
        self._remember(
            known, _flat(_strided(torch.sigmoid(logits[0][:labelled]), self.contrast.embed_from))[:, 0], sure_of
        )
        self._follow()
        return total

    def _taught(self, frames: Tensor, seen: Answers) -> Answers:
        """Logits and embeddings for confidence and targets, without gradient: the mean teacher's, or the net's own."""
        if self.teacher is None:
            return seen[0].detach().float(), seen[1].detach()
        with torch.no_grad(), lowered(frames.device.type, self.recipe.precision):
            logits, embedded = self.teacher.to(frames.device)(frames)
        assert embedded is not None  # noqa: S101  # it is a copy of what gave `seen`
        return logits[0].float(), embedded

    def _weight(self, progress: float) -> float:
        """Contrastive weight: 0 until `contrast_start` and until the bank is full enough, then a ramp."""
        if self.began > 1:
            if progress < self.contrast.contrast_start or self.bank.least < self.contrast.bank_least:
                return 0.0
            self.began = progress
        grown = (progress - self.began) / max(self.contrast.contrast_ramp, 1e-9)
        return self.contrast.contrast_weight * min(1.0, grown)

    def _contrast(self, seen: Answers, sure_of: Answers, batch: Batch, known: tuple[Tensor, Tensor]) -> Tensor:
        stride, contrast = self.contrast.embed_from, self.contrast
        p = _strided(torch.sigmoid(sure_of[0]), stride)
        corners, flips = batch["corners"] // stride, batch["flips"]
        (f1, f2), (t1, t2), (p1, p2) = (meeting(maps, corners, flips) for maps in (seen[1], sure_of[1], p))
        p1, p2 = p1[:, 0], p2[:, 0]
        agree = directional(f1, p1, t2, p2, self.bank, contrast) + directional(f2, p2, t1, p1, self.bank, contrast)
        every_f, every_p = _flat(seen[1]), _flat(p)[:, 0]
        f = torch.cat([known[0], every_f])
        crack = torch.cat([known[1], every_p >= 0.5])
        used = torch.cat([torch.ones_like(known[1]), sure(every_p, contrast)])
        return agree + contrast.instance_weight * instance(f, crack, used, self.bank, contrast)

    def _pseudo(self, z: Tensor, p: Tensor) -> Tensor:
        return data_imbalance(z, (p >= 0.5).float(), valid=sure(p, self.contrast).float())

    @torch.no_grad()
    def _remember(self, known: tuple[Tensor, Tensor], p: Tensor, sure_of: Answers) -> None:
        """Fill the bank with correctly and confidently predicted labelled pixels, then with sure unlabelled ones."""
        f, crack = known
        guessed = _flat(_strided(torch.sigmoid(sure_of[0]), self.contrast.embed_from))[:, 0]
        right = (confidence(p) >= self.contrast.sure_labelled) & ((p >= 0.5) == crack)
        believed = sure(guessed, self.contrast)
        every = torch.cat([f, _flat(sure_of[1])])
        count = max(1, self.contrast.bank_step // _processes())
        for kind in (BACKGROUND, CRACK):
            labelled = torch.cat([right & (crack == bool(kind)), torch.zeros_like(believed)])
            others = torch.cat([torch.zeros_like(right), believed & ((guessed >= 0.5) == bool(kind))])
            self.bank.take(kind, newest(every, [labelled, others], count))

    @torch.no_grad()
    def _follow(self) -> None:
        if self.teacher is None:
            return
        source = self.learner.state_dict()
        for name, value in self.teacher.state_dict().items():
            new = source[name]
            value.lerp_(new, 1 - self.contrast.mean_teacher) if value.is_floating_point() else value.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        began = torch.tensor([self.began], dtype=torch.float64)
        taught = {} if self.teacher is None else {f"teacher.{k}": v for k, v in self.teacher.state_dict().items()}
        return {"vectors": self.bank.vectors, "counts": self.bank.counts, "began": began} | taught

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.bank.vectors.copy_(tensors["vectors"])
        self.bank.counts.copy_(tensors["counts"])
        self.began = tensors["began"].item()
        if self.teacher is not None:
            self.teacher.load_state_dict(
                {k.removeprefix("teacher."): v for k, v in tensors.items() if k.startswith("teacher.")}
            )


def meeting(maps: Tensor, corners: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the overlap of two views of the same frames: two (n, C), matched pixel by pixel.

    Args:
        maps: (2 b, C, h, w), all first views, then all second views.
        corners: (b, 2, 2), (top, left) of each view, in pixels of `maps`.
        flips: bool (b, 2), whether each view was mirrored.
    """
    count, (height, width) = len(corners), maps.shape[2:]
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index in range(count):
        places: list[list[int]] = corners[index].tolist()
        top, left = (max(place[axis] for place in places) for axis in (0, 1))
        bottom, right = (min(place[axis] for place in places) + side for axis, side in ((0, height), (1, width)))
        for view, (y, x) in enumerate(places):
            one = maps[index + view * count]
            one = one.flip(2) if bool(flips[index, view]) else one
            found[view].append(one[:, top - y : bottom - y, left - x : right - x].flatten(1).T)
    return torch.cat(found[0]), torch.cat(found[1])


def _width(learner: Learner) -> int:
    """The number of channels of the embeddings."""
    last = learner.head[-1] if learner.head is not None else None
    if not isinstance(last, nn.Conv2d):
        raise SpecError("learning with few labels needs embeddings; give the learner embed_from")
    return last.out_channels


def _strided(p: Tensor, stride: int) -> Tensor:
    """(N, 1, H, W) -> (N, 1, H / stride, W / stride) by max-pooling, so that thin cracks survive."""
    return F.max_pool2d(p.float(), stride)


def _flat(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N h w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
