"""What training draws: masks that stay on their cracks, sets held apart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecrack.dataset import LabelledFrame, open_dataset
from edgecrack.errors import SourceError
from edgecrack.images import write_image
from edgecrack.rendering import DEMO_SEEDS, rendered_frame
from edgecrack.training import photometry
from edgecrack.training.augment import SCALES, STRETCH, TURN, augment, random_crop
from edgecrack.training.data import (
    Frames,
    Kept,
    RenderedFrames,
    Selected,
    hold_back,
    kept_bytes,
    open_training_sets,
    without_bad,
)
from edgecrack.training.photometry import photographed

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Listed:
    """A set that lies in memory."""

    def __init__(self, name: str, frames: Sequence[tuple[Image, Mask | None]]) -> None:
        self.name, self.frames = name, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        return LabelledFrame(f"{self.name}-{index}", *self.frames[index])


def blobs(seed: int, height: int = 200, width: int = 260) -> tuple[Image, Mask]:
    """Grey ground with bright shapes; the shapes are the mask."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((height, width), np.uint8)
    for _ in range(4):
        points = rng.integers(0, (width, height), (5, 2)).astype(np.int32)
        cv2.fillPoly(drawn, [points], 1)
    return np.repeat(np.where(drawn, 200, 60).astype(np.uint8)[:, :, None], 3, 2), drawn > 0


def blank(height: int = 40, width: int = 40) -> tuple[Image, Mask]:
    return np.full((height, width, 3), 99, np.uint8), np.zeros((height, width), np.bool_)


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


def indices(part: Selected) -> list[int]:
    return list(part.indices)


@pytest.mark.parametrize("count", [2, 3, 4, 10, 49, 50, 97, 689, 1000])
def test_what_is_held_back_is_never_trained_on_and_lies_in_blocks(count: int) -> None:
    rest, held = hold_back(Listed("set", [blank()] * count))
    assert sorted(indices(rest) + indices(held)) == list(range(count))
    assert (rest.name, held.name) == ("set", "set")
    assert 1 <= len(held) <= max(1, round(count * 0.08))  # a small set is not given away for its check
    blocks = 1 + sum(after - before > 1 for before, after in zip(indices(held)[:-1], indices(held)[1:], strict=True))
    assert blocks == (3 if count > 40 else 1)
    assert held[0].name == f"set-{indices(held)[0]}"


@pytest.mark.parametrize("cracked", [{0, 49}, {10}, {48, 49}, {8, 9, 10, 25, 41}, set(range(50))])
def test_both_parts_have_cracks_where_that_can_be(cracked: set[int]) -> None:
    frames = [blobs(1, 40, 40) if index in cracked else blank() for index in range(50)]
    rest, held = hold_back(Listed("set", frames))
    assert sorted(indices(rest) + indices(held)) == list(range(50))
    assert len(held) == 3
    assert cracked & set(indices(rest))
    assert bool(cracked & set(indices(held))) == (len(cracked) > 1)  # a single one is trained on


def test_without_a_crack_to_choose_the_threshold_by_nothing_is_trained(walls: Path) -> None:
    mask = blank(40, 50)[1]
    for index in (1, 2):
        write_image(walls / "masks" / f"{index}.png", mask.astype(np.uint8))
    with pytest.raises(SourceError, match="walls: no frame that was held back shows a crack; wanted two frames with"):
        open_training_sets([str(walls)], rendered=0)


def test_sets_of_one_name_are_told_apart_and_the_same_one_twice_is_one(walls: Path) -> None:
    shutil.copytree(walls, walls.parent / "north" / "walls")
    train, held = open_training_sets([str(walls), str(walls.parent / "north" / "walls")], rendered=0)
    assert [frames.name for frames in train] == [f"{walls.parent.name}/walls", "north/walls"]
    assert [frames.name for frames in held] == [f"{walls.parent.name}/walls", "north/walls"]
    train, _ = open_training_sets([str(walls), str(walls)], rendered=0)
    assert [frames.name for frames in train] == ["walls", "walls"]


def test_one_frame_cannot_be_trained_on_and_held_back() -> None:
    with pytest.raises(SourceError, match="has 1 frames to train on; wanted at least 2"):
        hold_back(Listed("set", [blank()]))


def test_no_seed_of_a_demo_is_drawn() -> None:
    frames = RenderedFrames(3)
    assert [frames[index].name for index in range(len(frames))] == ["seed-1000", "seed-1001", "seed-1002"]
    assert DEMO_SEEDS.stop == 1000
    image, mask = rendered_frame(1000, 512, 512)
    assert np.array_equal(frames[0].image, image)
    assert frames[0].mask is not None
    assert np.array_equal(frames[0].mask, mask)
    assert frames[1].image.shape == (512, 768, 3)
    for outside in (-1, 3):  # -1 would be the last seed of the demos
        with pytest.raises(IndexError):
            frames[outside]


@pytest.fixture
def walls(tmp_path: Path) -> Path:
    """Four frames on disk, the last of them for testing only."""
    for index in range(4):
        image, mask = blobs(index, 40, 50)
        write_image(tmp_path / "walls" / "images" / f"{index}.png", image)
        write_image(tmp_path / "walls" / "masks" / f"{index}.png", mask.astype(np.uint8) * 255)
    (tmp_path / "walls" / "train.txt").write_text("0\n1\n2\n")
    (tmp_path / "walls" / "test.txt").write_text("3\n")
    return tmp_path / "walls"


def named(sets: Sequence[Frames]) -> dict[str, list[str]]:
    return {frames.name: [frames[index].name for index in range(len(frames))] for frames in sets}


def test_training_takes_the_training_list_and_holds_a_part_of_it_back(walls: Path) -> None:
    train, held = open_training_sets([str(walls)], rendered=0)
    assert sorted(named(train)["walls"] + named(held)["walls"]) == ["0", "1", "2"]
    assert len(named(held)["walls"]) == 1


def test_rendered_roads_are_held_back_only_where_there_is_nothing_else(walls: Path) -> None:
    train, held = open_training_sets([str(walls)], rendered=4)
    assert [frames.name for frames in train] == ["walls", "rendered"]
    assert [frames.name for frames in held] == ["walls"]
    train, held = open_training_sets([], rendered=4)
    assert len(train[0]) + len(held[0]) == 4
    assert not set(named(train)["rendered"]) & set(named(held)["rendered"])


def test_nothing_to_train_on_and_no_masks_are_told_apart(walls: Path) -> None:
    with pytest.raises(SourceError, match="nothing to train on"):
        open_training_sets([], rendered=0)
    with pytest.raises(SourceError, match="images has no masks/"):
        open_training_sets([str(walls / "images")], rendered=4)


def test_frames_are_read_once_while_they_fit(walls: Path) -> None:
    size = 40 * 50 * 4
    kept = Kept(open_dataset(walls), budget=2 * size)
    before = [kept[index].image for index in range(3)]
    for path in (walls / "images").iterdir():
        path.unlink()
    assert np.array_equal(kept[0].image, before[0])
    assert np.array_equal(kept[1].image, before[1])
    with pytest.raises(SourceError, match=r"2\.png"):
        kept[2]
    assert (len(kept), kept.name) == (4, "walls")


def spoilt(walls: Path) -> dict[str, Path]:
    """Frame 0 is of another size than its mask, 1 is cut short, 2 has no mask; the list names an image that is not there."""
    write_image(walls / "masks" / "0.png", np.full((9, 50), 255, np.uint8))
    (walls / "images" / "1.png").write_bytes((walls / "images" / "1.png").read_bytes()[:300])
    (walls / "masks" / "2.png").unlink()
    (walls / "train.txt").write_text("0\n1\n2\n3\n4\n9\n")
    for index in (4,):
        image, mask = blobs(index, 40, 50)
        write_image(walls / "images" / f"{index}.png", image)
        write_image(walls / "masks" / f"{index}.png", mask.astype(np.uint8) * 255)
    return {"0": walls / "masks" / "0.png", "1": walls / "images" / "1.png"}


def test_bad_frames_are_named_and_counted_before_the_first_step(walls: Path) -> None:
    spoilt(walls)
    said: list[str] = []
    with pytest.raises(SourceError, match=r"walls: 4 of 6 frames are no use, the first: .*9.*--skip-bad"):
        open_training_sets([str(walls)], rendered=0, report=said.append)
    assert said[0] == "walls: images and masks, 4 frames to train on"
    for part in ("lists '9'", "2.png has no mask", "0.png is 50x9, its image is 50x40", "1.png is not an image"):
        assert sum(part in line for line in said) == 1, (part, said)


def test_bad_frames_can_be_left_out(walls: Path) -> None:
    spoilt(walls)
    said: list[str] = []
    train, held = open_training_sets([str(walls)], rendered=0, skip_bad=True, report=said.append)
    assert sorted(named(train)["walls"] + named(held)["walls"]) == ["3", "4"]
    assert said[-1] == "walls: 4 of 6 frames are no use and left out"


def test_a_set_without_any_crack_is_refused_or_left_out(walls: Path, tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "bare" / "images" / f"{index}.png", blank()[0])
        write_image(tmp_path / "bare" / "masks" / f"{index}.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(SourceError, match=r"bare: no mask of its 3 frames has a crack; .*--skip-bad"):
        open_training_sets([str(walls), str(tmp_path / "bare")], rendered=0)
    train, _ = open_training_sets([str(walls), str(tmp_path / "bare")], rendered=0, skip_bad=True)
    assert [frames.name for frames in train] == ["walls"]
    with pytest.raises(SourceError, match="nothing to train on"):
        open_training_sets([str(tmp_path / "bare")], rendered=0, skip_bad=True)


def test_frames_without_labels_need_no_masks(walls: Path) -> None:
    frames = open_dataset(walls / "images")
    assert without_bad(frames, skip_bad=False, labelled=False) is frames
    with pytest.raises(SourceError, match="4 of 4 frames are no use, the first: 0 has no mask"):
        without_bad(frames, skip_bad=False)


def test_the_centre_lines_of_cracktree_are_widened_by_a_pixel(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[20, 5:30] = 255
    for index in range(3):
        write_image(tmp_path / "cracktree200rgb" / f"{index}.jpg", blank()[0])
        write_image(tmp_path / "cracktree200_gt" / f"{index}.png", mask)
    train, _ = open_training_sets([str(tmp_path)], rendered=0)
    found = train[0][0].mask
    assert found is not None
    assert found.sum() == 3 * 27
    assert found[19:22, 4:31].all()
    plain = open_dataset(tmp_path)[0].mask  # what is scored stays as it is
    assert plain is not None
    assert plain.sum() == 25


def test_a_hundred_bad_frames_are_counted_and_not_all_named() -> None:
    said: list[str] = []
    frames = Listed("many", [(blank()[0], None)] * 100)
    with pytest.raises(SourceError, match="100 of 100"):
        without_bad(frames, skip_bad=False, report=said.append)
    assert len(said) == 20


def test_what_stays_in_memory_is_bounded_by_what_is_free() -> None:
    assert 0 < kept_bytes() <= 2 << 30
