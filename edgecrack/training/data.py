"""Training data: labelled sets and rendered roads, with a part of each held back for validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edgecrack.dataset import Dataset, LabelledFrame, open_dataset
from edgecrack.errors import FrameError, SourceError
from edgecrack.layouts import find_pairs, located
from edgecrack.memory import available_memory
from edgecrack.rendering import DEMO_SEEDS, rendered_frame

_NAMED = 20  # bad frames that are named one by one; the others are counted


class Frames(Protocol):
    """A named sequence of labelled frames."""

    @property
    def name(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> LabelledFrame: ...


@dataclass(frozen=True)
class RenderedFrames:
    """`count` rendered roads with seeds from `first_seed` on, none of which a demo uses."""

    count: int
    first_seed: int = DEMO_SEEDS.stop
    name: str = "rendered"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledFrame:
        if not 0 <= index < self.count:  # the seed before the first belongs to a demo
            raise IndexError(index)
        seed = self.first_seed + index
        image, mask = rendered_frame(seed, *((512, 512), (512, 768))[index % 2])
        return LabelledFrame(f"seed-{seed}", image, mask)


class Kept:
    """A set that caches frames in memory once read, up to `budget` bytes; the others are read each time."""

    def __init__(self, frames: Frames, budget: int = 2 << 30) -> None:
        self.frames, self.name, self._left = frames, frames.name, budget
        self._kept: dict[int, LabelledFrame] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        if index in self._kept:
            return self._kept[index]
        frame = self.frames[index]
        size = frame.image.nbytes + (frame.mask.nbytes if frame.mask is not None else 0)
        if size <= self._left:
            self._left -= size
            self._kept[index] = frame
        return frame


@dataclass(frozen=True)
class CentreLines:
    """A set whose masks are one-pixel centre lines, dilated by a pixel, since shrinking would break them."""

    frames: Frames

    @property
    def name(self) -> str:
        return self.frames.name

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledFrame:
        frame = self.frames[index]
        if frame.mask is None:
            return frame
        wider = cv2.dilate(frame.mask.astype(np.uint8), np.ones((3, 3), np.uint8))
        return LabelledFrame(frame.name, frame.image, wider > 0)


@dataclass(frozen=True)
class Selected:
    """A subset of the frames of a set."""

    frames: Frames
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.frames.name

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.frames[self.indices[index]]


def hold_back(frames: Frames, share: float = 0.06, blocks: int = 3) -> tuple[Selected, Selected]:
    """Split a set into a training part and a held-back part.

    Whole blocks of neighbours are held back, since neighbouring frames of a drive show the same pavement; a small set
    gives fewer blocks. The blocks are shifted until both parts contain cracks, if possible: without cracks, the
    held-back part would choose a threshold that finds nothing.
    """
    count = len(frames)
    blocks = max(1, min(blocks, round(count * share)))
    size = max(1, round(count * share / blocks))
    if blocks * size >= count:
        raise SourceError(f"{frames.name} has {count} frames to train on; wanted at least {blocks * size + 1}")
    starts = [round((block + 0.5) * count / blocks) - size // 2 for block in range(blocks)]
    everything = set(range(count))
    held = {(start + index) % count for start in starts for index in range(size)}
    if not (has_crack(_part(frames, held)) and has_crack(_part(frames, everything - held))):
        cracked = {index for index in everything if has_crack(_part(frames, {index}))}
        fair = (moved for moved in _moved(held, count) if cracked & moved and cracked - moved)
        unseen = (moved for moved in _moved(held, count) if not cracked & moved)  # train on a single crack
        held = next(fair, next(unseen, held))
    return _part(frames, everything - held), _part(frames, held)


def _moved(held: set[int], count: int) -> Iterator[set[int]]:
    """The held-back indices at every circular shift."""
    return ({(index + shift) % count for index in held} for shift in range(count))


def _part(frames: Frames, indices: set[int]) -> Selected:
    return Selected(frames, tuple(sorted(indices)))


def has_crack(frames: Frames) -> bool:
    """Whether any of the frames has a crack; reads up to the first that does."""
    masks = (frames[index].mask for index in range(len(frames)))
    return any(mask is not None and bool(mask.any()) for mask in masks)


def open_training_sets(
    folders: Iterable[str],
    rendered: int,
    *,
    skip_bad: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Selected], list[Selected]]:
    """The training sets and their held-back parts; rendered roads are held back only if there is no other set.

    Every frame is read once before this returns (see `without_bad`), so that none fails hours into training. `report`
    is called with a line for each set, telling its layout, and one for each bad frame.
    Raises SourceError when a data set has no masks or (unless `skip_bad`) bad frames, or there is nothing to train on.
    """
    folders = list(folders)
    opened = _told_apart(folders, [open_dataset(folder, "train", skip_unpaired=True) for folder in folders])
    for dataset in opened:
        if not dataset.has_masks:
            raise SourceError(f"{dataset.name} has no masks/; training needs labelled frames")
    budget = kept_bytes() // max(1, len(opened) + bool(rendered))
    labelled: list[Frames] = []
    for folder, dataset in zip(folders, opened, strict=True):
        report(f"{dataset.name}: {dataset.layout}, {len(dataset)} frames to train on")
        unpaired = find_pairs(located(folder), "train").unpaired
        wrong = [f"{path} {what}" for path, what in unpaired]
        frames = CentreLines(dataset) if dataset.layout == "CrackTree" else dataset
        labelled.append(without_bad(Kept(frames, budget), wrong, skip_bad=skip_bad, report=report))
    pairs = [hold_back(frames) for frames in labelled if len(frames)]
    if rendered:
        roads = Kept(RenderedFrames(rendered), budget)
        everything, nothing = Selected(roads, tuple(range(rendered))), Selected(roads, ())
        pairs.append((everything, nothing) if pairs else hold_back(roads))
    if not pairs:
        raise SourceError("nothing to train on; give --data DIR, or --rendered N for rendered roads")
    if not any(has_crack(held) for _, held in pairs):
        raise SourceError(
            f"{', '.join(held.name for _, held in pairs)}: no frame that was held back shows a crack; wanted two frames with "
            "cracks at least, one to train on and one to choose the threshold by"
        )
    return [train for train, _ in pairs], [held for _, held in pairs if len(held)]


def _told_apart(folders: Sequence[str], opened: Sequence[Dataset]) -> list[Dataset]:
    """Prefix names that sets share with those of their parent folders, as many as it takes: scores are kept by name."""
    paths, named = [located(folder) for folder in folders], list(opened)
    for parents in range(1, max((len(path.parts) for path in paths), default=1)):
        homes: dict[str, set[Path]] = {}
        for path, one in zip(paths, named, strict=True):
            homes.setdefault(one.name, set()).add(path)
        named = [
            replace(one, name="/".join((*path.parent.parts[-parents:], own.name))) if len(homes[one.name]) > 1 else one
            for path, one, own in zip(paths, named, opened, strict=True)
        ]
    return named


def kept_bytes() -> int:
    """Bytes of all sets that may be cached: a quarter of the free memory, at most 2 GiB."""
    return min(2 << 30, (available_memory() or 4 << 30) // 4)


def without_bad(
    frames: Frames,
    wrong: Sequence[str] = (),
    *,
    skip_bad: bool,
    labelled: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> Frames:
    """The frames of a set that can be read and, if they are `labelled`, have a mask of their size.

    Every frame is read once, two at a time; a `Kept` set caches them. With `skip_bad` a labelled set without any crack
    comes back empty. `wrong` lists problems that are already known.
    Raises SourceError, with a count, for bad frames and for a labelled set without any crack, unless `skip_bad`.
    """
    pool = ThreadPoolExecutor(2)  # decoding releases the GIL
    try:
        found = list(pool.map(partial(_look_at, frames, labelled), range(len(frames))))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits only for the frames being read
    count = len(frames) + len(wrong)
    good = tuple(index for index, (said, _) in enumerate(found) if not said)
    wrong = [*wrong, *(said for said, _ in found if said)]
    for line in wrong[:_NAMED]:
        report(f"{frames.name}: {line}")
    if wrong:
        said = f"{frames.name}: {len(wrong)} of {count} frames are no use"
        if not skip_bad:
            raise SourceError(f"{said}, the first: {wrong[0]}; repair them, or leave them out with --skip-bad")
        report(f"{said} and left out")
    if labelled and not any(cracked for _, cracked in found):
        said = f"{frames.name}: no mask of its {count} frames has a crack"
        if not skip_bad:
            raise SourceError(f"{said}; see `edgecrack data check`, or leave the set out with --skip-bad")
        report(f"{said}; left out")
        return Selected(frames, ())
    return frames if len(good) == len(frames) else Selected(frames, good)


def _look_at(frames: Frames, labelled: bool, index: int) -> tuple[str, bool]:
    """(what is wrong with a frame or "", whether it has a crack)."""
    try:
        frame = frames[index]
    except (SourceError, FrameError) as error:
        return str(error), False
    if labelled and frame.mask is None:
        return f"{frame.name} has no mask", False
    return "", frame.mask is not None and bool(frame.mask.any())
