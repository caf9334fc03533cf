"""What a step draws and what it minimises: labelled crops, or labelled crops and a teacher's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgecrack.models import CrackNet, rgb_from_frames
from edgecrack.training.crops import Arrays, Crops
from edgecrack.training.losses import LOSSES, cross_entropy
from edgecrack.training.machine import lowered
from edgecrack.training.recipes import Recipe

Batch = dict[str, Tensor]  # what `Arrays` become on the device
Forward = Callable[[Tensor], tuple[list[Tensor], Tensor | None]]  # a `Learner`, or what the loop wraps it in


class Learner(nn.Module):
    """A net as it is trained: uint8 (N, H, W, 3) BGR frames -> its logits by stage and, if asked for, embeddings.

    Args:
        net: to be trained.
        embed_from: the stride of the decoder's map that is embedded, 2, 4 or 8; 0 for none. MSF-Net brings its
            projection, other nets get one that lives only while they are trained.
    """

    def __init__(self, net: CrackNet, embed_from: int = 0) -> None:
        super().__init__()
        self.net, self.embed_from = net, embed_from
        own = net.projection
        if own is not None:
            own.requires_grad_(embed_from > 0)  # several processes wait for the gradient of every weight that takes one
        self.added = projection(net.feature_channels[embed_from]) if embed_from and own is None else None

    @property
    def head(self) -> nn.Sequential | None:
        """What makes embeddings of the decoder's map."""
        return self.net.projection if self.added is None else self.added

    def forward(self, frames: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Logits, the fused ones first, (N, 1, H, W), and L2-normalised embeddings (N, D, H / stride, W / stride)."""
        x = prepared(self.net, frames)
        if not self.embed_from or self.head is None:
            return self.net.stages(x), None
        logits, features = self.net.logits_and_features(x)
        return logits, F.normalize(self.head(features[self.embed_from]).float(), dim=1)


class Objective(Protocol):
    """What the loop asks of a way to learn."""

    def draw(self, numbers: range) -> Arrays:
        """What the step needs for the crops with these numbers. Called ahead, in other threads."""

    def loss(self, learner: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of one step; `progress` is 0 at the start of the run and 1 at its end."""

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what `tensors` gave."""


class Supervised:
    """Labelled crops and the net's own loss, as the recipe has it."""

    def __init__(self, net: str, recipe: Recipe, crops: Crops) -> None:
        self.recipe, self.crops = recipe, crops
        self.net_loss = partial(LOSSES[net], **recipe.loss)

    def draw(self, numbers: range) -> Arrays:
        return self.crops.batch(numbers)

    def loss(self, learner: Forward, batch: Batch, progress: float) -> Tensor:
        logits, _ = learner(batch["frames"])
        return self.of_logits(logits, batch["masks"][:, None].float(), progress)

    def of_logits(self, logits: Sequence[Tensor], target: Tensor, progress: float) -> Tensor:
        """The loss of logits (N, 1, H, W), the fused ones first, against masks in {0, 1}."""
        if progress < self.recipe.warm_up_cross_entropy:
            return cross_entropy(logits[0], target)
        loss = self.net_loss(logits, target)
        weight = self.recipe.cross_entropy
        return loss + weight * cross_entropy(logits[0], target) if weight else loss

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        pass


class Distilled(Supervised):
    """The same, and beside it the answers of a teacher to the same crops (Hinton et al., for one class).

    Args:
        teacher: a trained net, of any kind and width; it stays as it is.
    """

    def __init__(self, net: str, recipe: Recipe, crops: Crops, teacher: CrackNet) -> None:
        super().__init__(net, recipe, crops)
        self.teacher = teacher.eval().requires_grad_(False)

    def loss(self, learner: Forward, batch: Batch, progress: float) -> Tensor:
        logits, _ = learner(batch["frames"])
        own = self.of_logits(logits, batch["masks"][:, None].float(), progress)
        device = batch["frames"].device
        with torch.no_grad(), lowered(device.type, self.recipe.precision):
            taught = self.teacher.to(device)(prepared(self.teacher, batch["frames"]))
        weight, temperature = self.recipe.teacher_weight, self.recipe.teacher_temperature
        return own + weight * distillation(logits[0], taught, temperature)


def distillation(z: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with a teacher's logits, both softened by `temperature`, less what it is at the teacher's own.

    Times the temperature squared, so that the gradient does not depend on it; 0 where student and teacher agree.
    """
    z, soft = z.float() / temperature, torch.sigmoid(taught.float() / temperature)
    least = F.binary_cross_entropy_with_logits(taught.float() / temperature, soft)
    return temperature**2 * (F.binary_cross_entropy_with_logits(z, soft) - least)


def prepared(net: CrackNet, frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) BGR -> what the net takes, in float32 as where it is deployed, edge prior included."""
    with torch.autocast(frames.device.type, enabled=False):
        return net.prepare(rgb_from_frames(frames))


def projection(channels: int, width: int = 64) -> nn.Sequential:
    """Two 1x1 convolutions to an embedding of `width`."""
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
