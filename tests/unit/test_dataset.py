"""Files that are whole or not there, images of every kind, and labelled folders."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecrack.dataset import masks_beside, open_dataset, open_labelled
from edgecrack.errors import FrameError, SourceError
from edgecrack.files import atomic_path, write_atomic
from edgecrack.images import IMAGE_SUFFIXES, list_images, read_image, read_mask, write_image

Pixels = NDArray[np.uint8]

# What stands for a full disk: no file may grow past 4096 bytes. The limit is the whole process's, hence a child.
CHILD = """
import resource, sys
from edgecrack.errors import SourceError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    {write}
except SourceError as error:
    print(error)
"""


def photo(height: int = 40, width: int = 60) -> Pixels:
    """Colours that differ by channel, by row and by column, and are smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([20 + x * 3, 40 + y * 4, 200 - x * 2], 2).astype(np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a data set of four frames; frame i is i everywhere, its mask one row."""

    def make(name: str = "walls", masks: bool = True, **lists: str) -> Path:
        root = tmp_path / name
        for index in range(4):
            image, mask = np.full((8, 10, 3), index, np.uint8), np.zeros((8, 10), np.uint8)
            mask[index] = 255
            write_image(root / "images" / f"{index}.jpg", image)
            if masks:
                write_image(root / "masks" / f"{index}.png", mask)
        for split, text in lists.items():
            (root / f"{split}.txt").write_text(text)
        return root

    return make


@pytest.mark.parametrize(("data", "stored"), [("schön\n", "schön\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_text_and_bytes_are_written_into_folders_that_were_missing(
    tmp_path: Path, data: str | bytes, stored: bytes
) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, data)
    assert path.read_bytes() == stored
    assert names(path.parent) == ["c.txt"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.fp16.onnx"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path  # a rename is atomic within one file system only
        assert temporary.suffix == ".onnx"  # many libraries choose the format by it
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(SourceError if error is OSError else error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == [path.name]


def test_a_result_has_the_mode_that_any_new_file_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "umask", None)  # it is the process's: two threads that ask for it may leave it at 0
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.unlink()
        temporary.touch(0o600)  # as a library may
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_or_a_file_in_the_way_is_one_line_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "result", tmp_path / "taken", tmp_path / ("long" * 64), Path("/")):
        with pytest.raises(SourceError, match="cannot write") as caught:
            write_atomic(path, "data")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"
    assert names(tmp_path) == ["file", "taken"]


@pytest.mark.parametrize(
    "write",
    [
        "from edgecrack.files import write_atomic; write_atomic(sys.argv[1], b'0' * 10000)",
        "import numpy; from edgecrack.images import write_image; "
        "write_image(sys.argv[1] + '.bmp', numpy.zeros((99, 99, 3), 'uint8'))",
    ],
    ids=["bytes", "image"],
)
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path: Path, write: str) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    program = [sys.executable, "-c", CHILD.format(write=write), str(path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}")
    assert done.stdout.count("\n") == 1
    assert path.read_text() == "old"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_lossless_formats_come_back_as_they_were_in_bgr(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    write_image(path, photo())
    assert np.array_equal(read_image(path), photo())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_come_back_nearly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo{suffix}"
    write_image(path, photo())
    assert np.abs(read_image(path).astype(int) - photo()).mean() < 3


def test_a_grey_image_gets_three_equal_channels_and_alpha_is_dropped(tmp_path: Path) -> None:
    grey, alpha = photo()[:, :, 0], np.dstack([photo(), np.full((40, 60), 7, np.uint8)])
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "alpha.png"), alpha)
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))
    assert np.array_equal(read_image(tmp_path / "alpha.png"), photo())


@pytest.mark.parametrize("pixels", [np.ones((4, 4), "u2"), np.ones((4, 4, 3), "u2"), np.ones((4, 4, 3), "f4")])
def test_more_than_8_bits_a_channel_are_refused_by_name(tmp_path: Path, pixels: NDArray[Any]) -> None:
    path = tmp_path / "deep.tif"
    cv2.imwrite(str(path), pixels)
    with pytest.raises(FrameError, match=rf"deep.tif has {pixels.dtype} pixels, wanted 8 bits"):
        read_image(path)


def test_the_rotation_tag_of_a_camera_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    write_image(path, photo())
    upright = read_image(path)
    # EXIF with one entry: orientation (0x0112), a short, 6 = turn it clockwise to see it upright
    tags = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + data[2:])
    assert np.array_equal(read_image(path), np.rot90(upright, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_image_is_refused_with_its_path(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=f"cut{suffix} is not an image, or is truncated"):
        read_image(path)
    with pytest.raises(SourceError, match="truncated"):
        read_mask(path)


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_is_whole_where_its_own_end_is_there(tmp_path: Path, progressive: int) -> None:
    path = tmp_path / "phone.jpg"
    data = cv2.imencode(".jpg", photo(), [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    thumbnail = cv2.imencode(".jpg", photo()[:8, :8])[1].tobytes()
    head = (
        data[:2] + b"\xff\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    )  # with a byte of filling
    path.write_bytes(head + b"a film\xff\xda that moves")
    assert np.abs(read_image(path).astype(int) - photo()).mean() < 3
    path.write_bytes(head[:-2])
    with pytest.raises(SourceError, match="truncated"):
        read_image(path)


def test_a_missing_file_a_folder_and_junk_are_refused_with_their_path(tmp_path: Path) -> None:
    (tmp_path / "junk.png").write_text("not an image at all" * 9)
    for path, said in (
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "junk.png", "not"),
    ):
        with pytest.raises(SourceError, match=said) as caught:
            read_image(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(("level", "crack"), [(0, False), (2, False), (127, False), (128, True), (255, True)])
def test_a_mask_is_crack_above_127(tmp_path: Path, level: int, crack: bool) -> None:
    path = tmp_path / "mask.png"
    write_image(path, np.full((3, 5), level, np.uint8))
    mask = read_mask(path)
    assert mask.dtype == np.bool_
    assert mask.shape == (3, 5)
    assert mask.all() == mask.any() == crack


@pytest.mark.parametrize("name", ["photo.xyz", "photo.txt"])
def test_a_suffix_that_is_no_image_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="no image format"):
        write_image(tmp_path / name, photo())
    assert not names(tmp_path)


def test_images_are_listed_by_name_and_nothing_else_is(tmp_path: Path) -> None:
    images = sorted(f"{index}{suffix.upper() if index % 2 else suffix}" for index, suffix in enumerate(IMAGE_SUFFIXES))
    for name in [*images, "notes.txt", "0"]:
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == images


def test_no_folder_and_no_image_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folder"):
        list_images(tmp_path / "none")
    with pytest.raises(SourceError, match="too long"):
        list_images(tmp_path / ("long" * 64))
    with pytest.raises(SourceError, match=r"no image in .*\.bmp, \.jpeg, \.jpg"):
        list_images(tmp_path)


def test_a_data_set_pairs_images_and_masks_by_stem(folder: Callable[..., Path]) -> None:
    dataset = open_dataset(folder())
    assert (dataset.name, len(dataset), dataset.has_masks) == ("walls", 4, True)
    for index, frame in enumerate(dataset):
        assert frame.name == str(index)
        assert (frame.image == index).all()
        assert frame.mask is not None
        assert np.flatnonzero(frame.mask.any(1)).tolist() == [index]


def test_a_split_is_a_list_of_stems_in_its_order(folder: Callable[..., Path]) -> None:
    root = folder(train="2\n0\n", test="3\n")
    assert [frame.name for frame in open_dataset(root, "train")] == ["2", "0"]
    assert [frame.name for frame in open_dataset(root, "test")] == ["3"]
    assert len(open_dataset(root)) == 4


def test_a_folder_without_lists_is_all_of_every_split(folder: Callable[..., Path]) -> None:
    assert len(open_dataset(folder(), "train")) == 4


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({"test": "0"}, r"has no train.txt; its lists are \['test.txt'\]"),
        ({"train": "0 9"}, "lists '9'"),
        ({"train": " \n"}, "lists no frame"),
    ],
)
def test_a_list_that_is_missing_wrong_or_empty_is_named(
    folder: Callable[..., Path], lists: dict[str, str], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        open_dataset(folder(**lists), "train")


def test_a_folder_of_images_alone_is_a_data_set_without_labels(folder: Callable[..., Path]) -> None:
    for dataset in (open_dataset(folder(masks=False)), open_dataset(folder("bare", masks=False) / "images")):
        assert not dataset.has_masks
        assert [frame.mask for frame in dataset] == [None] * 4


def test_a_missing_mask_is_named_before_any_frame_is_read(folder: Callable[..., Path]) -> None:
    root = folder(train="0 1", test="2")
    (root / "masks" / "2.png").unlink()
    with pytest.raises(SourceError, match=r"masks/2\.png"):
        open_dataset(root)
    with pytest.raises(SourceError, match=r"masks/2\.png"):
        open_dataset(root, "test")
    assert len(open_dataset(root, "train")) == 2


def test_a_mask_of_another_size_and_a_frame_that_cannot_be_read_are_named(folder: Callable[..., Path]) -> None:
    root = folder()
    write_image(root / "masks" / "1.png", np.zeros((8, 9), np.uint8))
    (root / "images" / "2.jpg").write_bytes(b"\xff\xd8")
    dataset = open_dataset(root)
    with pytest.raises(FrameError, match=r"masks/1\.png is 9x8, its image is 10x8"):
        dataset[1]
    with pytest.raises(SourceError, match=r"2\.jpg"):
        dataset[2]
    assert dataset[3].name == "3"


def test_no_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no data set folder"):
        open_dataset(tmp_path / "none")


def test_a_clip_wants_a_mask_for_each_frame(tmp_path: Path) -> None:
    clip = tmp_path / "road.mp4"
    video = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for index in range(4):
        video.write(photo(48, 64))
        write_image(masks_beside(clip) / f"{index:06}.png", np.zeros((48, 64), np.uint8))
    video.release()
    assert [frame.name for frame in open_labelled(clip)] == [f"{index:06}" for index in range(4)]
    (masks_beside(clip) / "000001.png").unlink()
    with pytest.raises(SourceError, match=r"road\.masks has no mask 000001\.png; wanted one for each frame"):
        list(open_labelled(clip))


def test_every_takes_images_with_their_masks_from_the_first(folder: Callable[..., Path]) -> None:
    for root in (folder(), folder("bare", masks=False)):
        assert [frame.name for frame in open_dataset(root).every(3)] == ["0", "3"]
    assert [(f.mask[int(f.name)]).all() for f in open_dataset(folder()).every(3) if f.mask is not None] == [True, True]
