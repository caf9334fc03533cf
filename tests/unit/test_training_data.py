"""The sets that training draws from: parts held back, rendered roads, bad frames by name, and what stays in memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from drawings import Image, Mask, blank, blobs

from edgecrack.dataset import LabelledFrame, open_dataset
from edgecrack.errors import SourceError
from edgecrack.images import write_image
from edgecrack.rendering import DEMO_SEEDS, rendered_frame
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


class Listed:
    """A set that lies in memory."""

    def __init__(self, name: str, frames: Sequence[tuple[Image, Mask | None]]) -> None:
        self.name, self.frames = name, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        return LabelledFrame(f"{self.name}-{index}", *self.frames[index])


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


def test_sets_of_one_name_in_folders_of_one_name_are_told_apart(walls: Path) -> None:
    homes = [walls.parent / side / "road" / "walls" for side in ("north", "south")]
    for home in homes:
        shutil.copytree(walls, home)
    train, _ = open_training_sets(list(map(str, homes)), rendered=0)
    assert [frames.name for frames in train] == ["north/road/walls", "south/road/walls"]


def test_a_frame_that_is_too_large_to_keep_leaves_the_room_to_others() -> None:
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (4, 90))
    kept = Kept(Listed("set", [(large, None), (small, None)]), budget=1000)
    _ = kept[0]
    assert kept[1] is kept[1]


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
