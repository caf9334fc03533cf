"""Crack patterns of roads: longitudinal, transverse, wandering, block and alligator cracks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edgecrack.rendering.camera import Matrix
from edgecrack.rendering.noise import unrest, wandering
from edgecrack.rendering.strokes import Strokes

WIDEST = 8.0  # pixels in the foreground, maximum width of a usual crack
_GAPING = 10.0  # pixels of width from which one sees into a crack
PATTERNS = ("along", "across", "wandering", "blocks", "alligator")


@dataclass(frozen=True)
class CrackHabit:
    """Appearance of the cracks of one road; lengths in metres."""

    pixel: float  # ground under the nearest pixel: the unit of widths and detail
    width: float  # of a typical crack
    widest: float  # maximum width of a crack
    strength: float  # share of light that a typical crack absorbs, 0..1
    roughness: float
    branching: float  # mean number of branches per crack
    cell: float  # cell size of alligator cracking


def crack(rng: np.random.Generator, habit: CrackHabit, start: Matrix, end: Matrix, *, scale: float = 1.0) -> Strokes:
    """One crack with its branches from `start` to `end`, (x, y) in metres, `scale` times the typical width."""
    # One bend in the middle, then roughness at every scale.
    bend = (start + end) / 2 + np.array([start[1] - end[1], end[0] - start[0]]) * rng.normal(0.0, 0.07)
    path = _path(rng, habit, np.stack([start, bend, end]))
    width = habit.width * scale * float(np.exp(rng.normal(0.0, 0.3)))
    strength = float(np.clip(habit.strength * np.exp(rng.normal(0.0, 0.2)), 0.12, 0.92))
    parts = [_worn(rng, habit, path, width, strength)]
    if width > _GAPING * habit.pixel:
        parts = _gaping(rng, habit, path, width, strength)
    for _ in range(rng.poisson(habit.branching)):
        parts.append(_branch(rng, habit, path, width, strength))
    if rng.random() < 0.15:  # a parallel crack, as where two layers shear
        aside = path[len(path) // 4 : -len(path) // 4] + rng.normal(0.0, 6.0, 2) * habit.pixel
        parts.append(
            _worn(rng, habit, aside + rng.normal(0.0, 0.4 * habit.pixel, aside.shape), width * 0.5, strength * 0.8)
        )
    return Strokes.joined(parts)


def network(rng: np.random.Generator, habit: CrackHabit, middle: Matrix, radii: Matrix, cell: float) -> Strokes:
    """A crack network: cells of about `cell` metres in an ellipse of these radii, with wider cracks in the middle."""
    # Traffic cracks the surface across the road first, and often only parts of a network are present.
    edges = _cell_edges(rng, middle, radii, np.array([cell, cell * rng.uniform(0.5, 1.1)]), rng.uniform(0.45, 0.95))
    if not len(edges):
        return Strokes.none()
    long = float(np.median(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1)))
    levels = int(np.clip(np.ceil(np.log2(max(long / (3 * habit.pixel), 1.0))), 1, 5))
    paths = wandering(rng, edges, levels, habit.roughness)
    count, points = paths.shape[:2]
    inside = np.linalg.norm((paths - middle) / radii, axis=-1)
    base = habit.width * 0.75 * np.exp(rng.normal(0.0, 0.35, (count, 1)))
    width = base * np.clip(1.35 - inside, 0.25, 1.0) * np.exp(0.25 * rng.standard_normal((count, points)))
    strength = np.clip(habit.strength * np.exp(rng.normal(0.0, 0.25, (count, 1))) * np.ones((1, points)), 0.12, 0.92)
    line = np.repeat(np.arange(count), points)
    width = np.minimum(width, habit.widest)
    return Strokes(paths.reshape(-1, 2), width.reshape(-1), strength.reshape(-1), line)


def _path(rng: np.random.Generator, habit: CrackHabit, corners: Matrix) -> Matrix:
    long = float(np.linalg.norm(np.diff(corners, axis=0), axis=1).max())
    levels = int(np.clip(np.ceil(np.log2(max(long / (2.5 * habit.pixel), 2.0))), 1, 11))
    return np.asarray(wandering(rng, corners[None], levels, habit.roughness)[0], np.float64)


def _worn(rng: np.random.Generator, habit: CrackHabit, path: Matrix, width: float, strength: float) -> Strokes:
    """A path with a crack's varying width and darkness: thin at the ends, interrupted in places."""
    count = len(path)
    ends = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.15 * count) + 0.25)
    wide = width * ends * np.exp(0.4 * unrest(rng, count))
    wide[unrest(rng, count) < rng.uniform(-2.6, -1.5)] *= 0.2
    dark = np.clip(strength * np.exp(0.18 * unrest(rng, count)), 0.1, 0.94)
    return Strokes.from_path(path, np.minimum(wide, habit.widest), dark)


def _gaping(rng: np.random.Generator, habit: CrackHabit, path: Matrix, width: float, strength: float) -> list[Strokes]:
    """A wide crack as many parallel strands: crumbling edges, deep middle."""
    count = len(path)
    step = np.gradient(path, axis=0)
    aside = np.column_stack([-step[:, 1], step[:, 0]]) / np.maximum(np.linalg.norm(step, axis=1), 1e-12)[:, None]
    near = min(9, count)  # "same" is of the longer one
    aside = np.column_stack([np.convolve(axis, np.ones(near) / near, "same") for axis in aside.T])
    ends = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.2 * count + 1)) ** 0.7
    open_here = width * ends * np.clip(1.0 + 0.25 * unrest(rng, count, 48), 0.3, 1.6)
    many = int(np.clip(width / habit.pixel / 2.5, 4, 14))
    strands = []
    for place in np.linspace(-0.42, 0.42, many):
        sway = place + 0.07 * unrest(rng, count, 8)
        dark = np.clip(strength * (1.15 - 1.1 * abs(place)) * np.exp(0.12 * unrest(rng, count)), 0.1, 0.94)
        wide = np.maximum(open_here / many * 1.9 * np.exp(0.25 * unrest(rng, count)), 0.8 * habit.pixel * ends)
        strands.append(
            Strokes.from_path(path + aside * (sway * open_here)[:, None], np.minimum(wide, habit.widest), dark)
        )
    return strands


def _branch(rng: np.random.Generator, habit: CrackHabit, path: Matrix, width: float, strength: float) -> Strokes:
    at = int(rng.integers(len(path) // 8, len(path) - len(path) // 8))
    heading = path[min(at + len(path) // 8, len(path) - 1)] - path[max(at - len(path) // 8, 0)]
    heading = heading / max(float(np.linalg.norm(heading)), 1e-9)
    angle = rng.choice([-1.0, 1.0]) * rng.uniform(0.35, 1.4)
    turned = np.array([
        heading[0] * np.cos(angle) - heading[1] * np.sin(angle), heading[0] * np.sin(angle) + heading[1] * np.cos(angle)
    ])  # fmt: skip
    long = float(np.linalg.norm(path[-1] - path[0])) * rng.uniform(0.08, 0.4)
    end = path[at] + turned * long
    bent = (path[at] + end) / 2 + rng.normal(0.0, 0.12, 2) * long
    grown = _path(rng, habit, np.stack([path[at], bent, end]))
    return _worn(rng, habit, grown, width * rng.uniform(0.4, 0.85), strength * rng.uniform(0.7, 1.0))


def _cell_edges(rng: np.random.Generator, middle: Matrix, radii: Matrix, cell: Matrix, whole: float) -> Matrix:
    """The edges (N, 2, 2) of Voronoi cells of size `cell` (x, y): a share `whole` of them, fewer further out."""
    across, along = (int(count) for count in np.maximum(3, 2 * radii / cell + 2))
    if across * along > 900:
        cell = cell * (across * along / 900) ** 0.5
        across, along = (int(count) for count in np.maximum(3, 2 * radii / cell + 2))
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(along)), axis=-1).reshape(-1, 2)
    middles = (grid + 0.5 + rng.uniform(-0.42, 0.42, grid.shape)) * 10.0
    divided = cv2.Subdiv2D((0, 0, across * 10 + 1, along * 10 + 1))
    divided.insert(middles.astype(np.float32).tolist())
    corners, _ = divided.getVoronoiFacetList([])
    edges = np.concatenate([np.stack([facet, np.roll(facet, -1, axis=0)], axis=1) for facet in corners])
    edges = np.unique(np.rint(np.where((edges[:, :1, :1] > edges[:, 1:, :1]), edges[:, ::-1], edges) * 64), axis=0) / 64
    placed = (edges / 10.0 - np.array([across, along]) / 2) * cell + middle
    reach = np.linalg.norm((placed.mean(axis=1) - middle) / radii, axis=1)
    kept = (reach < 1.0) & (rng.random(len(placed)) < whole * (1.0 - 0.45 * reach**3))
    return np.asarray(placed[kept], np.float64)
