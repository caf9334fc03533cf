"""Thin distractors on the ground that are not cracks: straws, twigs, cables, chalk."""

from __future__ import annotations

import numpy as np

from edgecrack.rendering.camera import Matrix
from edgecrack.rendering.clutter import Area
from edgecrack.rendering.noise import wandering
from edgecrack.rendering.scene import Scene

# BGR, roughness of the path, (least, most) length and (least, most) width in metres
_THINGS = (
    ((110.0, 175.0, 200.0), 0.03, (0.03, 0.25), (0.001, 0.003)),  # straw
    ((45.0, 60.0, 75.0), 0.10, (0.03, 0.4), (0.002, 0.008)),  # twig
    ((35.0, 35.0, 35.0), 0.05, (0.5, 6.0), (0.004, 0.015)),  # cable
    ((225.0, 228.0, 230.0), 0.05, (0.1, 1.5), (0.008, 0.03)),  # chalk
    ((60.0, 90.0, 215.0), 0.04, (0.2, 2.0), (0.02, 0.05)),  # a surveyor's spray
)


def litter(rng: np.random.Generator, scene: Scene, start: float) -> list[Area]:
    """The litter on the block of road that begins at `start`."""
    areas: list[Area] = []
    for _ in range(rng.poisson(scene.variety.litter)):
        colour, bend, long, wide = _THINGS[int(rng.integers(len(_THINGS)))]
        at = np.array([rng.uniform(scene.left, scene.right), start + rng.uniform(0.0, scene.block)])
        if scene.view != "forward":
            at[0] *= 0.4  # where the camera looks
        length = float(np.clip(np.exp(rng.uniform(*np.log(long))), 8 * scene.pixel, 1.5 * scene.block))
        width = max(float(np.exp(rng.uniform(*np.log(wide)))), 1.2 * scene.pixel)
        outline = _ribbon(rng, at, length, width, bend)
        light = rng.uniform(0.7, 1.1)
        own = (colour[0] * light, colour[1] * light, colour[2] * light)
        if colour[0] < 200 and colour[2] < 210:  # it has height, hence a shadow
            shadow = outline + rng.uniform(-1.0, 1.0, 2) * width
            areas.append(Area((shadow,), (0.65, 0.65, 0.65), paint=False, above=True))
            areas.append(Area((outline,), own, paint=True, above=True))
        else:
            areas.append(Area((outline,), own, paint=True, opacity=rng.uniform(0.5, 0.95), wear=rng.uniform(0.1, 0.8)))
    return areas


def _ribbon(rng: np.random.Generator, at: Matrix, length: float, width: float, bend: float) -> Matrix:
    """The outline of a long, thin object that begins at `at`."""
    turn = rng.uniform(0, 2 * np.pi)
    end = at + length * np.array([np.cos(turn), np.sin(turn)])
    path = wandering(rng, np.stack([at, end])[None], 4, bend)[0]
    ahead = np.gradient(path, axis=0)
    aside = np.column_stack([-ahead[:, 1], ahead[:, 0]]) / np.maximum(np.linalg.norm(ahead, axis=1), 1e-9)[:, None]
    return np.vstack([path + aside * width / 2, (path - aside * width / 2)[::-1]])
