"""Training objectives, each with the data it draws: the supervised loss, alone or with distillation from a teacher."""

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

Batch = dict[str, Tensor]  # `Arrays` as tensors on the device
Forward = Callable[[Tensor], tuple[list[Tensor], Tensor | None]]  # a `Learner` or its wrapper


class Learner(nn.Module):
    """A net wrapped for training: uint8 (N, H, W, 3) BGR frames -> logits of each stage and, optionally, embeddings.

    Args:
        net: the net to train.
        embed_from: stride of the decoder map that is embedded, 2, 4 or 8; 0 for none. MSF-Net has its own projection
            head, other nets get one that exists only during training.
    """

    def __init__(self, net: CrackNet, embed_from: int = 0) -> None:
        super().__init__()
        self.net, self.embed_from = net, embed_from
        own = net.projection
        if own is not None:
            own.requires_grad_(embed_from > 0)  # DDP waits for the gradient of every weight that requires one
        self.added = projection(net.feature_channels[embed_from]) if embed_from and own is None else None

    @property
    def head(self) -> nn.Sequential | None:
        """The projection head from the decoder map to embeddings."""
        return self.net.projection if self.added is None else self.added

    def forward(self, frames: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Logits, the fused ones first, (N, 1, H, W), and L2-normalised embeddings (N, D, H / stride, W / stride)."""
        x = prepared(self.net, frames)
        if not self.embed_from or self.head is None:
            return self.net.stages(x), None
        logits, features = self.net.logits_and_features(x)
        # eps bounds the gradient where an embedding is zero
        return logits, F.normalize(self.head(features[self.embed_from]).float(), dim=1, eps=1e-4)


class Objective(Protocol):
    """Interface that the training loop needs of an objective."""

    def draw(self, numbers: range) -> Arrays:
        """The arrays of a step for the crops with these numbers. Called ahead of time, in other threads."""

    def loss(self, learner: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of one step; `progress` is 0 at the start of the run and 1 at its end."""

    def tensors(self) -> dict[str, Tensor]:
        """The state that resuming needs."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""


class Supervised:
    """Labelled crops and the net's own loss, as configured by the recipe."""

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
    """`Supervised` plus distillation from a teacher on the same crops (Hinton et al., for one class).

    Args:
        teacher: a trained net of any architecture and width; it is not changed.
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
    """Cross-entropy with a teacher's logits, both softened by `temperature`, minus its minimum: the KL divergence.

    Times the temperature squared, so that the size of the gradient does not depend on it; 0 where both agree.
    """
    z, soft = z.float() / temperature, torch.sigmoid(taught.float() / temperature)
    least = F.binary_cross_entropy_with_logits(taught.float() / temperature, soft)
    return temperature**2 * (F.binary_cross_entropy_with_logits(z, soft) - least)


def prepared(net: CrackNet, frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) BGR -> the net's input, in float32 as in deployment, edge prior included."""
    with torch.autocast(frames.device.type, enabled=False):
        return net.prepare(rgb_from_frames(frames))


def projection(channels: int, width: int = 64) -> nn.Sequential:
    """Projection head: two 1x1 convolutions to an embedding of `width` channels."""
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
