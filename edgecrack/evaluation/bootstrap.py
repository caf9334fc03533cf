"""Bootstrap intervals: how much a score depends on which frames were scored, by drawing frames with replacement.

Neighbouring frames of one drive show the same pavement and are not independent: for them the interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgecrack.metrics import Floats

CONFIDENCE = 0.95
_AT_ONCE = 250  # draws per block, to bound memory whatever their number

Interval = tuple[float, float]


def sampled(
    score: Callable[[Floats], dict[str, Floats]], frames: int, draws: int, seed: int, cracked: Floats
) -> dict[str, Floats]:
    """Metric -> float64 (draws,): `score` on each of `draws` bootstrap draws of `frames` frames.

    `cracked` is 1 for each frame with a crack, else 0. A draw without a crack is left out if there are cracks at all: it
    would score 1 or 0 whatever the model does. Draws depend on `frames`, `cracked` and `seed` alone, so that two models on
    the same frames get the same ones. Empty without draws or with a single frame.
    """
    if draws < 1 or frames < 2:
        return {}
    blocks = _weights(frames, draws, seed)
    if cracked.any():
        blocks = (weights[weights @ cracked > 0] for weights in blocks)
    parts = [score(weights) for weights in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(values: Floats) -> Interval:
    """The bounds of the middle 95 % of the values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _weights(frames: int, draws: int, seed: int) -> Iterator[Floats]:
    """Blocks of float64 (draws, frames): how often each draw contains each frame."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, _AT_ONCE):
        number = min(_AT_ONCE, draws - start)
        yield random.multinomial(frames, np.full(frames, 1 / frames), size=number).astype(np.float64)
