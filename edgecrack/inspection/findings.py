"""Problems of a data set, found by checking its frames one by one and against each other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edgecrack.errors import SourceError
from edgecrack.inspection.frames import Frame, look_at
from edgecrack.inspection.likeness import Waves, alike
from edgecrack.layouts import Pairs, find_pairs, located, splits_of

FEW = 0.05  # of the masks: problems of fewer than this are not blamed on the data set

# kind -> whether it ruins training, what it means
KINDS: dict[str, tuple[bool, str]] = {
    "unpaired": (True, "images without a mask, or lists that name what is not there"),
    "unreadable": (True, "files that cannot be read"),
    "size differs": (True, "masks of another size than their image"),
    "read as empty": (True, "masks whose crack is too dark to count as one"),
    "inverted": (True, "masks in which crack and background have changed places"),
    "shifted": (True, "masks that do not lie on their cracks"),
    "in two splits": (True, "pictures of the same in more than one split"),
    "no crack": (True, "no mask has a crack"),
    "was JPEG": (False, "masks that were compressed as JPEG; they are cut at 127"),
    "not binary": (False, "masks with values between background and crack; they are cut at 127"),
    "perhaps shifted": (False, f"masks that seem beside their cracks; fewer than {FEW:.0%} of those that can be told"),
    "twice": (False, "pictures of the same"),
    "empty": (False, "masks without a crack"),
    "without image": (False, "masks without an image"),
}


@dataclass(frozen=True)
class Problem:
    """One problem: its kind, the files affected and a description."""

    kind: str
    files: tuple[Path, ...]
    what: str

    @property
    def ruins(self) -> bool:
        """Whether it would ruin training."""
        return KINDS[self.kind][0]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values under stable names."""
        return {"kind": self.kind, "ruins": self.ruins, "files": [str(path) for path in self.files], "what": self.what}


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a data set."""

    name: str
    layout: str
    frames: tuple[Frame, ...]
    labelled: bool
    problems: tuple[Problem, ...]

    @property
    def ruins(self) -> bool:
        """Whether anything would ruin training."""
        return any(problem.ruins for problem in self.problems)

    @cached_property
    def by_kind(self) -> dict[str, list[Problem]]:
        """The problems by kind, the worst kind first."""
        found = {kind: [problem for problem in self.problems if problem.kind == kind] for kind in KINDS}
        return {kind: problems for kind, problems in found.items() if problems}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values under stable names."""
        splits = dict.fromkeys(frame.split for frame in self.frames)
        return {
            "dataset": self.name,
            "layout": self.layout,
            "ruins_training": self.ruins,
            "splits": {split or "all": _summary([f for f in self.frames if f.split == split]) for split in splits},
            "problems": [problem.to_json() for problem in self.problems],
        }

    def rows(self) -> list[str]:
        """The report as lines to print."""
        lines = [f"{self.name}: {self.layout}, {len(self.frames)} frames"]
        lines.append(f"  {'split':<8}{'frames':>8}{'with crack':>12}{'crack pixels':>14}{'width':>8}  sizes")
        for split, found in self.to_json()["splits"].items():
            cracked = [found[key] for key in ("with_crack", "crack_share", "crack_width")]
            told = (
                f"{cracked[0]:>12}{cracked[1]:>14.2%}{cracked[2]:>5.1f} px"
                if self.labelled
                else f"{'no masks':>12}{'':>22}"
            )
            lines.append(f"  {split:<8}{found['frames']:>8}{told}  {', '.join(found['sizes'])}")
        if self.labelled:
            told_of = sum(frame.shift is not None for frame in self.frames)
            lines.append(f"  whether masks lie on their cracks could be told of {told_of} frames")
        for kind, problems in self.by_kind.items():
            ruins, means = KINDS[kind]
            lines.append(f"  {'RUINS' if ruins else 'note '}  {len(problems)} {kind}: {means}")
            lines += [f"           {problem.files[0].name}: {problem.what}" for problem in problems[:_SHOWN]]
            if len(problems) > _SHOWN:
                lines.append(f"           and {len(problems) - _SHOWN} more")
        return lines


_SHOWN = 5
Track = Callable[[Iterable[Frame], int], Iterable[Frame]]


def inspect(path: Path, track: Track = lambda frames, _: frames) -> Inspection:
    """Inspect every frame of the data set at `path`, as many at a time as there are cores.

    `track` wraps the iterable of frames, given their count, for example in a progress bar.
    Raises SourceError if there is no data set.
    """
    path = located(path)
    splits = splits_of(path)
    parts = {split: find_pairs(path, split or None) for split in splits or ("",)}
    wanted = [frame for split, pairs in parts.items() for frame in _listed(split, pairs)]
    if not wanted and not any(pairs.unpaired for pairs in parts.values()):
        raise SourceError(f"{path} has no frames")
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        frames = tuple(track(pool.map(lambda frame: look_at(*frame), wanted), len(wanted)))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits only for the frames being read
    labelled = all(pairs.masks is not None for pairs in parts.values())
    problems = [*_of_files(parts), *_of_frames(frames), *_alike(frames)]
    if labelled and not any(frame.crack_share for frame in frames):
        problems.append(Problem("no crack", (path,), f"in {len(frames)} frames"))
    layout = next(iter(parts.values())).layout
    return Inspection(path.stem if path.is_file() else path.name, layout, frames, labelled, tuple(problems))


def _listed(split: str, pairs: Pairs) -> list[tuple[str, Path, Path | None]]:
    masks = pairs.masks or (None,) * len(pairs.images)
    return [(split, image, mask) for image, mask in zip(pairs.images, masks, strict=True)]


def _of_files(parts: dict[str, Pairs]) -> list[Problem]:
    found = [Problem("unpaired", (path,), what) for pairs in parts.values() for path, what in pairs.unpaired]
    # A list may leave out masks, and a split leaves out those of the other splits.
    if "" in parts or not any(pairs.layout == "images and masks" for pairs in parts.values()):
        unused = set.intersection(*({*pairs.unused} for pairs in parts.values()))
        found += [Problem("without image", (mask,), "no image has its name") for mask in sorted(unused)]
    return found


def _of_frames(frames: Sequence[Frame]) -> list[Problem]:
    told = sum(frame.shift is not None for frame in frames)
    few = sum("shifted" in frame.problems for frame in frames) < FEW * told
    found = []
    for frame in frames:
        for kind, what in frame.problems.items():
            found.append(Problem("perhaps shifted" if kind == "shifted" and few else kind, _files(frame, kind), what))
    return found


def _files(frame: Frame, kind: str) -> tuple[Path, ...]:
    """The image of a frame and its mask; the mask first if the problem is in it."""
    files = tuple(path for path in (frame.image, frame.mask) if path)
    return files[::-1] if kind in ("was JPEG", "not binary", "read as empty") else files


def _alike(frames: Sequence[Frame]) -> list[Problem]:
    """Near-duplicate images: in two splits, or twice in a data set without splits."""
    seen: dict[str, list[tuple[Path, Waves]]] = {}
    for frame in frames:
        if frame.waves is not None:
            seen.setdefault(frame.split, []).append((frame.image, frame.waves))
    if list(seen) == [""]:
        all_of_it = seen[""]
        waves = [waves for _, waves in all_of_it]
        return [
            Problem("twice", (all_of_it[one][0], all_of_it[other][0]), f"the same as {all_of_it[other][0].name}")
            for other, one in alike(waves, waves)
            if one < other
        ]
    found = []
    for one, other in combinations(seen, 2):
        pairs = alike([waves for _, waves in seen[one]], [waves for _, waves in seen[other]])
        for first, second in pairs:
            files = (seen[one][first][0], seen[other][second][0])
            found.append(Problem("in two splits", files, f"{one}, the same as {files[1].name} of {other}"))
    return found


def _summary(frames: Sequence[Frame]) -> dict[str, Any]:
    """Statistics of one split; the share of crack pixels is over all its pixels."""
    sizes = Counter(f"{frame.size[1]}x{frame.size[0]}" for frame in frames if frame.size)
    areas = np.array([frame.size[0] * frame.size[1] if frame.size else 0 for frame in frames], float)
    shares = np.array([frame.crack_share for frame in frames])
    widths = [frame.crack_width for frame in frames if frame.crack_share]
    return {
        "frames": len(frames),
        "with_crack": int((shares > 0).sum()),
        "crack_share": float((areas * shares).sum() / max(areas.sum(), 1.0)),
        "crack_share_of_frames": [float(v) for v in np.quantile(shares, (0, 0.25, 0.5, 0.75, 1))]
        if len(frames)
        else [],
        "crack_width": float(np.median(widths)) if widths else 0.0,
        "sizes": dict(sizes.most_common(8)),
        "alignment_told": sum(frame.shift is not None for frame in frames),
    }
