"""The parameters drawn once for a whole road: surface, lanes, cracks, camera and light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecrack.rendering.camera import Camera, bands
from edgecrack.rendering.cracks import PATTERNS, WIDEST, CrackHabit
from edgecrack.rendering.variety import Variety

VIEWS = ("forward", "down", "close")
SURFACES = ("asphalt", "concrete")


@dataclass(frozen=True)
class LaneMark:
    """A painted line along the road; lengths in metres."""

    x: float
    width: float
    dash: float  # 0 for a solid line
    gap: float
    colour: tuple[float, float, float]
    wear: float


@dataclass(frozen=True)
class Scene:
    """The parameters of one road; lengths in metres."""

    view: str
    surface: str
    camera: Camera  # pose at frame 0
    speed: float  # metres per second
    sway: float  # of the camera, as a factor on its usual motion
    left: float  # edge of the road
    right: float
    block: float  # length of a block, the stretch of road that is drawn from one seed
    pixel: float  # ground under the nearest pixel
    marks: tuple[LaneMark, ...]
    slab: tuple[float, float]  # distance of joints along and across; 0 for none
    joint: tuple[float, float]  # width, and share of light absorbed
    habit: CrackHabit
    condition: float  # mean cracks per block; 0 for a road without any
    favour: tuple[float, ...]  # probability of each of PATTERNS
    clutter: float  # amount of clutter, 0..2
    shade: float  # mean shadows per block
    variety: Variety


def drawn_scene(
    rng: np.random.Generator, height: int, width: int, view: str, surface: str, variety: Variety | None = None
) -> Scene:
    """Draw a random scene for pictures of height x width pixels; `view` and `surface` may be "any"."""
    variety = variety or Variety()
    if view == "any":
        view = str(rng.choice(("forward", "down")))
        view = "close" if variety.close else view
    if surface == "any":
        surface = "concrete" if rng.random() < (0.25 if view == "forward" else 0.5) else "asphalt"
    nearest_ground = (0.08, 0.5) if view == "close" else (0.5, 3.0)
    forward = view == "forward"
    camera = _forward_camera(rng, height, width) if forward else _down_camera(rng, height, width, nearest_ground)
    nearest = bands(camera, height, width)[-1]
    pixel = float(np.sqrt(nearest.across * nearest.along))
    reach = pixel * float(np.hypot(height, width))
    left, right, marks = _lanes(rng) if forward else _field(rng, reach)
    return Scene(
        view, surface, camera,
        speed=rng.uniform(5.0, 15.0) if forward else rng.uniform(0.1, 0.5) * pixel * height,
        sway=rng.uniform(0.3, 1.5), left=left, right=right,
        block=6.0 if forward else 0.8 * reach,
        pixel=pixel, marks=marks, slab=_slab(rng, surface, view, variety),
        joint=(rng.uniform(0.003, 0.015), rng.uniform(0.15, 0.65)),
        habit=_habit(rng, pixel, forward, variety.cracks),
        condition=0.0 if rng.random() < 0.15 else float(np.exp(rng.normal(1.2 if forward else 0.75, 0.6))),
        favour=tuple(rng.dirichlet((0.8, 0.8, 0.8, 0.25, 0.6) if forward else (0.7, 0.7, 1.0, 0.2, 0.2))),
        clutter=float(rng.choice([0.2, 0.6, 1.2, 2.0])) * (0.3 if view == "close" else 1.0),  # what is large fills the view
        shade=float(rng.choice([0.0, 0.0, 0.2, 0.6])), variety=variety,
    )  # fmt: skip


def pattern(rng: np.random.Generator, scene: Scene) -> str:
    """Draw one of PATTERNS with this road's probabilities."""
    return PATTERNS[int(rng.choice(len(PATTERNS), p=np.asarray(scene.favour)))]


def _forward_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """A camera on a vehicle, 1.3 to 2.8 m up; sometimes the picture is a crop of a larger one, like training crops."""
    whole = rng.choice([1.0, 1.0, rng.uniform(1.0, 2.0)])
    tall, wide = height * whole, max(width, height * rng.uniform(1.0, 1.6)) * whole
    focal = wide * rng.uniform(0.8, 1.3)
    vanishing = tall * (rng.uniform(-0.3, 0.02) if rng.random() < 0.6 else rng.uniform(0.02, 0.33))
    pitch = float(np.arctan((tall / 2 - vanishing) / focal))
    aside = rng.uniform(-0.5, 0.5) * (wide - width)
    drop = -(tall - height) * rng.uniform(0.6, 1.0)
    return Camera(
        x=rng.normal(0.0, 0.25), y=0.0, above=rng.uniform(1.3, 2.8), pitch=pitch, roll=rng.normal(0.0, 0.008),
        yaw=rng.normal(0.0, 0.03), focal=focal, centre=(width / 2 + aside, tall / 2 + drop),
    )  # fmt: skip


def _down_camera(rng: np.random.Generator, height: int, width: int, span: tuple[float, float]) -> Camera:
    """A camera on a drone or in a hand, looking down, often tilted; `span`: (least, most) metres of ground in view."""
    ground = float(np.exp(rng.uniform(np.log(span[0]), np.log(span[1]))))
    focal = width * rng.uniform(0.8, 1.6)
    tilt = abs(rng.normal(0.0, 0.12)) if rng.random() < 0.6 else rng.uniform(0.1, 0.45)
    return Camera(
        x=0.0, y=0.0, above=ground / max(width, height) * focal, pitch=np.pi / 2 - tilt, roll=rng.normal(0.0, 0.05),
        yaw=rng.uniform(-0.4, 0.4) + float(rng.choice([0.0, 0.0, np.pi / 2])), focal=focal,
        centre=(width / 2, height / 2),
    )  # fmt: skip


def _lanes(rng: np.random.Generator) -> tuple[float, float, tuple[LaneMark, ...]]:
    lane = rng.uniform(3.0, 3.75)
    own = rng.normal(0.0, 0.2)  # centre of the vehicle's own lane
    white = tuple(float(v) for v in rng.uniform(0.8, 1.0) * np.array([228.0, 232.0, 232.0]))
    amber = (rng.uniform(20.0, 90.0), rng.uniform(140.0, 185.0), rng.uniform(205.0, 240.0))
    middle = amber if rng.random() < 0.45 else white
    wear, thick = rng.uniform(0.0, 0.9), rng.uniform(0.09, 0.16)
    side = float(rng.choice([-1.0, 1.0]))  # where the other lane is
    marks = [LaneMark(own - side * lane / 2, thick, 0.0, 0.0, (white[0], white[1], white[2]), wear)]
    centre = (middle[0], middle[1], middle[2])
    style = rng.integers(0, 4)
    if style <= 1:
        marks.append(LaneMark(own + side * lane / 2, thick, rng.uniform(2.0, 4.0), rng.uniform(3.0, 9.0), centre, wear))
    elif style == 2:
        for offset in (-thick, thick):
            marks.append(LaneMark(own + side * lane / 2 + offset, thick, 0.0, 0.0, centre, wear))
    marks.append(LaneMark(own + side * lane * 1.5, thick, 0.0, 0.0, (white[0], white[1], white[2]), wear))
    shoulder, far = rng.choice([0.3, rng.uniform(0.3, 3.0)]), rng.uniform(0.2, 3.0)
    edges = sorted((own - side * (lane / 2 + shoulder), own + side * (lane * 1.5 + far)))
    return edges[0], edges[1], tuple(marks) if rng.random() < 0.9 else ()


def _field(rng: np.random.Generator, reach: float) -> tuple[float, float, tuple[LaneMark, ...]]:
    """Ground without edges, sometimes with one painted line."""
    if rng.random() > 0.15:
        return -reach, reach, ()
    colour = (225.0, 230.0, 230.0) if rng.random() < 0.6 else (60.0, 175.0, 215.0)
    mark = LaneMark(rng.uniform(-0.4, 0.4) * reach, rng.uniform(0.08, 0.15), 0.0, 0.0, colour, rng.uniform(0.1, 1.0))
    return -reach, reach, (mark,)


def _slab(rng: np.random.Generator, surface: str, view: str, variety: Variety) -> tuple[float, float]:
    if variety.paving and view != "forward":
        return variety.paving, float(rng.choice([1.0, 1.0, 2.0])) * variety.paving
    if surface == "asphalt" or rng.random() < {"forward": 0.2, "down": 0.6, "close": 0.9}[view]:
        return 0.0, 0.0
    if view == "forward":
        return rng.uniform(3.5, 6.0), rng.choice([0.0, rng.uniform(3.0, 4.5)])
    return rng.uniform(1.0, 5.0), rng.choice([0.0, rng.uniform(1.0, 4.0)])


def _habit(rng: np.random.Generator, pixel: float, forward: bool, cracks: str) -> CrackHabit:
    typical = float(np.clip(np.exp(rng.normal(np.log(3.6 if forward else 3.0), 0.4)), 1.5, 7.0))
    strength = float(np.clip(rng.beta(1.8, 3.6 if forward else 2.6), 0.14, 0.85))
    widest = WIDEST
    if cracks == "hair":
        typical, strength = 1.0 + 0.1 * typical, max(0.2, 0.8 * strength)
    elif cracks == "wide":
        typical, strength, widest = (1.8 if forward else 4.0) * typical, 0.4 + 0.6 * strength, 40.0
    return CrackHabit(
        pixel=pixel,
        width=typical * pixel,
        widest=widest * pixel,
        strength=strength,
        roughness=rng.uniform(0.07, 0.17),
        branching=float(rng.choice([0.3, 1.0, 2.5])),
        cell=rng.uniform(0.08, 0.3) if forward else rng.uniform(35.0, 130.0) * pixel,
    )
