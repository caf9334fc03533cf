"""Distractors on a road that are not cracks: paint, patches, joints, seams, stains, leaves, shadows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.camera import Camera, Matrix
from edgecrack.rendering.noise import Floats, wandering
from edgecrack.rendering.scene import LaneMark, Scene
from edgecrack.rendering.strokes import Strokes

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Area:
    """Polygons on the ground that change its colour."""

    outlines: tuple[Matrix, ...]  # (K, 2) metres each
    colour: Colour  # BGR: paint 0..255, tint a factor around 1
    paint: bool  # paint covers the ground, a tint multiplies it
    opacity: float = 1.0
    wear: float = 0.0  # share of the paint through which the grain shows
    soft: float = 0.0  # metres, width of the soft edge
    above: bool = False  # lies over cracks


def rectangle(x: float, y: float, wide: float, long: float, turn: float = 0.0) -> Matrix:
    """Corners (4, 2) of a rectangle around (x, y), turned by `turn` radians."""
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * (wide, long)
    sine, cosine = np.sin(turn), np.cos(turn)
    return np.asarray(corners @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y), np.float64)


def blot(rng: np.random.Generator, x: float, y: float, wide: float, long: float, rough: float = 0.25) -> Matrix:
    """An uneven round outline (24, 2)."""
    angle = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
    radius = np.ones(24)
    for wave in range(1, 6):
        radius += rough / wave * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.2)
    return np.column_stack([x + wide / 2 * radius * np.cos(angle), y + long / 2 * radius * np.sin(angle)])


def lane_marks(marks: tuple[LaneMark, ...], near: float, far: float) -> list[Area]:
    """The lane markings between two positions along the road."""
    areas = []
    for mark in marks:
        if mark.dash:
            period = mark.dash + mark.gap
            starts = np.arange(np.floor(near / period), np.ceil(far / period)) * period
            outlines = tuple(rectangle(mark.x, start + mark.dash / 2, mark.width, mark.dash) for start in starts)
        else:
            outlines = (rectangle(mark.x, (near + far) / 2, mark.width, far - near),)
        areas.append(Area(outlines, mark.colour, paint=True, opacity=0.95, wear=mark.wear))
    return areas


def joints(scene: Scene, near: float, far: float) -> Strokes:
    """The straight grooves between slabs."""
    along, across = scene.slab
    width, dark = max(scene.joint[0], 1.2 * scene.pixel), scene.joint[1]
    step = 20 * scene.pixel
    parts = []
    if along:
        for y in np.arange(np.ceil(near / along), np.ceil(far / along)) * along:
            x = np.arange(scene.left, scene.right + step, step)
            parts.append(Strokes.from_path(np.column_stack([x, np.full_like(x, y)]), width, dark))
    if across:
        for x_joint in np.arange(np.ceil(scene.left / across), np.ceil(scene.right / across)) * across:
            y = np.arange(near, far, step)
            parts.append(Strokes.from_path(np.column_stack([np.full_like(y, x_joint), y]), width, dark))
    return Strokes.joined(parts)


def block_areas(rng: np.random.Generator, scene: Scene, start: float) -> list[Area]:
    """The clutter on the block of road that begins at `start`."""
    areas: list[Area] = []
    for maker, rate in ((_repair, 0.18), (_skid, 0.12), (_drips, 0.4), (_debris, 1.0), (_scuff, 0.3), (_cover, 0.03)):
        for _ in range(rng.poisson(rate * scene.clutter)):
            areas += maker(rng, scene, _place(rng, scene, start))
    for _ in range(rng.poisson(scene.shade)):
        areas += _shadow(rng, scene, _place(rng, scene, start))
    return areas


def block_lines(rng: np.random.Generator, scene: Scene, start: float) -> Strokes:
    """Dark lines on the block that are not cracks: sealed seams, straight joints of two layers, shadows of wires."""
    parts = []
    size = scene.block
    for _ in range(rng.poisson(0.10 * scene.clutter)):  # a sealed crack: smooth, even, black
        x, y = _place(rng, scene, start)
        end = (x + rng.normal(0.0, 0.3) * size, y + rng.normal(0.0, 0.5) * size)
        path = wandering(rng, np.array([[(x, y), end]]), 7, 0.08)[0]
        smooth = np.column_stack([np.convolve(axis, np.ones(9) / 9, "valid") for axis in path.T])
        parts.append(Strokes.from_path(smooth, max(rng.uniform(0.02, 0.06), 4 * scene.pixel), rng.uniform(0.35, 0.7)))
    for _ in range(rng.poisson(0.10 * scene.clutter)):
        x, y = _place(rng, scene, start)
        parts.append(_straight(rng, scene, x, y, rng.normal(0.0, 0.01), rng.uniform(0.15, 0.4)))
    for _ in range(rng.poisson(0.5 * scene.shade)):
        x, y = _place(rng, scene, start)
        parts.append(_straight(rng, scene, x, y, rng.uniform(0.3, 2.8), rng.uniform(0.2, 0.5)))
    return Strokes.joined(parts)


def covering(
    outlines: tuple[Matrix, ...], camera: Camera, height: int, width: int, soft: float = 0.0
) -> tuple[tuple[slice, slice], Floats] | None:
    """Rasterise ground polygons in the picture: (rows, columns) and float32 coverage 0..1; None if outside."""
    matrix = camera.ground_to_image()
    polygons = [polygon for outline in outlines if len(polygon := _clipped(outline, matrix)) > 2]
    if not polygons:
        return None
    blur = 0.0
    if soft:
        nearest = max(float(np.linalg.norm(p.max(axis=0) - p.min(axis=0))) for p in polygons)
        size = max(float(np.linalg.norm(o.max(axis=0) - o.min(axis=0))) for o in outlines)
        blur = float(np.clip(soft / size * nearest / 2, 0.0, 12.0))
    margin = int(3 * blur) + 2
    low = np.min([polygon.min(axis=0) for polygon in polygons], axis=0) - margin
    high = np.max([polygon.max(axis=0) for polygon in polygons], axis=0) + margin + 1
    left, top = (int(v) for v in np.clip(np.floor(low), 0, (width, height)))
    right, bottom = (int(v) for v in np.clip(np.ceil(high), 0, (width, height)))
    if right <= left or bottom <= top:
        return None
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    fixed = [np.rint(np.clip(polygon - (left, top), -6e7, 6e7) * 16).astype(np.int32) for polygon in polygons]
    cv2.fillPoly(canvas, fixed, (255,), cv2.LINE_AA, 4)
    if blur > 0.3:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), blur), np.uint8)
    return (slice(top, bottom), slice(left, right)), np.asarray(canvas * np.float32(1 / 255), np.float32)


def lay(picture: Floats, grain: NDArray[np.uint8], area: Area, camera: Camera) -> None:
    """Draw an area onto `picture`, float32 (H, W, 3), in place; paint wears along `grain`, uint8 (H, W, 3)."""
    found = covering(area.outlines, camera, picture.shape[0], picture.shape[1], area.soft)
    if found is None:
        return
    where, cover = found
    cover = cover * np.float32(area.opacity)
    colour = np.asarray(area.colour, np.float32)
    below = picture[where]
    if not area.paint:
        below *= 1.0 + cover[..., None] * (colour - 1.0)
        return
    rough = grain[where][..., 1].astype(np.float32) * np.float32(1 / 128)
    if area.wear:
        cover = cover * np.clip(1.0 - area.wear * (0.45 + 5.0 * (rough - 1.0)), 0.0, 1.0)
    below += cover[..., None] * (colour * (0.5 + 0.5 * rough[..., None]) - below)


def _clipped(outline: Matrix, matrix: Matrix, nearest: float = 0.25) -> Matrix:
    """A ground polygon in picture coordinates, clipped where it comes too near the plane of the lens."""
    seen = np.column_stack([outline, np.ones(len(outline))]) @ matrix.T
    if seen[:, 2].min() < nearest:
        seen = _in_front(seen, nearest)
    return np.asarray(seen[:, :2] / seen[:, 2:], np.float64)


def _in_front(seen: Matrix, nearest: float) -> Matrix:
    corners = []
    for here, there in zip(seen, np.concatenate([seen[1:], seen[:1]]), strict=True):
        if here[2] >= nearest:
            corners.append(here)
        if (here[2] >= nearest) != (there[2] >= nearest):
            corners.append(here + (there - here) * (nearest - here[2]) / (there[2] - here[2]))
    return np.array(corners).reshape(-1, 3)


def _place(rng: np.random.Generator, scene: Scene, start: float) -> tuple[float, float]:
    return rng.uniform(scene.left, scene.right), start + rng.uniform(0.0, scene.block)


def _straight(rng: np.random.Generator, scene: Scene, x: float, y: float, turn: float, strength: float) -> Strokes:
    long = np.linspace(-1.5, 1.5, 120) * scene.block
    bow = rng.normal(0.0, 0.004) * long**2 / scene.block
    path = np.column_stack([x + np.sin(turn) * long + bow * np.cos(turn), y + np.cos(turn) * long - bow * np.sin(turn)])
    return Strokes.from_path(path, max(rng.uniform(0.006, 0.015), rng.uniform(1.0, 2.5) * scene.pixel), strength)


def _repair(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    wide, long = rng.uniform(0.3, 2.2), rng.uniform(0.4, 5.0)
    corners = rectangle(*at, wide, long, rng.normal(0.0, 0.03))
    outline = wandering(rng, np.vstack([corners, corners[:1]])[None], 4, 0.02)[0]
    light = rng.uniform(0.62, 1.25)
    colour = (light * rng.uniform(0.97, 1.05), light, light * rng.uniform(0.95, 1.03))
    areas = [Area((outline,), colour, paint=False)]
    if rng.random() < 0.4:  # its cut edge, filled with bitumen
        inner = outline * 0.0 + at + (outline - at) * (1.0 - 0.05 / wide)
        areas = [Area((outline,), (0.55, 0.55, 0.55), paint=False), Area((inner,), (light / 0.55,) * 3, paint=False)]
    return areas


def _skid(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    long, wide = rng.uniform(2.0, 10.0), rng.uniform(0.12, 0.25)
    bend = rng.normal(0.0, 0.4)
    y = np.linspace(0.0, 1.0, 12)
    middle = np.column_stack([at[0] + bend * y**2, at[1] + long * y])
    outlines = []
    for offset in (0.0, rng.uniform(1.3, 1.8)):
        outlines.append(np.vstack([middle + (offset, 0), middle[::-1] + (offset + wide, 0)]))
    dark = rng.uniform(0.6, 0.9)
    return [Area(tuple(outlines), (dark, dark, dark), paint=False, soft=0.1)]


def _drips(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    outlines = []
    for _ in range(int(rng.integers(1, 9))):
        size = float(np.exp(rng.uniform(np.log(0.008), np.log(0.12))))
        x, y = at[0] + rng.normal(0.0, 0.15), at[1] + rng.normal(0.0, 1.0)
        outlines.append(blot(rng, x, y, size, size * rng.uniform(0.8, 2.5), 0.45))
    dark = rng.uniform(0.35, 0.85)
    return [Area(tuple(outlines), (dark, dark, dark), paint=False, soft=0.02)]


def _debris(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    """Leaves, twigs, stones and chips, each with a little shadow."""
    areas = []
    for _ in range(int(rng.integers(1, 6))):
        size = max(rng.uniform(0.01, 0.07), 2.5 * scene.pixel)
        x, y = at[0] + rng.normal(0.0, 0.4), at[1] + rng.normal(0.0, 0.6)
        outline = blot(rng, x, y, size, size * rng.uniform(0.25, 1.0), 0.35)
        turn = rng.uniform(0, np.pi)
        outline = (outline - (x, y)) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + (x, y)
        light = rng.uniform(0.25, 1.0)
        tone = ((70.0, 150.0, 170.0), (60.0, 100.0, 150.0), (190.0, 195.0, 195.0), (90.0, 140.0, 110.0))
        colour = tone[int(rng.integers(len(tone)))]
        areas.append(Area((outline + rng.uniform(-0.2, 0.2, 2) * size,), (0.6, 0.6, 0.6), paint=False, above=True))
        own = (colour[0] * light, colour[1] * light, colour[2] * light)
        areas.append(Area((outline,), own, paint=True, above=True))
    return areas


def _scuff(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    """Scratches lighter than the road."""
    outlines, turn = [], rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(1, 6))):
        x, y = at[0] + rng.normal(0.0, 0.1), at[1] + rng.normal(0.0, 0.1)
        wide = max(rng.uniform(0.003, 0.02), scene.pixel)
        outlines.append(rectangle(x, y, wide, rng.uniform(10, 80) * wide, turn + rng.normal(0.0, 0.1)))
    light = rng.uniform(1.1, 1.5)
    return [Area(tuple(outlines), (light, light, light), paint=False, soft=0.01)]


def _cover(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    """A manhole cover with its gap."""
    size = rng.uniform(0.55, 0.75)
    ring, lid = blot(rng, *at, size * 1.08, size * 1.08, 0.0), blot(rng, *at, size, size, 0.0)
    light = rng.uniform(0.6, 1.1)
    return [Area((ring,), (0.35, 0.35, 0.35), paint=False), Area((lid,), (light / 0.35,) * 3, paint=False)]


def _shadow(rng: np.random.Generator, scene: Scene, at: tuple[float, float]) -> list[Area]:
    dark = rng.uniform(0.35, 0.75)
    colour = (dark * 1.06, dark, dark * 0.96)
    if rng.random() < 0.5:  # a pole
        turn = rng.uniform(0.4, 2.7)
        pole = rectangle(*at, rng.uniform(0.05, 0.3), 20.0, turn)
        return [Area((pole,), colour, paint=False, soft=0.3 * rng.random(), above=True)]
    outlines = []
    side = scene.left if rng.random() < 0.5 else scene.right
    size = rng.uniform(0.25, 1.0) * scene.block
    for _ in range(int(rng.integers(4, 25))):  # a tree
        x, y = side + rng.normal(0.0, 0.4) * size, at[1] + rng.normal(0.0, 0.5) * size
        outlines.append(blot(rng, x, y, rng.uniform(0.1, 0.6) * size, rng.uniform(0.1, 0.6) * size, 0.4))
    return [Area(tuple(outlines), colour, paint=False, soft=0.08 * size, above=True)]
