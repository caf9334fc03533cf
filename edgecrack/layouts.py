"""Data set layouts: which mask belongs to which image, and which split they belong to."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgecrack.errors import SourceError
from edgecrack.images import is_image_name, list_images

SPLITS = ("train", "val", "test")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".mat", ".jpg", ".jpeg")  # in order of preference
# name of the layout, its folders of images and of masks
_BY_SPLIT = (
    ("DeepCrack", {split: (f"{split}_img", f"{split}_lab") for split in SPLITS}),
    ("CRACK500 without its lists", {split: (f"{split}crop", f"{split}crop") for split in SPLITS}),
    ("images and masks by split", {split: (f"{split}/images", f"{split}/masks") for split in SPLITS}),
)
_FOLDERS = (
    ("CrackForest", "image", "groundTruth"),
    ("CrackTree", "cracktree200rgb", "cracktree200_gt"),
    ("images and masks", "images", "masks"),
)


@dataclass(frozen=True)
class Pairs:
    """Images and their masks, as found on disk; no image has been read yet.

    Attributes:
        layout: description of the recognised layout.
        images: in the order of a list, or by name.
        masks: one per image; None if the data set has no masks at all.
        unpaired: images without a mask and lists that name missing files, each with a description of the problem.
        unused: masks without an image or, if a list was used, without one in that list.
    """

    layout: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    unpaired: tuple[tuple[Path, str], ...] = ()
    unused: tuple[Path, ...] = ()

    def __add__(self, other: Pairs) -> Pairs:
        masks = None if self.masks is None or other.masks is None else self.masks + other.masks
        unpaired, unused = self.unpaired + other.unpaired, self.unused + other.unused
        return Pairs(self.layout, self.images + other.images, masks, unpaired, unused)


def find_pairs(path: Path, split: str | None = None) -> Pairs:
    """Find the frames of `split` in `path`, or all of them; the layout is recognised from the folder.

    Known layouts are a CSV of `image,mask[,split]` (a file, or pairs.csv in the folder), DeepCrack, CRACK500 with or
    without its lists, `SPLIT/images` with `SPLIT/masks`, CrackForest, CrackTree, `images/` with `masks/`, and images
    only. The last four may have lists of stems `SPLIT.txt`; without lists, every split is the whole folder.
    Raises SourceError, naming what is missing or wrong.
    """
    with _readable(path):
        return _recognised(path)[1](split)


def located(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a data set; of a CSV that is a link, the link, since its rows are relative to that."""
    path = Path(path)
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def splits_of(path: Path) -> tuple[str, ...]:
    """The splits of the data set at `path`; empty if it is not divided into splits. Raises SourceError."""
    with _readable(path):
        return _recognised(path)[0]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert file system and CSV errors to SourceError: a folder without permission, a name that is too long."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise SourceError(f"{path} is no CSV of pairs: {error}") from error


def _recognised(path: Path) -> tuple[tuple[str, ...], Callable[[str | None], Pairs]]:
    """The splits of a data set and the function that finds the pairs of one of them."""
    table = path / "pairs.csv" if path.is_dir() else path
    if table.is_file() and table.suffix.lower() == ".csv":
        rows = list(_rows(table))
        named = dict.fromkeys(row["split"] for row in rows if row["split"])
        return tuple(named), partial(_from_csv, table, rows, tuple(named))
    if not path.is_dir():
        raise SourceError(f"no data set folder {path}")
    lists = tuple(split for split in SPLITS if (path / f"{split}.txt").is_file())
    if lists and _lists_pairs(path / f"{lists[0]}.txt"):
        return lists, partial(_from_lists, path, lists)
    for layout, folders in _BY_SPLIT:
        there = {split: (path / images, path / masks) for split, (images, masks) in folders.items()}
        there = {split: pair for split, pair in there.items() if pair[0].is_dir()}
        if there:
            return tuple(there), partial(_by_split, path, layout, there)
    return lists, partial(_in_one_folder, path, lists)


def _in_one_folder(path: Path, lists: tuple[str, ...], split: str | None) -> Pairs:
    for layout, images, masks in _FOLDERS:
        if (path / images).is_dir() and (path / masks).is_dir():
            return _paired(layout, *_listed(path, path / images, lists, split), path / masks)
    alone = path / "images" if (path / "images").is_dir() else path
    found, missing = _listed(path, alone, lists, split)
    return Pairs("images without masks", tuple(found), None, tuple(missing))


def _listed(
    path: Path, folder: Path, lists: tuple[str, ...], split: str | None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """The images of a split, in the order of its list, and the listed images that are missing."""
    images = list_images(folder)
    by_stem = {image.stem: image for image in images}
    if len(by_stem) < len(images):
        stem = Counter(image.stem for image in images).most_common(1)[0][0]
        raise SourceError(f"{path} has images of the same stem, {stem!r}; each wants a mask of its own")
    if split is None or not lists:
        return images, []
    if split not in lists:
        raise SourceError(f"{path} has no {split}.txt; its lists are {[f'{name}.txt' for name in lists]}")
    listing = path / f"{split}.txt"
    lines = [line.strip() for line in _text(listing).splitlines()]
    named = [stem for line in lines for stem in ([line] if line in by_stem else line.split())]  # "crack 12" is one stem
    stems = list(dict.fromkeys(named))  # a stem listed twice could end up both in training and held out
    if not stems:
        raise SourceError(f"{listing} lists no frame")
    missing = [(listing, f"lists {stem!r} and {path} has no such image") for stem in stems if stem not in by_stem]
    return [by_stem[stem] for stem in stems if stem in by_stem], missing


def _paired(layout: str, images: list[Path], wrong: list[tuple[Path, str]], folder: Path) -> Pairs:
    """Pair each image with the mask of the same stem in `folder`; `wrong` holds problems that are already known."""
    masks: dict[str, list[Path]] = {}
    own = set(images)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MASK_SUFFIXES and path.name[0] != "." and path not in own:
            masks.setdefault(path.stem, []).append(path)
    found, unpaired = [], list(wrong)
    for image in images:
        if image.stem in masks:
            found.append((image, min(masks[image.stem], key=lambda path: MASK_SUFFIXES.index(path.suffix.lower()))))
        else:
            unpaired.append(
                (image, f"has no mask {folder / image.stem}.png; wanted one of the same stem for each image")
            )
    stems = {image.stem for image in images}
    return _pairs(layout, found, unpaired, tuple(paths[0] for stem, paths in masks.items() if stem not in stems))


def _pairs(
    layout: str, found: list[tuple[Path, Path]], unpaired: list[tuple[Path, str]], unused: tuple[Path, ...] = ()
) -> Pairs:
    images, masks = tuple(image for image, _ in found), tuple(mask for _, mask in found)
    return Pairs(layout, images, masks, tuple(unpaired), unused)


def _by_split(path: Path, layout: str, there: dict[str, tuple[Path, Path]], split: str | None) -> Pairs:
    """Find pairs in data sets with separate folders for each split."""
    if split is not None and split not in there:
        raise SourceError(f"{path} has no split {split!r}; as {layout} it has {', '.join(there)}")
    parts = []
    for images, masks in [there[split]] if split else there.values():
        if not masks.is_dir():
            raise SourceError(f"no folder {masks} of the masks of {images}")
        beside = _beside(images, masks)
        if not beside:
            raise SourceError(
                f"{images} has no image but PNG, which are the masks there; wanted JPEG images beside them"
            )
        parts.append(_paired(layout, beside, [], masks))
    return _joined(parts)


def _beside(images: Path, masks: Path) -> list[Path]:
    """The images of a folder; if it also holds the masks, those are the PNG files and the images are not."""
    return [path for path in list_images(images) if images != masks or path.suffix.lower() != ".png"]


def _joined(parts: list[Pairs]) -> Pairs:
    return sum(parts[1:], parts[0])


def _lists_pairs(listing: Path) -> bool:
    """Whether a list pairs images with masks, as those of CRACK500 do."""
    first = _text(listing).strip().split("\n", 1)[0].split()
    return len(first) == 2 and all(map(is_image_name, first))


def _from_lists(path: Path, lists: tuple[str, ...], split: str | None) -> Pairs:
    if split is not None and split not in lists:
        raise SourceError(f"{path} has no {split}.txt; its lists are {[f'{name}.txt' for name in lists]}")
    return _joined([_from_list(path, path / f"{name}.txt") for name in ([split] if split else lists)])


def _from_list(path: Path, listing: Path) -> Pairs:
    rows = []
    for number, line in enumerate(_text(listing).splitlines(), 1):
        fields = line.split()
        if len(fields) not in (0, 2):
            raise SourceError(f"{listing}, line {number}: wanted an image and its mask, got {line.strip()!r}")
        if fields:
            rows.append((_inside(path, fields[0]), _inside(path, fields[1])))
    return _existing("CRACK500", listing, rows)


def _inside(path: Path, name: str) -> Path:
    """Locate a listed file; some copies of CRACK500 unpack into traincrop/traincrop."""
    direct, first = path / name, Path(name).parts[0]
    nested = path / first / name
    return nested if not direct.is_file() and nested.is_file() else direct


def _existing(layout: str, listing: Path, rows: list[tuple[Path, Path]]) -> Pairs:
    found, unpaired = [], []
    for image, mask in dict.fromkeys(rows):
        if not image.is_file():
            unpaired.append((listing, f"lists {image} and there is no such image"))
        elif not mask.is_file():
            unpaired.append((image, f"has no mask {mask}"))
        else:
            found.append((image, mask))
    return _pairs(layout, found, unpaired)


def _from_csv(table: Path, rows: list[dict[str, str]], splits: tuple[str, ...], split: str | None) -> Pairs:
    if split is not None and splits and split not in splits:
        raise SourceError(f"{table} has no row of split {split!r}; it has {', '.join(splits)}")
    chosen = [row for row in rows if split is None or not splits or row["split"] == split]
    pairs = [(table.parent / row["image"], table.parent / row["mask"]) for row in chosen]
    return _existing("CSV of pairs", table, pairs)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    """Yield the image, mask and split of each row; the split is "" if there is none."""
    reader = csv.DictReader(io.StringIO(_text(table)))
    header = [name.strip().lower() for name in reader.fieldnames or ()]
    if not {"image", "mask"} <= set(header):
        raise SourceError(f"{table}: wanted a header with image and mask (and split), got {header}")
    reader.fieldnames = header
    with_split = None
    for row in reader:
        found = {name: (row.get(name) or "").strip() for name in ("image", "mask", "split")}
        if not (found["image"] and found["mask"]):
            raise SourceError(f"{table}, line {reader.line_num}: wanted an image and its mask, got {found}")
        with_split = bool(found["split"]) if with_split is None else with_split
        if bool(found["split"]) != with_split:
            raise SourceError(f"{table}, line {reader.line_num}: wanted a split in every row or in none, got {found}")
        yield found
    if reader.line_num < 2:
        raise SourceError(f"{table} lists no frame")


def _text(path: Path) -> str:
    """Read a list or table, without the byte order mark that editors and spreadsheets may write. Raises SourceError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not text in UTF-8; save it again as UTF-8") from error
