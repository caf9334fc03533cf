"""Ground textures: grain, soil and verge as repeating tiles, rendered from any height without aliasing."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.rendering.camera import Band, Camera, Matrix
from edgecrack.rendering.noise import Floats, cloudy, softened, standardised, stones

GRAIN_MEAN = 128.0  # the grey value of grain that leaves the soil unchanged
SOIL_SIDE = 256  # texels
_PEBBLES = 8.0  # pixels between stones from which each has a visible shape
_CLOSE = 0.0005  # metres per pixel below which the pores of concrete are visible


class GroundTexture:
    """An endlessly repeated tile of ground; `texel` is the size of one of its pixels in metres (x, y)."""

    def __init__(self, tile: NDArray[np.uint8], texel: tuple[float, float]) -> None:
        self._tile = tile
        self._texel = texel
        self._halved = [tile]
        self._shrunk: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def seen(self, camera: Camera, over: list[Band], height: int, width: int) -> NDArray[np.uint8]:
        """Render the ground as uint8 (height, width, 3); rows outside the bands `over` are black."""
        picture = np.zeros((height, width, 3), np.uint8)
        to_ground = np.linalg.inv(camera.ground_to_image())
        for band in over:
            tile = self._for(band)
            rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, band.top], [0.0, 0.0, 1.0]])
            to_tile = self._ground_to(tile, camera) @ to_ground @ rows
            cv2.warpPerspective(
                tile, to_tile, (width, band.bottom - band.top), dst=picture[band.top : band.bottom],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_WRAP,
            )  # fmt: skip
        return picture

    def _for(self, band: Band) -> NDArray[np.uint8]:
        """The tile shrunk until a texel is as large as a pixel of the band, which then sees the mean of its ground."""
        size = []
        for side, texel, step in zip(self._tile.shape[1::-1], self._texel, (band.across, band.along), strict=True):
            size.append(int(np.clip(round(side * texel / step), 4, side)))
        key = (size[0], size[1])
        if key not in self._shrunk:
            source = self._halved[0]
            for level in range(1, 8):  # start from the smallest sufficient halving: a tenth of the work
                if min(source.shape[1] / key[0], source.shape[0] / key[1]) < 2.0:
                    break
                if level == len(self._halved):
                    half = cv2.resize(source, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                    self._halved.append(np.asarray(half, np.uint8))
                source = self._halved[level]
            whole = key == source.shape[1::-1]
            shrunk = source if whole else cv2.resize(source, key, interpolation=cv2.INTER_AREA)
            self._shrunk[key] = np.asarray(shrunk, np.uint8)
        return self._shrunk[key]

    def _ground_to(self, tile: NDArray[np.uint8], camera: Camera) -> Matrix:
        height, width = tile.shape[:2]
        long = np.array([self._tile.shape[1] * self._texel[0], self._tile.shape[0] * self._texel[1]])
        scale = np.diag([width / long[0], height / long[1], 1.0])
        # Whole tiles of the distance travelled are subtracted, so that coordinates stay small.
        back = np.eye(3)
        back[:2, 2] = -np.floor(np.array([camera.x, camera.y]) / long) * long
        half = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
        return np.asarray(half @ scale @ back, np.float64)


def asphalt_grain(rng: np.random.Generator, side: int, texel: float, coarser: float = 1.0) -> NDArray[np.uint8]:
    """Aggregate in binder, enlarged by `coarser`: uint8 (side, side, 3) around GRAIN_MEAN, `texel` metres per pixel."""
    spacing = coarser * rng.uniform(0.004, 0.011) / texel
    field = rng.uniform(0.2, 0.7) * rng.standard_normal((side, side), np.float32)
    worn = rng.uniform(0.35, 1.0)  # how much binder is worn off the stones
    for scale, weight in ((1.0, worn), (0.55, 0.6)):
        stony = _pebbles if spacing * scale > _PEBBLES else _aggregate
        field += np.float32(weight) * stony(rng, side, spacing * scale)
    field = standardised(field + 0.35 * cloudy(rng, side, side, 0.9))
    crisp = float(np.clip(spacing / 5, 0.5, 1.1))
    field += rng.uniform(0.0, 2.5) * _specks(rng, side, rng.uniform(0.0005, 0.005), crisp, field > 0.3)
    field -= rng.uniform(0.0, 1.8) * _specks(rng, side, rng.uniform(0.0005, 0.004), crisp, field < 0.3)
    tint = softened(rng.standard_normal((side, side), np.float32), float(np.clip(spacing / 4, 0.6, 1.6)))
    contrast = rng.uniform(0.06, 0.17) * (1.7 if spacing > _PEBBLES else 1.0)
    return _grains(1.0 + np.float32(contrast) * field, tint, rng.uniform(0.0, 0.025))


def concrete_grain(rng: np.random.Generator, side: int, texel: float, grooves: bool = False) -> NDArray[np.uint8]:
    """Sand and cement skin with pores: uint8 (side, side, 3) around GRAIN_MEAN, `texel` metres per pixel."""
    fine = standardised(softened(rng.standard_normal((side, side), np.float32), rng.uniform(0.4, 0.9)))
    blotched = cloudy(rng, side, side, rng.uniform(0.6, 1.1))
    field = fine * 0.6 + blotched * rng.uniform(0.4, 1.4)
    if rng.random() < 0.3:  # broomed across the road
        field += rng.uniform(0.3, 0.9) * cloudy(rng, side, side, 0.6, stretch=16.0).T
    if rng.random() < 0.4:  # exposed sand
        field += rng.uniform(0.2, 0.7) * _aggregate(rng, side, max(2.0, 0.004 / texel))
    field = standardised(field)
    many = np.exp(rng.uniform(np.log(0.0001), np.log(0.003), 2))
    field -= rng.uniform(0.5, 4.0) * _specks(rng, side, many[0], rng.uniform(0.6, 1.6), blotched > -1.0)
    field += rng.uniform(0.0, 4.0) * _specks(rng, side, many[1], rng.uniform(0.5, 1.3), blotched > 0.0)
    tint = cloudy(rng, side, side, 1.0)
    light = 1.0 + np.float32(rng.uniform(0.035, 0.13)) * field
    colourful = rng.uniform(0.0, 0.02)
    if texel < _CLOSE:  # air bubbles
        bubbles, size = rng.uniform(0.00002, 0.0002), rng.uniform(0.0004, 0.0015) / texel
        light *= 1.0 - rng.uniform(0.3, 0.9) * np.clip(_specks(rng, side, bubbles, size, blotched > -1.0), 0.0, 1.0)
    if grooves:
        light *= _grooved(rng, side, texel)
    return _grains(np.asarray(light, np.float32), tint, colourful)


def _grooved(rng: np.random.Generator, side: int, texel: float) -> Floats:
    """Grooves sawn or raked across or along the road, a whole number of them per tile."""
    count = max(1, round(side * texel / rng.uniform(0.012, 0.03)))
    place = (np.arange(side, dtype=np.float32) * (count / side)) % 1.0 * (side / count)  # pixels from the last one
    wide = max(rng.uniform(0.002, 0.004) / texel, 0.7)
    cut = np.exp(-(((place - side / count / 2) / wide) ** 2)) * rng.uniform(0.15, 0.5)
    worn = 1.0 - 0.3 * np.clip(cloudy(rng, side, side, 1.0), 0.0, 2.0)
    lines = np.repeat(cut[None], side, 0) if rng.random() < 0.5 else np.repeat(cut[:, None], side, 1)
    return np.asarray(1.0 - lines * worn, np.float32)


def weathered(rng: np.random.Generator, soil: NDArray[np.uint8], years: float) -> NDArray[np.uint8]:
    """The soil with concrete weathering of `years`, 0..1: vertical streaks, dark growth, white bloom and rust."""
    side = soil.shape[0]
    light = 1.0 + years * rng.uniform(0.0, 0.12) * cloudy(rng, side, side, 0.8, stretch=rng.uniform(3.0, 12.0))
    shape = cloudy(rng, side, side, rng.uniform(0.7, 1.1))
    crisp = np.float32(rng.uniform(1.0, 4.0))
    growth = (
        softened(np.clip((shape - np.float32(rng.uniform(0.5, 2.5))) * crisp, 0.0, 1.0), 0.8)
        * years
        * rng.uniform(0.1, 0.5)
    )
    bloom = (
        softened(np.clip((-shape - np.float32(rng.uniform(1.2, 3.0))) * crisp, 0.0, 1.0), 0.8)
        * years
        * rng.uniform(0.1, 0.7)
    )
    rust = np.clip(0.5 * cloudy(rng, side, side, 1.2) + 0.2, 0.0, 1.0) * years * rng.uniform(0.0, 0.8)
    brown = 1.0 + rust[..., None] * np.asarray([-0.22, -0.06, 0.06])
    changed = soil * ((light * (1.0 - growth) * (1.0 + bloom))[..., None] * brown)
    return np.asarray(np.clip(changed, 4, 250), np.uint8)


def road_soil(
    rng: np.random.Generator, colour: Matrix, unrest: float, tracks: list[tuple[float, float, float]], long: float
) -> NDArray[np.uint8]:
    """The large-scale colour of the road: uint8 (SOIL_SIDE, SOIL_SIDE, 3), a square of `long` metres around x = 0.

    colour: BGR of the clean road; unrest: relative standard deviation of its light; tracks: (x, width, change) of the
    stripes that traffic leaves, in metres and as a relative change of light.
    """
    side = SOIL_SIDE
    light = 1.0 + unrest * (0.7 * cloudy(rng, side, side, rng.uniform(1.1, 1.8)) + 0.3 * cloudy(rng, side, side, 0.8))
    light += rng.uniform(0.0, 0.05) * cloudy(rng, side, side, 1.2, stretch=14.0)
    across = (np.arange(side) + 0.5) / side * long
    across = np.where(across > long / 2, across - long, across)
    swing = np.asarray(0.25 * cloudy(rng, side, side, 1.8, coarsest=0.5)[:, :1], np.float64)
    for place, width, change in tracks:
        light *= 1.0 + change * np.exp(-(((across[None] - place - swing * width) / width) ** 2) / 2)
    light *= 1.0 + 0.5 * _stains(rng, side)
    dust = np.clip(0.4 * cloudy(rng, side, side, 1.4) + 0.3, 0.0, 1.0)[..., None] * rng.uniform(0.0, 0.25)
    dusty = np.asarray([0.82, 0.95, 1.12]) if rng.random() < 0.6 else np.asarray([1.05, 1.02, 0.96])
    soil = colour * np.clip(light, 0.3, 1.7)[..., None] * (1.0 + dust * (dusty - 1.0))
    return np.asarray(np.clip(soil, 4, 250), np.uint8)


def verge(rng: np.random.Generator, side: int = 256) -> NDArray[np.uint8]:
    """Grass, dirt or gravel beside the road: uint8 (side, side, 3) BGR."""
    kinds = {
        "grass": ((40, 95, 85), (60, 150, 160)), "dry grass": ((70, 125, 140), (110, 170, 185)),
        "dirt": ((70, 90, 140), (100, 120, 165)), "gravel": ((95, 105, 110), (150, 160, 165)),
    }  # fmt: skip
    names = list(kinds)
    first, second = kinds[names[int(rng.integers(len(names)))]], kinds[names[int(rng.integers(len(names)))]]
    mix = np.clip(0.5 + 0.5 * cloudy(rng, side, side, 1.3), 0, 1)[..., None]
    rough = np.clip(0.5 + rng.uniform(0.2, 0.45) * cloudy(rng, side, side, 0.35), 0, 1.2)[..., None]
    low = np.asarray(first[0]) * (1 - mix) + np.asarray(second[0]) * mix
    high = np.asarray(first[1]) * (1 - mix) + np.asarray(second[1]) * mix
    colour = low + (high - low) * rough
    colour += (colour.mean(axis=2, keepdims=True) - colour) * rng.uniform(0.0, 0.6)
    return np.asarray(np.clip(colour * rng.uniform(0.6, 1.0), 0, 255), np.uint8)


def _aggregate(rng: np.random.Generator, side: int, spacing: float) -> Floats:
    """Stones `spacing` pixels apart, some bare and lit from one side; noise if they are too small to be visible."""
    if spacing < 1.6:
        return standardised(softened(rng.standard_normal((side, side), np.float32), 0.7))
    value, distance = stones(rng, side, spacing)
    shown = np.clip(1.25 - distance * np.float32(rng.uniform(1.2, 1.8)), 0.0, 1.0)
    bare = np.where(value > rng.uniform(-0.5, 0.6), value, np.float32(-0.35)) * shown
    return np.asarray(softened(bare, 0.5) + rng.uniform(0.3, 0.9) * _lit(rng, shown), np.float32)


def _pebbles(rng: np.random.Generator, side: int, spacing: float) -> Floats:
    """Stones `spacing` pixels apart, each with its own tone, lit from one side, some under binder; deviation 1."""
    tone, distance = stones(rng, side, spacing)
    other, _ = stones(rng, side, spacing * 0.23)  # variation within a broken stone
    ragged = distance + np.float32(rng.uniform(0.05, 0.12)) * cloudy(rng, side, side, 1.0, coarsest=0.1)
    solid = np.clip((0.58 + 0.07 * tone - ragged) * np.float32(0.35 * spacing), 0.0, 1.0)
    solid *= tone > np.float32(rng.uniform(-0.9, 0.6))
    binder = 0.4 * softened(rng.standard_normal((side, side), np.float32), 0.8)
    field = solid * (rng.uniform(0.3, 1.4) + 0.8 * tone + 0.25 * other) + (1.0 - solid) * (
        binder - rng.uniform(0.2, 1.0)
    )
    return standardised(
        field + rng.uniform(0.1, 0.5) * _lit(rng, softened(np.asarray(solid, np.float32), 0.06 * spacing))
    )


def _grains(field: Floats, tint: Floats, colourful: float) -> NDArray[np.uint8]:
    """A field of mean 1 as uint8 with three channels, some grains warmer and some cooler."""
    warm = standardised(tint) * colourful
    return np.asarray(np.clip(np.stack([field - warm, field, field + warm], -1) * GRAIN_MEAN, 2, 253), np.uint8)


def _lit(rng: np.random.Generator, heights: Floats) -> Floats:
    """Relief shading of heights by a low sun, standard deviation 1."""
    angle = rng.uniform(0.0, 2 * np.pi)
    slope = np.cos(angle) * (np.roll(heights, 1, 1) - heights) + np.sin(angle) * (np.roll(heights, 1, 0) - heights)
    return standardised(slope)


def _specks(rng: np.random.Generator, side: int, share: float, sigma: float, where: NDArray[np.bool_]) -> Floats:
    places = rng.integers(0, side * side, rng.poisson(share * side * side))
    places = places[where.reshape(-1)[places]]
    dots = np.zeros((side, side), np.float32)
    dots.reshape(-1)[places] = rng.uniform(0.5, 1.5, len(places)) * (2 * np.pi * sigma**2)
    return softened(dots, sigma)


def _stains(rng: np.random.Generator, side: int) -> Floats:
    """Stains of oil, water and lime: relative change of light, in blots with soft but uneven edges."""
    change = np.zeros((side, side), np.float32)
    shape = cloudy(rng, side, side, 1.3)
    for _ in range(rng.poisson(2.0)):
        x, y, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(2, 18)
        rows, columns = np.ogrid[:side, :side]
        distance = np.hypot((columns - x) * rng.uniform(0.5, 1.5), rows - y) / radius
        blot = np.clip((1.2 - distance + 0.35 * shape) * rng.uniform(1.5, 6), 0, 1)
        change += np.asarray(blot * rng.uniform(-0.75, 0.3), np.float32)
    return np.clip(change, -0.9, 0.5)
