"""Optimisers and learning-rate schedules of the recipes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from edgecrack.training.recipes import Recipe

LEAST_RATE = 1e-9  # at which a run with the plateau schedule ends


def optimiser_for(recipe: Recipe, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that the recipe names."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(weights, rate, momentum=recipe.momentum, weight_decay=decay)
    kind = torch.optim.AdamW if recipe.optimiser == "adamw" else torch.optim.Adam
    return kind(weights, rate, eps=recipe.epsilon, weight_decay=decay)


def learning_rate(recipe: Recipe, step: int, progress: float, epoch: float, factor: float = 1.0) -> float:
    """The learning rate of a step; `progress` goes from 0 to 1 over the run, `factor` is the plateau schedule's."""
    done = min(1.0, progress)
    shape: float = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)) + 1e-3,
        "constant": 1.0,
        "polynomial": (1 - done) ** 0.9,
        "step": 0.1 ** int(epoch // recipe.decay_epochs),
        "plateau": factor,
    }[recipe.schedule]
    return recipe.learning_rate * min(1.0, (step + 1) / max(1, recipe.warm_up)) * shape


@dataclass
class Plateau:
    """State of the plateau schedule: how long the held-back loss has not fallen, and the learning-rate factor."""

    lowest: float = math.inf
    waited: int = 0
    factor: float = 1.0

    def take(self, loss: float, recipe: Recipe) -> None:
        """Update with the loss of one more validation."""
        if loss < self.lowest:
            self.lowest, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > recipe.decay_patience:
            self.factor, self.waited = self.factor * recipe.decay_factor, 0

    def over(self, recipe: Recipe) -> bool:
        """Whether the learning rate has become too small to go on."""
        return recipe.schedule == "plateau" and recipe.learning_rate * self.factor <= LEAST_RATE
