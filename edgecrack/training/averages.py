"""Exponential moving average of a net's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of the weights of `net`; integer buffers (counters) are copied.

    Args:
        decay: decay of the average; 0 for no average.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = net, decay
        self.tensors = {k: v.detach().clone() for k, v in net.state_dict().items()} if decay else {}
        self.steps = 0

    @torch.no_grad()
    def follow(self) -> None:
        """Update after a step. Early steps count more, else the initial weights would stay in the average for long."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.net.state_dict().items() if self.decay else ():
            kept = self.tensors[name]
            kept.lerp_(value, 1 - decay) if value.is_floating_point() else kept.copy_(value)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Give the net the averaged weights within the block."""
        if not self.decay:
            yield
            return
        own = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        try:
            self.net.load_state_dict(self.tensors)
            yield
        finally:
            self.net.load_state_dict(own)

    def load(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Restore `tensors` and `steps` of a resumed run."""
        self.steps = steps
        for name, kept in self.tensors.items():
            kept.copy_(tensors[name])
