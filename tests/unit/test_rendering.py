"""The rendered roads: repeatable, coherent in time, and with masks that mean what they say."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgecrack.rendering
from edgecrack.errors import SpecError
from edgecrack.rendering import DEMO_SEEDS, RenderedRoad, rendered_frame
from edgecrack.rendering.camera import bands
from edgecrack.rendering.variety import Variety, drawn_variety
from edgecrack.rendering.water import Water

HEIGHT, WIDTH = 192, 256
VIEWS = ("forward", "down", "close")


@pytest.fixture(scope="module")
def frames() -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    return [rendered_frame(seed, HEIGHT, WIDTH) for seed in range(60)]


def cracked_road(view: str, least: int = 150) -> RenderedRoad:
    """The first road of this view with at least so many crack pixels in frame 0."""
    roads = (RenderedRoad(seed, HEIGHT, WIDTH, view=view) for seed in range(40))
    return next(road for road in roads if road.frame(0)[1].sum() >= least)


def test_a_frame_is_a_uint8_bgr_image_and_a_bool_mask_of_the_size_asked_for() -> None:
    for height, width in ((HEIGHT, WIDTH), (97, 61), (32, 32)):
        image, mask = rendered_frame(3, height, width)
        assert image.dtype == np.uint8 and image.shape == (height, width, 3)
        assert mask.dtype == np.bool_ and mask.shape == (height, width)


def test_equal_seeds_give_equal_bytes_and_different_seeds_do_not() -> None:
    for seed in (0, 1, 2**40):
        first, second = rendered_frame(seed, HEIGHT, WIDTH), rendered_frame(seed, HEIGHT, WIDTH)
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1].tobytes() == second[1].tobytes()
    images = {rendered_frame(seed, 64, 64)[0].tobytes() for seed in range(8)}
    assert len(images) == 8


@pytest.mark.parametrize("view", VIEWS)
def test_frames_may_be_asked_for_in_any_order(view: str) -> None:
    there, back = RenderedRoad(4, HEIGHT, WIDTH, view=view), RenderedRoad(4, HEIGHT, WIDTH, view=view)
    forwards = [there.frame(index) for index in (0, 7, 300)]
    backwards = [back.frame(index) for index in (300, 7, 0)][::-1]
    for (image, mask), (same_image, same_mask) in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(mask, same_mask)


def test_a_long_drive_keeps_no_more_blocks_than_it_needs() -> None:
    road = RenderedRoad(5, 64, 64, view="forward")
    fresh = RenderedRoad(5, 64, 64, view="forward").frame(0)[0]
    for index in range(0, 4000, 100):
        road.frame(index)
    np.testing.assert_array_equal(road.frame(0)[0], fresh)
    assert len(road._blocks) <= 48


@pytest.mark.parametrize(("seed", "width", "view"), [(5100, 32, "down"), (5030, 400, "forward")])
def test_a_crack_may_be_shorter_than_what_smooths_it(seed: int, width: int, view: str) -> None:
    image, mask = RenderedRoad(seed, 32, width, view=view).frame(0)
    assert image.shape[:2] == mask.shape == (32, width)


def test_cracks_are_darker_than_what_is_beside_them(frames: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]) -> None:
    differences = []
    for image, mask in frames:
        if mask.sum() < 60:
            continue
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        wide, close = (cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0 for side in (11, 5))
        differences.append(float(grey[wide & ~close].mean() - grey[mask].mean()))
    assert len(differences) > 20
    assert np.mean(np.array(differences) > 3.0) > 0.9
    assert 8.0 < float(np.median(differences)) < 50.0


def test_the_mask_finds_the_pixels_that_drawing_cracks_changed() -> None:
    """A road and the same road without its cracks differ at the mask and hardly anywhere else."""
    road = cracked_road("down")
    with_cracks, mask = road._painted(road._camera(0.0))
    for number, block in road._blocks.items():
        road._blocks[number] = type(block)(type(block.cracks).none(), block.lines, block.areas)
    without, empty = road._painted(road._camera(0.0))
    changed = (without - with_cracks).max(axis=2) > 0.05 * without.mean()
    near_mask = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not empty.any()
    assert changed[mask].mean() > 0.6
    assert changed[~near_mask].mean() < 0.01


def test_some_frames_have_no_crack_and_the_others_a_sane_share(
    frames: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
) -> None:
    shares = np.array([mask.mean() for _, mask in frames])
    assert 0.05 < np.mean(shares == 0) < 0.5
    assert 0.004 < np.median(shares[shares > 0]) < 0.04
    assert shares.max() < 0.25


def test_frames_differ_in_light_and_are_neither_black_nor_white(
    frames: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
) -> None:
    levels = np.array([image.mean() for image, _ in frames])
    assert levels.min() > 15
    assert levels.max() < 240
    assert levels.std() > 10
    assert min(float(image.std()) for image, _ in frames) > 2


@pytest.mark.parametrize("view", VIEWS)
def test_the_camera_moves_and_the_mask_moves_with_it(view: str) -> None:
    road = cracked_road(view)
    (first, before), (second, after) = road.frame(0), road.frame(1)
    assert (first != second).mean() > 0.2
    assert (before != after).any()
    # A crack moves by some pixels a frame: it does not jump.
    reach = cv2.dilate(before.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    inside = np.zeros_like(after)
    inside[16:-16, 16:-16] = after[16:-16, 16:-16]
    assert inside.sum() > 50
    assert reach[inside].mean() > 0.8


@pytest.mark.parametrize("view", VIEWS)
def test_far_along_the_road_there_is_other_ground(view: str) -> None:
    road = cracked_road(view)
    before, after = road.frame(0)[1], road.frame(3000)[1]
    assert (before & after).sum() < 0.5 * before.sum()


def test_rate_is_frames_a_second() -> None:
    road = RenderedRoad(6, 64, 64, view="forward")
    light_at_half_a_second = road._painted(road._camera(0.5))[0]
    np.testing.assert_array_equal(road._painted(road._camera(15 / 30.0))[0], light_at_half_a_second)
    assert (road.frame(15, 30.0)[0] != road.frame(15, 60.0)[0]).any()


def test_view_and_surface_are_what_was_asked_for_and_any_draws_both() -> None:
    for view in VIEWS:
        for surface in ("asphalt", "concrete"):
            road = RenderedRoad(7, 64, 64, view=view, surface=surface)
            assert (road.view, road.surface) == (view, surface)
    drawn = [RenderedRoad(seed, 32, 32) for seed in range(20)]
    assert {road.view for road in drawn} == set(VIEWS)
    assert {road.surface for road in drawn} == {"asphalt", "concrete"}


@pytest.mark.parametrize(
    ("arguments", "wanted", "got"),
    [
        ((-1, 64, 64), "seed", "-1"),
        ((0.5, 64, 64), "seed", "0.5"),
        ((True, 64, 64), "seed", "True"),
        ((0, 31, 64), "height", "31"),
        ((0, 64, 0), "width", "0"),
        ((0, 64, 64.0), "width", "64.0"),
    ],
)
def test_a_bad_seed_or_size_is_refused_with_what_was_wanted_and_got(
    arguments: tuple[int, int, int], wanted: str, got: str
) -> None:
    with pytest.raises(SpecError, match=f"wanted a {wanted} .* got {got}"):
        rendered_frame(*arguments)


def test_a_bad_view_surface_index_or_rate_is_refused() -> None:
    with pytest.raises(SpecError, match=r"wanted a view .*forward, down, close, any, got 'sideways'"):
        RenderedRoad(0, 64, 64, view="sideways")
    with pytest.raises(SpecError, match=r"wanted a surface .*asphalt, concrete, any, got 'gravel'"):
        RenderedRoad(0, 64, 64, surface="gravel")
    road = RenderedRoad(0, 64, 64)
    with pytest.raises(SpecError, match="got -1"):
        road.frame(-1)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SpecError, match="positive number of frames"):
            road.frame(0, rate)


def roads(special: Callable[[Variety], bool], count: int = 8, view: str = "any") -> list[RenderedRoad]:
    """The first roads with something special, and without water, since that hides cracks."""
    seeds = (seed for seed in range(5000) if special(drawn_variety(seed)) and not drawn_variety(seed).wet)
    return [RenderedRoad(seed, HEIGHT, WIDTH, view=view) for seed in itertools.islice(seeds, count)]


def width_of(mask: NDArray[np.bool_]) -> float:
    """Of its cracks in pixels: their area over half the way around them."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return float(2 * mask.sum() / sum(cv2.arcLength(outline, True) for outline in outlines))


def test_hair_cracks_are_thin_and_wide_ones_wide() -> None:
    widths = {}
    for kind in ("hair", "usual", "wide"):
        masks = [road.frame(0)[1] for road in roads(lambda variety, kind=kind: variety.cracks == kind, 16, "down")]
        widths[kind] = float(np.median([width_of(mask) for mask in masks if mask.sum() > 60]))
    assert widths["hair"] < 0.8 * widths["usual"]
    assert widths["wide"] > 1.5 * widths["usual"]


def test_at_night_most_of_the_picture_is_dark_and_a_part_is_not() -> None:
    dark = [road.frame(0)[0] for road in roads(lambda variety: variety.night)]
    day = [road.frame(0)[0] for road in roads(lambda variety: not variety.night)]
    assert np.mean([np.median(image) for image in dark]) < 0.6 * np.mean([np.median(image) for image in day])
    assert np.median([np.percentile(image, 98) / max(np.median(image), 1.0) for image in dark]) > 1.5


def test_litter_grooves_and_paving_are_no_cracks() -> None:
    for special in (lambda v: v.litter > 1, lambda v: v.grooves, lambda v: v.paving > 0):
        for road in roads(special, 4, "down"):
            before = road.frame(0)[0]
            for number, block in road._blocks.items():
                road._blocks[number] = type(block)(type(block.cracks).none(), block.lines, block.areas)
            image, mask = road.frame(0)
            assert not mask.any()
            assert image.shape == before.shape


def test_litter_changes_what_is_seen() -> None:
    shares = []
    for road in roads(lambda variety: variety.litter == 4.0, 6, "down"):
        with_litter = road._painted(road._camera(0.0))[0]
        bare = RenderedRoad(road._seed, HEIGHT, WIDTH, view="down")
        bare._scene = dataclasses.replace(bare._scene, variety=dataclasses.replace(bare._scene.variety, litter=0.0))
        without = bare._painted(bare._camera(0.0))[0]
        shares.append(float((np.abs(with_litter - without).max(axis=2) > 5).mean()))
    assert 0.0005 < np.mean(shares) < 0.1


def test_ground_beside_cracks_that_hold_water_is_dark() -> None:
    darker = []
    for road in roads(lambda variety: variety.drying and not variety.night, 8, "down"):
        wet, mask = road._painted(road._camera(0.0))
        road._scene = dataclasses.replace(road._scene, variety=dataclasses.replace(road._scene.variety, drying=False))
        dry, _ = road._painted(road._camera(0.0))
        if mask.sum() > 60:
            beside = (cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~mask
            darker.append(float(wet[beside].mean() / dry[beside].mean()))
            far = cv2.dilate(mask.astype(np.uint8), np.ones((61, 61), np.uint8)) == 0
            assert np.abs(wet[far] - dry[far]).max(initial=0.0) < 0.3 * dry.mean()
    assert darker and np.mean(darker) < 0.93


def test_water_darkens_the_ground_mirrors_the_sky_and_hides_cracks() -> None:
    camera, height, width = RenderedRoad(3, HEIGHT, WIDTH, view="forward")._camera(0.0), HEIGHT, WIDTH
    over = bands(camera, height, width)
    found = []
    for seed in range(6):
        picture, mask = np.full((height, width, 3), 120.0, np.float32), np.ones((height, width), np.bool_)
        Water(np.random.default_rng(seed), 1.0, 16.0).lay(picture, mask, camera, over)
        found.append((picture[mask].min(), picture.max(), mask.mean()))
    darkest, brightest, seen = np.array(found).T
    assert (darkest < 100).all()
    assert brightest.max() > 120
    assert 0.1 < seen.min() < 1


def test_each_part_of_a_road_has_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy takes (seed, 3) and (seed, 3, 0) for the same: what had made the night also drew its lamp."""
    keys: set[object] = set()
    default_rng = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: keys.add(key) or default_rng(key))
    for seed in (5, 21):
        RenderedRoad(seed, HEIGHT, WIDTH).frame(0)
    streams = {str(np.random.SeedSequence(key).generate_state(4)) for key in keys}  # type: ignore[arg-type]
    assert len(streams) == len(keys) > 4


def test_the_demo_seeds_are_the_first_thousand() -> None:
    assert (DEMO_SEEDS.start, DEMO_SEEDS.stop) == (0, 1000)


def test_rendering_imports_nothing_but_numpy_and_opencv() -> None:
    root = Path(edgecrack.rendering.__file__).parents[2]
    code = (
        "import sys, numpy, cv2; before = set(sys.modules); import edgecrack.rendering;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("['edgecrack']", "['edgecrack', 'numpy']")
