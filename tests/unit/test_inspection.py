"""What `edgecrack data check` finds: each way to spoil a data set, on frames that are fine without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edgecrack.cli import app
from edgecrack.errors import SourceError
from edgecrack.files import write_atomic
from edgecrack.images import read_grey, read_image, read_mask, write_image
from edgecrack.inspection import Inspection, inspect
from edgecrack.inspection.alignment import shift_of
from edgecrack.inspection.frames import _width
from edgecrack.inspection.likeness import LIKE, alike, waves_of
from edgecrack.rendering import rendered_frame

Pixels = NDArray[np.uint8]
COUNT = 6


@pytest.fixture(scope="module")
def roads() -> list[tuple[Pixels, NDArray[np.bool_]]]:
    """Frames with cracks that can be seen."""
    found = []
    for seed in range(200):
        image, mask = rendered_frame(seed, 200, 260)
        shift = shift_of(image, mask) if mask.mean() > 0.01 else None
        if shift is not None and not shift.distance:
            found.append((image, mask))
        if len(found) == COUNT:
            return found
    raise AssertionError("no roads")


@pytest.fixture
def walls(tmp_path: Path, roads: list[tuple[Pixels, NDArray[np.bool_]]]) -> Path:
    """A data set that is fine: four frames to train on, two to test."""
    root = tmp_path / "walls"
    for index, (image, mask) in enumerate(roads):
        write_image(root / "images" / f"{index}.png", image)
        write_image(root / "masks" / f"{index}.png", mask.astype(np.uint8) * 255)
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "test.txt").write_text("4\n5\n")
    return root


def kinds(found: Inspection) -> dict[str, int]:
    return {kind: len(problems) for kind, problems in found.by_kind.items()}


def test_a_data_set_that_is_fine_has_no_problem(walls: Path) -> None:
    found = inspect(walls)
    assert (kinds(found), found.ruins) == ({}, False)
    about = found.to_json()
    assert {split: part["frames"] for split, part in about["splits"].items()} == {"train": 4, "test": 2}
    shares = [read_mask(path).mean() for path in sorted((walls / "masks").iterdir())]
    assert about["splits"]["train"]["crack_share"] == pytest.approx(np.mean(shares[:4]))
    assert about["splits"]["train"]["sizes"] == {"260x200": 4}
    assert about["splits"]["train"]["alignment_told"] == 4
    assert 1.0 < about["splits"]["train"]["crack_width"] < 10.0


def masks_of(walls: Path) -> list[Path]:
    return sorted((walls / "masks").iterdir())


def remove_a_mask(walls: Path) -> None:
    masks_of(walls)[1].unlink()


def cut_an_image(walls: Path) -> None:
    path = walls / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:400])


def shrink_a_mask(walls: Path) -> None:
    mask = read_grey(masks_of(walls)[0])
    write_image(masks_of(walls)[0], mask[:100])


def darken(walls: Path) -> None:
    for path in masks_of(walls):
        write_image(path, np.where(read_grey(path) > 0, 38, 0).astype(np.uint8))


def invert(walls: Path) -> None:
    for path in masks_of(walls):
        write_image(path, 255 - read_grey(path))


def shift(walls: Path) -> None:
    for path in masks_of(walls):
        write_image(path, np.roll(read_grey(path), (7, -6), (0, 1)))


def empty_all(walls: Path) -> None:
    for path in masks_of(walls):
        write_image(path, np.zeros_like(read_grey(path)))


def empty_one(walls: Path) -> None:
    write_image(masks_of(walls)[0], np.zeros_like(read_grey(masks_of(walls)[0])))


def through_jpeg(walls: Path) -> None:
    for path in masks_of(walls):
        write_image(path.with_suffix(".jpg"), read_grey(path))
        path.unlink()


def through_jpeg_to_png(walls: Path) -> None:
    for path in masks_of(walls):
        _, data = cv2.imencode(".jpg", read_grey(path))
        write_image(path, np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8))


def smooth(walls: Path) -> None:
    for path in masks_of(walls):
        mask = read_grey(path)
        mask[np.roll(mask, 1, 0) > mask] = 128
        write_image(path, mask)


def copy_across(walls: Path) -> None:
    """Frame 0 comes back in the test list mirrored, smaller, brighter and compressed."""
    image = read_image(walls / "images" / "0.png")[:, ::-1]
    small = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    (walls / "images" / "5.png").unlink()
    write_image(walls / "images" / "5.jpg", cv2.convertScaleAbs(small, alpha=1.1, beta=8).astype(np.uint8))
    mask = read_grey(walls / "masks" / "0.png")[:, ::-1]
    small_mask = cv2.resize(mask, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_NEAREST)
    write_image(walls / "masks" / "5.png", np.asarray(small_mask, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "wanted", "ruins"),
    [
        (remove_a_mask, {"unpaired": 1}, True),
        (cut_an_image, {"unreadable": 1}, True),
        (shrink_a_mask, {"size differs": 1}, True),
        (darken, {"read as empty": 6, "no crack": 1}, True),
        (invert, {"inverted": 6}, True),
        (shift, {"shifted": 6}, True),
        (empty_all, {"empty": 6, "no crack": 1}, True),
        (empty_one, {"empty": 1}, False),
        (through_jpeg, {"was JPEG": 6}, False),
        (through_jpeg_to_png, {"was JPEG": 6}, False),
        (smooth, {"not binary": 6}, False),
        (copy_across, {"in two splits": 1}, True),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(
    walls: Path, spoil: Callable[[Path], None], wanted: dict[str, int], ruins: bool
) -> None:
    spoil(walls)
    found = inspect(walls)
    assert (kinds(found), found.ruins) == (wanted, ruins)


def test_the_way_of_a_shift_is_told(roads: list[tuple[Pixels, NDArray[np.bool_]]]) -> None:
    """The mask was moved 7 down and 6 left: the cracks lie 7 up and 6 right of it, as far as they do not run straight."""
    ways = [shift_of(image, np.roll(mask, (7, -6), (0, 1))) for image, mask in roads]
    assert np.median([way.right for way in ways if way]) == pytest.approx(6, abs=2)
    assert np.median([way.down for way in ways if way]) == pytest.approx(-7, abs=2)
    assert any("px right and" in str(way) and str(way).endswith("px up") for way in ways)


@pytest.mark.parametrize("by", [6, 10, 14])
def test_a_mask_that_is_moved_back_by_the_shift_that_is_told_fits(by: int) -> None:
    """Of a wide crack too, which looks about as dark some pixels before its place."""
    rng = np.random.default_rng(0)
    along = np.linspace(0, 1, 40)
    way = np.stack([80 + 640 * along, 160 + 400 * along + 24 * np.sin(40 * along)], 1)
    drawn = np.zeros((800, 800), np.uint8)
    cv2.polylines(drawn, [way.astype(np.int32)], False, (1,), 5)
    image = rng.normal(140, 6, (800, 800, 3))
    image[drawn > 0] = 60
    shift = shift_of(image.clip(0, 255).astype(np.uint8), np.roll(drawn, (by, by), (0, 1)) > 0)
    assert shift is not None
    assert (shift.right, shift.down) == pytest.approx((-by, -by), abs=1)


def test_a_width_is_that_of_the_crack_however_much_dust_lies_about() -> None:
    mask = np.zeros((500, 500), np.bool_)
    mask[100:103, 50:450] = True
    alone = _width(mask)
    mask[200:400:10, 50:450:20] = True
    assert _width(mask) == pytest.approx(alone)
    assert _width(mask[150:]) == 1
    assert _width(mask[420:]) == 0


def test_a_split_does_not_want_the_masks_of_another(walls: Path) -> None:
    """In CrackTree's layout, whose lists part one folder."""
    (walls / "images").rename(walls / "cracktree200rgb")
    (walls / "masks").rename(walls / "cracktree200_gt")
    assert kinds(inspect(walls)) == {}
    write_image(walls / "cracktree200_gt" / "nobody.png", read_grey(walls / "cracktree200_gt" / "0.png"))
    assert kinds(inspect(walls)) == {"without image": 1}


def test_nothing_is_said_of_a_mask_where_no_crack_can_be_seen() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    mask = np.zeros((200, 200), np.bool_)
    mask[100, 20:180] = True
    assert shift_of(noise, mask) is None
    assert shift_of(noise[:30, :30], mask[85:115, 85:115]) is None
    assert shift_of(noise, np.zeros_like(mask)) is None


@pytest.mark.parametrize("turn", range(8))
def test_a_picture_is_like_itself_however_turned_and_not_like_another(
    roads: list[tuple[Pixels, NDArray[np.bool_]]], turn: int
) -> None:
    waves = [waves_of(image) for image, _ in roads]
    square = cv2.resize(roads[2][0], (200, 200)).astype(np.uint8)
    turned = np.rot90(square, turn % 4)
    if turn >= 4:
        turned = turned[:, ::-1]
    assert alike([waves_of(np.ascontiguousarray(turned))], waves) == [(0, 2)]
    assert alike(waves[:2], waves[3:]) == []
    assert LIKE < 0.2


def test_a_data_set_without_splits_has_its_copies_told(walls: Path) -> None:
    for split in ("train", "test"):
        (walls / f"{split}.txt").unlink()
    write_image(walls / "images" / "6.jpg", read_image(walls / "images" / "3.png"))
    write_image(walls / "masks" / "6.png", read_grey(walls / "masks" / "3.png"))
    write_image(walls / "masks" / "7.png", read_grey(walls / "masks" / "3.png"))
    found = inspect(walls)
    assert kinds(found) == {"twice": 1, "without image": 1}
    assert [path.name for path in found.by_kind["twice"][0].files] == ["3.png", "6.jpg"]
    assert list(found.to_json()["splits"]) == ["all"]


def test_of_many_pictures_that_are_all_alike_each_is_named_once(walls: Path) -> None:
    for split in ("train", "test"):
        (walls / f"{split}.txt").unlink()
    for index in range(90, 95):
        write_image(walls / "images" / f"{index}.png", read_image(walls / "images" / "3.png"))
        write_image(walls / "masks" / f"{index}.png", read_grey(walls / "masks" / "3.png"))
    found = inspect(walls).by_kind["twice"]
    assert [[path.name for path in problem.files] for problem in found] == [
        ["3.png", f"{index}.png"] for index in range(90, 95)
    ]


def test_a_name_that_is_not_utf_8_has_a_place_in_the_montage_and_the_report(walls: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"ri\xdf")
    for name in ("train.txt", "test.txt"):
        (walls / name).unlink()
    for folder in ("images", "masks"):
        first = min((walls / folder).iterdir())
        first.rename(first.with_name(odd + first.suffix))
    done = subprocess.run(
        [sys.executable, "-m", "edgecrack", "data", "check", walls, "--out", tmp_path / "out"],
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    write_atomic(tmp_path / "names.csv", odd)
    assert (tmp_path / "names.csv").read_bytes() == b"ri\xdf"


def test_images_alone_can_be_looked_at(walls: Path) -> None:
    found = inspect(walls / "images")
    assert (found.labelled, found.ruins, len(found.frames)) == (False, False, COUNT)
    assert "no masks" in "\n".join(found.rows())
    with pytest.raises(SourceError, match="no data set folder"):
        inspect(walls / "none")


def test_the_command_prints_writes_and_ends_with_1_when_training_would_be_ruined(walls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["data", "check", str(walls), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "walls: images and masks, 6 frames" in done.stdout
    shift(walls)
    done = CliRunner().invoke(app, ["data", "check", str(walls), "-o", str(out), "--json"])
    assert done.exit_code == 1
    assert "would ruin training: shifted" in done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert {problem["kind"] for problem in report["problems"]} == {"shifted"}
    picture = read_image(out / "montage.jpg")
    assert picture.shape[1] == 1920
    assert picture.std() > 10


def test_the_table_names_some_files_and_counts_the_others(walls: Path) -> None:
    invert(walls)
    lines = "\n".join(inspect(walls).rows())
    assert "RUINS  6 inverted: masks in which crack and background have changed places" in lines
    assert lines.count("of its pixels are crack") == 5
    assert "and 1 more" in lines
