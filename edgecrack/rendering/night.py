"""Night scenes: the light of headlamps, a lamp post or a torch, and little else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecrack.rendering.camera import Camera, horizon_rows
from edgecrack.rendering.noise import Floats


@dataclass(frozen=True)
class Lamp:
    """The lamp that lights one road at night; positions and sizes are fractions of the picture's."""

    around: float  # share of ambient light
    colour: tuple[float, float, float]
    column: float  # of the brightest place
    row: float  # of the brightest place, below the horizon or from the top if there is none
    wide: float
    tall: float
    noise: float  # factor on the camera's noise

    def lit(self, light: Floats, camera: Camera) -> None:
        """Light the picture, float32 (H, W, 3), in place."""
        height, width = light.shape[:2]
        top = max(0.0, sum(horizon_rows(camera, width)) / 2)
        below = (np.arange(height, dtype=np.float32)[:, None] - top) / max(height - top, 1.0)
        across = np.arange(width, dtype=np.float32)[None] / width - self.column
        down = (below - self.row) / self.tall
        pool = np.exp(-((across / self.wide) ** 2) - down**2) * np.clip(1 + 20 * below, 0, 1)  # the sky stays dark
        level = self.around + (1.0 - self.around) * pool
        light *= level[..., None] * np.asarray(self.colour, np.float32)


def drawn_lamp(rng: np.random.Generator, forward: bool) -> Lamp:
    """Draw a random lamp: headlamps for a vehicle, a torch for a hand or a drone."""
    warm = rng.uniform(-0.12, 0.3)
    gain = rng.uniform(0.7, 1.3)
    return Lamp(
        around=rng.uniform(0.06, 0.3),
        colour=(gain * (1.0 - warm), gain, gain * (1.0 + 0.5 * warm)),
        column=rng.uniform(0.35, 0.65),
        row=rng.uniform(0.2, 0.6) if forward else rng.uniform(0.3, 0.7),
        wide=rng.uniform(0.25, 0.6),
        tall=rng.uniform(0.25, 0.6),
        noise=rng.uniform(1.5, 4.0),
    )
