"""An endless road, drawn block by block, each block from the seed and its own number alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecrack.rendering.camera import Matrix
from edgecrack.rendering.clutter import Area, block_areas, block_lines
from edgecrack.rendering.cracks import crack, network
from edgecrack.rendering.litter import litter
from edgecrack.rendering.scene import Scene, pattern
from edgecrack.rendering.strokes import Strokes

REACH = 1.6  # blocks by which a crack may extend beyond its own


@dataclass(frozen=True)
class Block:
    """Everything that begins on one stretch of road."""

    cracks: Strokes
    lines: Strokes  # dark and thin, but no cracks
    areas: tuple[Area, ...]


def drawn_block(seed: int, scene: Scene, number: int) -> Block:
    """Draw block `number`, from `number` to `number` + 1 times scene.block metres along the road."""
    rng = np.random.default_rng((seed, 1, number % 2**32))
    start = number * scene.block
    cracks = [_cracks(rng, scene, start) for _ in range(rng.poisson(scene.condition))]
    lines, areas = block_lines(rng, scene, start), block_areas(rng, scene, start)
    return Block(Strokes.joined(cracks), lines, (*areas, *litter(rng, scene, start)))


def _cracks(rng: np.random.Generator, scene: Scene, start: float) -> Strokes:
    kind = pattern(rng, scene)
    size = scene.block
    at = np.array([rng.uniform(scene.left, scene.right), start + rng.uniform(0.0, size)])
    if scene.view != "forward":
        at[0] *= 0.4  # where the camera looks
    if kind in ("along", "across", "wandering"):
        return _single(rng, scene, at, kind)
    if kind == "blocks":
        cell = rng.uniform(0.25, 0.8) * (1.0 if scene.view == "forward" else 0.4 * size)
        return network(rng, scene.habit, at, np.array([rng.uniform(0.6, 2.0), rng.uniform(0.8, 3.0)]) * size / 6, cell)
    radii = np.array([rng.uniform(0.25, 0.8), rng.uniform(0.5, 4.0)]) * (1.0 if scene.view == "forward" else size / 4)
    return network(rng, scene.habit, at, radii, scene.habit.cell)


def _single(rng: np.random.Generator, scene: Scene, at: Matrix, kind: str) -> Strokes:
    size = scene.block
    if kind == "along":
        run = np.array([rng.normal(0.0, 0.04), rng.uniform(0.3, 1.5)]) * size
    elif kind == "across":
        wide = scene.right - scene.left
        run = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(0.1, 0.7) * wide, rng.normal(0.0, 0.06) * size])
    else:
        angle, long = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.15, 1.5) * size
        run = np.array([np.cos(angle), np.sin(angle)]) * long
    return crack(rng, scene.habit, at - run / 2, at + run / 2)
