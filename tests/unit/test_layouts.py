"""The layouts that people's labelled frames come in, each made here as its authors publish it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from edgecrack.dataset import Dataset, open_dataset, read_labels
from edgecrack.errors import FrameError, SourceError
from edgecrack.images import read_mask, write_image
from edgecrack.layouts import find_pairs, splits_of

SIZE = (8, 10)


def image(path: Path, level: int = 90) -> None:
    write_image(path, np.full((*SIZE, 3), level, np.uint8))


def mask(path: Path, row: int = 3) -> None:
    write_image(path, row_of(row).astype(np.uint8) * 255)


def row_of(row: int) -> NDArray[np.bool_]:
    found = np.zeros(SIZE, np.bool_)
    found[row] = True
    return found


def crackforest(root: Path) -> None:
    """Three frames: labels 1 ground, 2 crack, 3 ground that cracks enclose, 4 crack."""
    for index in range(3):
        image(root / "image" / f"00{index}.jpg")
        labels = np.ones(SIZE, np.uint16)
        labels[index], labels[index + 2], labels[index + 3] = 2, 3, 4
        (root / "groundTruth").mkdir(exist_ok=True)
        savemat(
            root / "groundTruth" / f"00{index}.mat", {"groundTruth": {"Segmentation": labels, "Boundaries": labels > 1}}
        )


def deepcrack(root: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        for index in range(count):
            image(root / f"{split}_img" / f"{split}-{index}.jpg")
            mask(root / f"{split}_lab" / f"{split}-{index}.png", index)


def crack500(root: Path) -> None:
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        lines = []
        for index in range(count):
            stem = f"{split}crop/2016_{split}_{index}"
            image(root / f"{stem}.jpg")
            mask(root / f"{stem}.png", index)
            lines.append(f"{stem}.jpg {stem}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))


def crack500_bare(root: Path) -> None:
    crack500(root)
    for path in root.glob("*.txt"):
        path.unlink()


def crack500_nested(root: Path) -> None:
    crack500(root)
    for split in ("train", "val", "test"):
        folder = (root / f"{split}crop").rename(root / "moving")
        (root / f"{split}crop").mkdir()
        folder.rename(root / f"{split}crop" / f"{split}crop")


def cracktree(root: Path) -> None:
    for index in range(3):
        image(root / "cracktree200rgb" / f"61{index}.jpg")
        mask(root / "cracktree200_gt" / f"61{index}.png", index)


def by_split(root: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        for index in range(count):
            image(root / split / "images" / f"{split}-{index}.jpg")
            mask(root / split / "masks" / f"{split}-{index}.bmp", index)


def csv_of_pairs(root: Path) -> None:
    for index in range(3):
        image(root / "photos" / f"IMG {index}.jpg")
        mask(root / "drawn" / f"IMG {index}_mask.png", index)
    rows = [
        f"photos/IMG {index}.jpg,drawn/IMG {index}_mask.png,{'test' if index == 2 else 'train'}" for index in range(3)
    ]
    (root / "pairs.csv").write_text("\n".join(["\ufeffImage, mask,split", *rows, ""]), encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "layout", "splits"),
    [
        (crackforest, "CrackForest", {}),
        (deepcrack, "DeepCrack", {"train": 2, "test": 1}),
        (crack500, "CRACK500", {"train": 2, "val": 1, "test": 1}),
        (crack500_nested, "CRACK500", {"train": 2, "val": 1, "test": 1}),
        (crack500_bare, "CRACK500 without its lists", {"train": 2, "val": 1, "test": 1}),
        (cracktree, "CrackTree", {}),
        (by_split, "images and masks by split", {"train": 2, "test": 1}),
        (csv_of_pairs, "CSV of pairs", {"train": 2, "test": 1}),
    ],
)
def test_a_layout_is_recognised_with_its_splits_and_every_mask_is_its_images(
    tmp_path: Path, make: Callable[[Path], None], layout: str, splits: dict[str, int]
) -> None:
    make(tmp_path)
    assert splits_of(tmp_path) == tuple(splits)
    whole = open_dataset(tmp_path)
    assert (whole.name, whole.layout, len(whole)) == (tmp_path.name, layout, sum(splits.values()) or 3)
    parts = {split: open_dataset(tmp_path, split) for split in splits} or {"": whole}
    assert {split: len(part) for split, part in parts.items()} == (splits or {"": 3})
    for part in parts.values():
        for index, frame in enumerate(part):
            assert frame.mask is not None
            rows = {index, index + 3} if layout == "CrackForest" else {2 if frame.name == "IMG 2" else index}
            assert set(np.flatnonzero(frame.mask.any(1)).tolist()) == rows
            assert frame.mask.all(1).sum() == len(rows)


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    for make, said in (
        (deepcrack, "has no split 'val'; as DeepCrack it has train, test"),
        (by_split, "has no split 'val'"),
        (csv_of_pairs, r"pairs.csv has no row of split 'val'; it has train, test"),
    ):
        make(tmp_path / make.__name__)
        with pytest.raises(SourceError, match=said):
            open_dataset(tmp_path / make.__name__, "val")
    crack500(tmp_path / "c")
    (tmp_path / "c" / "val.txt").unlink()
    with pytest.raises(SourceError, match=r"has no val.txt; its lists are \['train.txt', 'test.txt'\]"):
        open_dataset(tmp_path / "c", "val")


def test_lists_of_stems_divide_crackforest_too(tmp_path: Path) -> None:
    crackforest(tmp_path)
    (tmp_path / "train.txt").write_text("002\n000\n")
    (tmp_path / "test.txt").write_text("001\n")
    assert splits_of(tmp_path) == ("train", "test")
    assert [frame.name for frame in open_dataset(tmp_path, "train")] == ["002", "000"]


def test_a_csv_may_be_named_itself_and_needs_no_split(tmp_path: Path) -> None:
    csv_of_pairs(tmp_path)
    table = tmp_path / "mine.csv"
    table.write_text("mask,image\ndrawn/IMG 0_mask.png,photos/IMG 0.jpg\n")
    for split in (None, "train", "test"):
        found = open_dataset(table, split)
        assert (found.name, [path.name for path in found.images]) == ("mine", ["IMG 0.jpg"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", r"wanted a header with image and mask \(and split\), got \['a', 'b'\]"),
        ("", "wanted a header"),
        ("image,mask\n", "lists no frame"),
        ("image,mask\na.jpg,\n", "line 2: wanted an image and its mask"),
        ("image,mask\na.jpg\n", "line 2: wanted an image and its mask"),
        ("image,mask\nno.jpg,no.png\n", r"lists .*no\.jpg and there is no such image"),
        ("image,mask,split\na.jpg,a.png,train\nb.jpg,b.png,\n", "line 3: wanted a split in every row or in none"),
        (f"image,mask\n{'a' * 300}.jpg,b.png\n", "cannot read .*: File name too long"),
        (f'image,mask\n"{"a" * 140_000}', "no CSV of pairs: field larger than field limit"),
    ],
)
def test_a_csv_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(SourceError, match=said):
        open_dataset(tmp_path)


def test_what_has_no_partner_is_counted_named_and_left_out_on_request(tmp_path: Path) -> None:
    cracktree(tmp_path)
    (tmp_path / "cracktree200_gt" / "611.png").unlink()
    (tmp_path / "cracktree200_gt" / "612.png").rename(tmp_path / "cracktree200_gt" / "612_label.png")
    pairs = find_pairs(tmp_path)
    assert [path.name for path, _ in pairs.unpaired] == ["611.jpg", "612.jpg"]
    assert [path.name for path in pairs.unused] == ["612_label.png"]
    with pytest.raises(SourceError, match=r"611\.jpg has no mask .*611\.png.*\(and 1 more like it\)"):
        open_dataset(tmp_path)
    assert [frame.name for frame in open_dataset(tmp_path, skip_unpaired=True)] == ["610"]


def test_a_list_of_pairs_names_what_is_missing_and_what_is_no_pair(tmp_path: Path) -> None:
    crack500(tmp_path)
    (tmp_path / "traincrop" / "2016_train_1.png").unlink()
    with pytest.raises(SourceError, match=r"2016_train_1\.jpg has no mask .*2016_train_1\.png"):
        open_dataset(tmp_path, "train")
    (tmp_path / "train.txt").write_text("traincrop/a.jpg traincrop/a.png\ntraincrop/b.jpg\n")
    with pytest.raises(SourceError, match=r"train\.txt, line 2: wanted an image and its mask, got 'traincrop/b\.jpg'"):
        open_dataset(tmp_path, "train")


def test_a_csv_that_is_a_link_is_that_of_the_folder_it_stands_in(tmp_path: Path) -> None:
    csv_of_pairs(tmp_path / "here")
    (tmp_path / "store").mkdir()
    (tmp_path / "here" / "pairs.csv").rename(tmp_path / "store" / "a1b2")
    (tmp_path / "here" / "pairs.csv").symlink_to(tmp_path / "store" / "a1b2")
    assert len(open_dataset(tmp_path / "here" / "pairs.csv")) == len(open_dataset(tmp_path / "here")) == 3


@pytest.mark.parametrize("name", ["train.txt", "pairs.csv"])
def test_a_list_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    cracktree(tmp_path)
    (tmp_path / name).write_bytes("image,mask\r\n".encode("utf-16"))
    with pytest.raises(SourceError, match=rf"{name} is not text in UTF-8; save it again"):
        open_dataset(tmp_path, "train")


def test_a_byte_order_mark_is_no_part_of_a_stem(tmp_path: Path) -> None:
    cracktree(tmp_path)
    (tmp_path / "train.txt").write_text("610\r\n", encoding="utf-8-sig")
    assert [path.stem for path in open_dataset(tmp_path, "train").images] == ["610"]


def test_a_mat_that_is_damaged_or_another_is_named(tmp_path: Path) -> None:
    crackforest(tmp_path)
    (tmp_path / "groundTruth" / "000.mat").write_bytes(b"MATLAB 5.0 MAT-file, but cut")
    savemat(tmp_path / "groundTruth" / "001.mat", {"other": 1})
    dataset = open_dataset(tmp_path)
    for index in (0, 1):
        with pytest.raises(SourceError, match=rf"00{index}\.mat is no \.mat with groundTruth\.Segmentation"):
            dataset[index]
    assert dataset[2].mask is not None
    with pytest.raises(SourceError, match=r"cannot read .*9\.mat"):
        read_labels(tmp_path / "9.mat")


def test_masks_of_classes_0_and_1_are_read_as_what_they_say(tmp_path: Path) -> None:
    write_image(tmp_path / "classes.png", row_of(2).astype(np.uint8))
    write_image(tmp_path / "faint.png", row_of(2).astype(np.uint8) * 2)
    write_image(tmp_path / "noise.jpg", np.ones(SIZE, np.uint8))
    assert np.array_equal(read_mask(tmp_path / "classes.png"), row_of(2))
    assert not read_mask(tmp_path / "faint.png").any()
    assert not read_mask(tmp_path / "noise.jpg").any()


@pytest.mark.parametrize(("level", "suffix"), [(1, "png"), (255, "png"), (65535, "png"), (255, "tif")])
def test_masks_of_16_bits_are_read_as_what_they_say(tmp_path: Path, level: int, suffix: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    assert cv2.imwrite(str(path), row_of(2).astype(np.uint16) * np.uint16(level))
    assert np.array_equal(read_mask(path), row_of(2))


def test_a_mask_of_floats_is_refused_by_name(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "mask.tif"), row_of(2).astype(np.float32))
    with pytest.raises(FrameError, match=r"mask\.tif has float32 pixels, wanted 8 or 16 bits"):
        read_mask(tmp_path / "mask.tif")


def test_a_stem_with_a_blank_can_be_listed(tmp_path: Path) -> None:
    for stem in ("crack 1280", "crack 640"):
        image(tmp_path / "images" / f"{stem}.jpg")
        mask(tmp_path / "masks" / f"{stem}.png")
    (tmp_path / "test.txt").write_text("\r\n crack 640 \r\ncrack 1280\n\n")
    assert [path.stem for path in open_dataset(tmp_path, "test").images] == ["crack 640", "crack 1280"]


def test_a_list_of_pairs_may_begin_with_a_blank_line(tmp_path: Path) -> None:
    crack500(tmp_path)
    listing = tmp_path / "train.txt"
    listing.write_text("\n" + listing.read_text())
    assert find_pairs(tmp_path, "train").layout == "CRACK500"


def test_a_folder_of_png_alone_is_not_taken_for_masks_without_images(tmp_path: Path) -> None:
    mask(tmp_path / "traincrop" / "1.png")
    with pytest.raises(SourceError, match="traincrop has no image but PNG, which are the masks there"):
        open_dataset(tmp_path, "train")


def test_every_nth_of_no_frame_has_masks_still(tmp_path: Path) -> None:
    assert Dataset("none", (), (), "images and masks").every(2).has_masks


def test_every_nth_frame_keeps_the_layout(tmp_path: Path) -> None:
    cracktree(tmp_path)
    found: Dataset = open_dataset(tmp_path).every(2)
    assert (found.layout, len(found)) == ("CrackTree", 2)


def test_a_frame_that_is_listed_twice_is_taken_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{name}.png").touch()
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    assert [path.stem for path in find_pairs(tmp_path, "train").images] == ["a", "b"]
    (tmp_path / "pairs.csv").write_text("image,mask\nimages/b.png,masks/b.png\n" + "images/a.png,masks/a.png\n" * 2)
    assert [path.stem for path in find_pairs(tmp_path).images] == ["b", "a"]
