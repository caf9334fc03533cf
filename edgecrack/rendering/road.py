"""Synthetic roads with known cracks, drawn from a seed and seen by a camera that moves along them."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SpecError
from edgecrack.rendering import surface as ground
from edgecrack.rendering.beside import Beside
from edgecrack.rendering.blocks import REACH, Block, drawn_block
from edgecrack.rendering.camera import Camera, bands, ground_at
from edgecrack.rendering.clutter import covering, joints, lane_marks, lay
from edgecrack.rendering.night import Lamp, drawn_lamp
from edgecrack.rendering.noise import Floats
from edgecrack.rendering.scene import SURFACES, VIEWS, Scene, drawn_scene
from edgecrack.rendering.sensor import drawn_sensor, photographed
from edgecrack.rendering.strokes import Strokes, label, projected, shade
from edgecrack.rendering.variety import STREAM, drawn_variety
from edgecrack.rendering.water import Water, damp_beside

DEMO_SEEDS = range(1000)  # reserved for demos and tests; training uses seeds from 1000 on
SMALLEST_SIDE = 32
_FARTHEST_MARK = 120.0  # metres ahead up to which paint and verge are drawn
_FARTHEST_CRACK = 40.0
_KEPT_BLOCKS = 48


class RenderedRoad:
    """An endless road drawn from a seed, with known cracks, seen by a moving camera.

    seed: an integer of 0 or more; with the same version of OpenCV the same seed gives the same bytes in every frame.
    height, width: size of the frames in pixels, at least 32.
    view: "forward" from a survey vehicle at 5 to 15 m/s, "down" from a slow drone over 0.5 to 3 m of ground, "close"
        from a hand over 8 to 50 cm, or "any".
    surface: "asphalt", "concrete" or "any". "any" is drawn from the seed.

    About one road in six has no crack at all. Distractors are not in the mask: joints, sealed seams, grooves, shadows
    of wires and poles, patches, stains, water, tyre marks, paint, leaves, straws, twigs, cables, chalk. Some roads are
    wet, some drying, some seen at night. The fine texture and the soil of the road repeat after some metres; cracks and
    objects do not.
    Raises SpecError for an invalid seed, size, view or surface.
    """

    def __init__(self, seed: int, height: int, width: int, *, view: str = "any", surface: str = "any") -> None:
        _check(seed, height, width, view, surface)
        self._seed, self._height, self._width = int(seed), int(height), int(width)
        rng = np.random.default_rng((self._seed, 0))
        self._scene = drawn_scene(rng, self._height, self._width, view, surface, drawn_variety(self._seed))
        self._bands = bands(self._scene.camera, self._height, self._width)
        self._grain = _grain(rng, self._scene, self._width)
        self._soil, brightness = _soil(rng, self._scene)
        self._beside = Beside(rng, self._scene.left, self._scene.right, self._width) if self.view == "forward" else None
        self._sensor = drawn_sensor(rng, self._height, self._width, 128.0 * brightness)
        self._rim = _rim(rng)
        self._phases = rng.uniform(0.0, 2 * np.pi, (4, 2))
        self._water, self._lamp = self._weather()
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    @property
    def view(self) -> str:
        """The view of the camera: "forward", "down" or "close"."""
        return self._scene.view

    @property
    def surface(self) -> str:
        """The material of the road: "asphalt" or "concrete"."""
        return self._scene.surface

    def frame(self, index: int, rate: float = 30.0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Frame `index`, from 0 on, of a clip at `rate` frames per second; frames may be asked for in any order.

        Returns the image, uint8 (height, width, 3) BGR, and the mask, bool (height, width): True on cracks that are at
        least about 0.7 pixels wide there and not so faint that they are lost in the grain.
        Raises SpecError for a negative index or a rate that is not positive.
        """
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or index < 0:
            raise SpecError(f"wanted a frame index that is a whole number from 0 on, got {index!r}")
        if not 0.0 < rate < float("inf"):
            raise SpecError(f"wanted a positive number of frames a second, got {rate!r}")
        camera = self._camera(int(index) / rate)
        light, mask = self._painted(camera)
        if self._lamp:
            self._lamp.lit(light, camera)
        noise = np.random.default_rng((self._seed, 2, int(index)))
        return photographed(light, self._sensor, noise), mask

    def _weather(self) -> tuple[Water | None, Lamp | None]:
        """Draw the water and the lamp of this road, if any; the camera has more noise in the dark."""
        variety, rng = (
            self._scene.variety,
            np.random.default_rng((self._seed, STREAM, 2)),
        )  # (seed, STREAM, 0) is (seed, STREAM)
        self._damp = rng.uniform(2.0, 8.0)
        forward = self.view == "forward"
        water = Water(rng, variety.wet, 16.0 if forward else 3.0 * self._scene.block) if variety.wet else None
        if not variety.night:
            return water, None
        lamp = drawn_lamp(rng, forward)
        self._sensor = dataclasses.replace(self._sensor, noise=self._sensor.noise * np.float32(lamp.noise))
        return water, lamp

    def _camera(self, seconds: float) -> Camera:
        scene, base = self._scene, self._scene.camera
        slow, quick = np.sin(self._phases + np.array([0.9, 7.0]) * seconds).T * scene.sway
        if scene.view == "forward":  # small sideways drift in the lane; the suspension adds the rest
            return dataclasses.replace(
                base, y=base.y + scene.speed * seconds, x=base.x + 0.06 * slow[0], pitch=base.pitch + 0.002 * quick[1],
                roll=base.roll + 0.002 * quick[2], yaw=base.yaw + 0.003 * slow[3],
            )  # fmt: skip
        return dataclasses.replace(
            base, y=base.y + scene.speed * seconds, x=base.x + 0.02 * scene.block * slow[0],
            pitch=base.pitch + 0.004 * slow[1], yaw=base.yaw + 0.02 * slow[3], above=base.above * (1 + 0.01 * slow[2]),
        )  # fmt: skip

    def _painted(self, camera: Camera) -> tuple[Floats, NDArray[np.bool_]]:
        height, width, scene = self._height, self._width, self._scene
        grain = self._grain.seen(camera, self._bands, height, width)
        soil = self._soil.seen(camera, self._bands, height, width)
        picture = np.asarray(cv2.multiply(grain, soil, scale=1 / ground.GRAIN_MEAN, dtype=cv2.CV_32F), np.float32)
        near, far = self._stretch(camera)
        blocks = [self._block(n) for n in range(int(near // scene.block - REACH), int(far // scene.block) + 1)]
        areas = [area for block in blocks for area in block.areas]
        below = [area for area in areas if not area.above]
        for area in [*below, *lane_marks(scene.marks, near, near + _FARTHEST_MARK)]:
            lay(picture, grain, area, camera)
        mask = self._cracked(picture, grain, camera, blocks, (near, far))
        for area in (area for area in areas if area.above):
            lay(picture, grain, area, camera)
            if area.paint and (found := covering(area.outlines, camera, height, width)):
                mask[found[0]] &= found[1] < 0.5
        if self._water:
            self._water.lay(picture, mask, camera, self._bands)
        if self._beside:
            self._beside.lay(picture, mask, camera, self._bands, near)
        return picture, mask

    def _cracked(
        self,
        picture: Floats,
        grain: NDArray[np.uint8],
        camera: Camera,
        blocks: list[Block],
        stretch: tuple[float, float],
    ) -> NDArray[np.bool_]:
        """Draw cracks and other dark lines into the picture; returns the crack mask."""
        size, scene = (self._height, self._width), self._scene
        cracks = projected(Strokes.joined([block.cracks for block in blocks]), camera, *size)
        others = [block.lines for block in blocks]
        lines = projected(Strokes.joined([*others, joints(scene, *stretch)]), camera, *size)
        dark = shade(cracks + lines, *size)
        rows = np.flatnonzero(dark.any(axis=1))
        if not len(rows):
            return np.zeros(size, np.bool_)
        used = slice(int(rows[0]), int(rows[-1]) + 1)
        # A bright stone on the edge of a crack stays bright.
        rough = grain[used, :, 1].astype(np.float32) * np.float32(2.0 / 128) - np.float32(2.0)
        taken = dark[used].astype(np.float32) * np.clip(1.0 - rough, 0.55, 1.15) * np.float32(1 / 255)
        left = 1.0 - np.minimum(taken, 0.97)
        if self._rim[2]:  # the lip that faces the sun is brighter than the road
            down, right, gain = self._rim
            left *= 1.0 + gain * np.maximum(np.roll(taken, (down, right), (0, 1)) - taken, 0.0)
        if scene.variety.drying and (wet := shade(cracks, *size)[used]).any():
            left *= damp_beside(wet, self._damp, np.random.default_rng((self._seed, STREAM, 1)))
        picture[used] *= left[..., None]
        return label(cracks, *size)

    def _stretch(self, camera: Camera) -> tuple[float, float]:
        """The stretch of road, (near, far) in metres, on which the camera sees cracks."""
        bottom, top = self._height - 1.0, float(self._bands[0].top)
        columns = np.array([0.0, 0.5, 1.0, 0.0, 0.5, 1.0]) * (self._width - 1)
        y = ground_at(camera, columns, np.array([bottom, bottom, bottom, top, top, top]))[:, 1]
        near, far = float(np.nanmin(y)), float(np.nanmax(y))
        return near - 0.3, min(far + 0.3, near + _FARTHEST_CRACK)

    def _block(self, number: int) -> Block:
        if number not in self._blocks:
            self._blocks[number] = drawn_block(self._seed, self._scene, number)
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return self._blocks[number]


def rendered_frame(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Render a single frame, drawn entirely from the seed, as training uses it.

    Returns, like RenderedRoad.frame, an image, uint8 (height, width, 3) BGR, and its crack mask, bool (height, width).
    Raises SpecError as RenderedRoad does.
    """
    return RenderedRoad(seed, height, width).frame(0)


def _check(seed: int, height: int, width: int, view: str, surface: str) -> None:
    for name, value, least in (("seed", seed, 0), ("height", height, SMALLEST_SIDE), ("width", width, SMALLEST_SIDE)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SpecError(f"wanted a {name} that is a whole number from {least} on, got {value!r}")
    for name, choice, known in (("view", view, VIEWS), ("surface", surface, SURFACES)):
        if choice not in (*known, "any"):
            raise SpecError(f"wanted a {name} that is one of {', '.join((*known, 'any'))}, got {choice!r}")


def _grain(rng: np.random.Generator, scene: Scene, width: int) -> ground.GroundTexture:
    side = 384 if width <= 640 else 512
    texel = scene.pixel
    if scene.surface == "asphalt":
        tile = ground.asphalt_grain(rng, side, texel, scene.variety.coarser)
    else:
        tile = ground.concrete_grain(rng, side, texel, scene.variety.grooves)
    return ground.GroundTexture(tile, (texel, texel))


def _rim(rng: np.random.Generator) -> tuple[int, int, np.float32]:
    """How the lip of a crack catches the light: (rows, columns) from the crack, and gain, 0 under a dull sky."""
    down, right = (int(v) for v in rng.integers(-1, 2, 2))
    gain = rng.uniform(0.1, 0.45) if rng.random() < 0.4 and (down or right) else 0.0
    return down, right, np.float32(gain)


def _soil(rng: np.random.Generator, scene: Scene) -> tuple[ground.GroundTexture, float]:
    """The road's colour texture, around 128, and its brightness relative to that."""
    forward = scene.view == "forward"
    long = 24.0 if forward else 2.5 * scene.block
    tracks: list[tuple[float, float, float]] = []
    if forward:
        change = rng.normal(0.0, 0.10)
        for lane in (0.0, -3.5, 3.5):
            tracks += [(lane + side * 0.85, rng.uniform(0.25, 0.5), change) for side in (-1, 1)]
            tracks.append((lane, rng.uniform(0.2, 0.5), rng.normal(-0.03, 0.05)))
    tint = rng.normal(0.0, 0.03) if scene.surface == "asphalt" else rng.normal(0.03, 0.05)
    colour = 128.0 * np.array([1.0 - tint, 1.0, 1.0 + tint])
    unrest = rng.uniform(0.02, 0.08) if scene.surface == "asphalt" else rng.uniform(0.03, 0.08 if forward else 0.15)
    tile = ground.road_soil(rng, colour, unrest, tracks, long)
    if scene.surface == "concrete":
        tile = ground.weathered(rng, tile, rng.uniform(0.0, 0.4) if forward else rng.uniform(0.0, 1.0))
    brightness = rng.uniform(0.6, 1.25) if scene.surface == "asphalt" else rng.uniform(0.6, 1.35)
    return ground.GroundTexture(tile, (long / ground.SOIL_SIDE,) * 2), brightness
