"""Augmentation: masks that stay on their cracks, scales and turns within bounds, and light and movement as in photographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawings import Image, blank, blobs
from numpy.typing import NDArray

from edgecrack.rendering import rendered_frame
from edgecrack.training import photometry
from edgecrack.training.augment import SCALES, STRETCH, TURN, augment, random_crop
from edgecrack.training.photometry import photographed


def test_the_pixels_of_a_crop_are_those_of_the_window_of_its_mask() -> None:
    image, mask = blobs(3)
    image[:, :, 1] = mask * 255
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop, found = random_crop(image, mask, 64, rng)
        assert np.array_equal(crop[:, :, 1] > 96, found)  # one resize for both: equal to the pixel


def test_masks_stay_on_their_cracks_under_augmentation() -> None:
    agreed = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        image, mask = augment(*random_crop(*blobs(seed), 96, rng), rng)
        if 0.1 < mask.mean() < 0.9:
            grey = image.mean(2)
            bright = grey > (np.median(grey[mask]) + np.median(grey[~mask])) / 2
            agreed.append((bright & mask).sum() / (bright | mask).sum())
    assert len(agreed) > 40
    assert np.median(agreed) > 0.95
    assert np.quantile(agreed, 0.1) > 0.7  # a shadow may darken a shape as much as the ground beside it


def test_augmentation_keeps_shape_and_type_and_leaves_the_frame_alone() -> None:
    image, mask = blobs(0, 64, 64)
    before = image.copy(), mask.copy()
    seen = set()
    for seed in range(60):
        found, turned = augment(image, mask, np.random.default_rng(seed))
        assert (found.shape, turned.shape) == (image.shape, mask.shape)
        assert found.dtype == np.uint8
        assert turned.dtype == np.bool_
        seen.add(turned.tobytes())
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])
    for flipped in (mask, mask[:, ::-1], mask[::-1], np.rot90(mask)):
        assert np.ascontiguousarray(flipped).tobytes() in seen
    assert 6 <= len(seen) <= 8


def test_augmentation_changes_light_blur_noise_and_colour() -> None:
    image = np.zeros((32, 32, 3), np.uint8) + np.array([40, 120, 200], np.uint8)
    mask = np.zeros((32, 32), np.bool_)
    crops = [augment(image, mask, np.random.default_rng(seed))[0].astype(int) for seed in range(160)]
    means = [crop.mean() for crop in crops]
    assert min(means) < 60  # night
    assert np.quantile(means, 0.9) > 145
    grey = np.mean([np.ptp(crop.mean((0, 1))) < 30 for crop in crops])
    changed = np.mean([crop.std((0, 1)).max() > 0.5 for crop in crops])
    assert 0.15 < grey < 0.45
    assert 0.3 < changed < 0.7  # noise, shadows


def pictures(seed: int = 4, count: int = 300) -> tuple[Image, list[Image]]:
    image, _ = rendered_frame(seed, 96, 96)
    return image, [photographed(image, np.random.default_rng(index)) for index in range(count)]


def test_photographs_keep_shape_and_type_and_most_keep_what_they_show() -> None:
    image, found = pictures()
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(float).reshape(-1) for picture in (image, *found)]
    alike = [np.corrcoef(grey[0], other)[0, 1] for other in grey[1:] if other.std() > 0]
    assert len(alike) == len(found)
    assert np.median(alike) > 0.85
    assert np.mean(np.array(alike) > 0.3) > 0.85
    assert all(picture.shape == image.shape and picture.dtype == np.uint8 for picture in found)


def test_movement_blurs_along_the_road_and_not_across_it() -> None:
    """A dot becomes a line down the picture."""
    dot = np.full((41, 41, 3), 20, np.uint8)
    dot[20, 20] = 220
    spread = []
    for seed in range(40):
        smeared = photometry._smeared(dot, np.random.default_rng(seed))[:, :, 0] > 24
        rows, columns = np.nonzero(smeared)
        spread.append((np.ptp(rows) + 1, np.ptp(columns) + 1))
    assert {rows for rows, _ in spread} == set(range(3, photometry.LONGEST_SMEAR + 1))
    assert np.mean([columns for _, columns in spread]) < 3


def test_shadows_darken_a_part_and_never_brighten() -> None:
    bright = np.full((64, 80, 3), 200, np.uint8)
    shares = []
    for seed in range(60):
        shadowed = photometry._shadowed(bright, np.random.default_rng(seed))
        assert shadowed.max() <= 200
        shares.append((shadowed[:, :, 1] < 170).mean())
    assert np.mean([0.02 < share < 0.98 for share in shares]) > 0.8
    assert 0.2 < np.mean(shares) < 0.7


def ground() -> Image:
    """A frame in which a pixel's blue is its column and its green its row."""
    row, column = np.mgrid[0:256, 0:256].astype(np.uint8)
    return np.stack([column, row, np.zeros_like(row)], 2)


def seen(crop: Image) -> NDArray[np.float64]:
    """What a step right and a step down in the middle of a crop of `ground` are in the frame: (2, 2), each (column, row)."""
    middle, step = len(crop) // 2, len(crop) // 8
    across = crop[middle, middle + step] - crop[middle, middle - step].astype(float)
    down = crop[middle + step, middle] - crop[middle - step, middle].astype(float)
    return np.stack([across, down])[:, :2] / (2 * step)


def test_scales_cover_a_third_to_three_and_most_often_lie_near_one() -> None:
    rng = np.random.default_rng(0)
    crops = [random_crop(ground(), np.zeros((256, 256), np.bool_), 64, rng)[0] for _ in range(800)]
    scales = np.array([abs(np.linalg.det(seen(crop))) ** -0.5 for crop in crops])
    assert scales.min() == pytest.approx(SCALES[0], rel=0.2)
    assert scales.max() == pytest.approx(SCALES[1], rel=0.2)
    assert np.median(scales) == pytest.approx(1, rel=0.1)
    middle = np.mean([crop[:, :, :2].mean((0, 1)) for crop in crops], axis=0)
    assert middle == pytest.approx([127.5, 127.5], abs=6)
    assert min(crop[:, :, 0].min() for crop in crops) == 0
    assert max(crop[:, :, 1].max() for crop in crops) == 255


def test_four_in_ten_crops_are_turned_sheared_and_stretched_within_bounds() -> None:
    rng = np.random.default_rng(0)
    steps = [seen(random_crop(ground(), np.zeros((256, 256), np.bool_), 64, rng)[0]) for _ in range(400)]
    turned = [step for step in steps if abs(step[0, 1]) + abs(step[1, 0]) > 0.02 * abs(step[0, 0])]
    assert 0.3 < len(turned) / len(steps) < 0.48
    angles = np.degrees([np.arctan2(step[0, 1], step[0, 0]) for step in turned])
    assert 15 < np.abs(angles).max() < TURN + 2
    corners = np.degrees([np.arccos(a @ b / np.hypot(*a) / np.hypot(*b)) for a, b in turned])
    assert 70 < corners.min() < 86 and 94 < corners.max() < 110
    sides = np.log([np.hypot(*a) / np.hypot(*b) for a, b in turned])
    assert 0.1 < np.abs(sides).max() < np.log(STRETCH) + 0.1


def test_a_turned_view_stays_within_a_frame_that_is_large_enough() -> None:
    """A mirrored border would show as a place where the frame's columns turn back."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        crop = random_crop(ground(), np.zeros((256, 256), np.bool_), 48, rng)[0].astype(int)
        if (scale := abs(np.linalg.det(seen(crop))) ** -0.5) > 0.6:  # up to there the frame is large enough
            assert np.diff(crop[:, :, 0], axis=1).min() >= -1, scale
            assert np.diff(crop[:, :, 1], axis=0).min() >= -1, scale


def test_three_in_ten_crops_hold_a_crack_where_chance_alone_would_not() -> None:
    image, mask = blank(600, 600)
    mask[300:303, 290:310] = True
    rng = np.random.default_rng(0)
    share = np.mean([random_crop(image, mask, 32, rng)[1].any() for _ in range(400)])
    assert 0.25 < share < 0.4


@pytest.mark.parametrize(("height", "width"), [(20, 300), (16, 16), (15, 40), (5, 8), (1, 1)])
def test_a_frame_smaller_than_the_crop_is_enlarged(height: int, width: int) -> None:
    image, mask = blank(height, width)
    mask[height // 2] = True
    for seed in range(20):
        crop, found = random_crop(image, mask, 64, np.random.default_rng(seed))
        assert crop.shape == (64, 64, 3)
        assert found.shape == (64, 64)


@pytest.mark.parametrize("wide", [2, 3])
def test_a_thin_crack_survives_shrinking_and_turning(wide: int) -> None:
    image, mask = blank(512, 512)
    mask[255 : 255 + wide] = True
    rng = np.random.default_rng(1)
    kept = [random_crop(image, mask, 128, rng)[1] for _ in range(300)]
    through = [found for found in kept if found[:, 8].any() and found[:, -8].any()]  # from side to side
    assert len(through) > 100
    assert np.mean([found.any(0).mean() for found in through]) > 0.97  # unbroken


def test_a_turned_mask_lies_on_its_crack_to_a_pixel() -> None:
    image, mask = blank(400, 400)
    mask[:, 198:202] = True
    mask[198:202] = True
    image[mask] = 0
    rng = np.random.default_rng(5)
    for _ in range(100):
        crop, found = random_crop(image, mask, 96, rng)
        drawn = crop[:, :, 0] < 50  # at least half crack
        near = cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert not (drawn & ~near).any()
        near = cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert (found & ~near).mean() < 0.002
