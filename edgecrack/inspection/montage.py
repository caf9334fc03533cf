"""A montage of the frames of an inspection: those with problems, kind by kind, and typical ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import read_labels
from edgecrack.errors import FrameError, SourceError
from edgecrack.fitting import resize
from edgecrack.images import read_image
from edgecrack.inspection.findings import Inspection
from edgecrack.inspection.frames import Frame

_WIDE, _TALL, _LINE = 320, 220, 20  # pixels of a picture and of the line of text under it
_COLUMNS, _EACH = 6, 6
_OUTLINE = (40, 40, 255)

Picture = NDArray[np.uint8]


def montage(inspection: Inspection) -> Picture:
    """A row of frames for each kind of problem, and one of typical frames: uint8 (H, W, 3) BGR, masks outlined in red."""
    frames = {frame.image: frame for frame in inspection.frames}
    rows = []
    for kind, problems in inspection.by_kind.items():
        paths = [path for problem in problems[:_EACH] for path in problem.files if path in frames]
        if paths:
            rows.append(_row(kind, [frames[path] for path in dict.fromkeys(paths)]))
    typical = sorted((frame for frame in inspection.frames if frame.size), key=lambda frame: frame.crack_share)
    if typical:
        places = np.unique(np.linspace(0, len(typical) - 1, _COLUMNS).round().astype(int))
        rows.append(_row("least to most crack", [typical[place] for place in places]))
    return np.concatenate(rows) if rows else np.zeros((_TALL, _WIDE, 3), np.uint8)


def _row(title: str, frames: Sequence[Frame]) -> Picture:
    band = _text(title, _COLUMNS * _WIDE, (60, 60, 60))
    tiles = [_tile(frame, close="shifted" in title) for frame in frames[:_COLUMNS]]
    tiles += [np.zeros_like(tiles[0])] * (_COLUMNS - len(tiles))
    return np.concatenate([band, np.concatenate(tiles, axis=1)])


def _tile(frame: Frame, close: bool) -> Picture:
    """The whole frame or, if `close`, the surroundings of the centre of its cracks at full resolution."""
    tile = np.full((_TALL, _WIDE, 3), 30, np.uint8)
    with suppress(SourceError, FrameError):  # the mask may be unreadable
        image, mask = read_image(frame.image), None
        if frame.mask:
            mask = read_labels(frame.mask)
            if close:
                window = _around(mask)
                image, mask = image[window], mask[window]
        seen = _fitted(image)
        tile[: seen.shape[0], : seen.shape[1]] = seen
        if mask is not None:
            _outline(tile[: seen.shape[0], : seen.shape[1]], mask)
    where = f"{frame.split}/{frame.image.stem}" if frame.split else frame.image.stem
    return np.concatenate([tile, _text(where, _WIDE, (0, 0, 0))])


def _fitted(image: Picture) -> Picture:
    scale = min(_TALL / image.shape[0], _WIDE / image.shape[1])
    return resize(image, max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale)))


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask)
    tall, wide = _TALL, _WIDE
    top = max(0, min(int(np.median(rows)) - tall // 2, mask.shape[0] - tall))
    left = max(0, min(int(np.median(columns)) - wide // 2, mask.shape[1] - wide))
    return slice(top, top + tall), slice(left, left + wide)


def _outline(picture: Picture, mask: NDArray[np.bool_]) -> None:
    covered = resize(mask.astype(np.uint8) * 255, *picture.shape[:2]) > 60
    outlines, _ = cv2.findContours(covered.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, _OUTLINE, 1)


def _text(text: str, width: int, ground: tuple[int, int, int]) -> Picture:
    line = np.full((_LINE, width, 3), ground, np.uint8)
    text = text.encode(errors="replace").decode()  # OpenCV crashes at the name of a file that is not UTF-8
    cv2.putText(line, text[-width // 8 :], (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return line
