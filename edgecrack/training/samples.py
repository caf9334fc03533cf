"""Pictures of what the net has learnt so far: held-back frames, their masks and its predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgecrack.fitting import resize
from edgecrack.images import write_image
from edgecrack.models import CrackNet
from edgecrack.spec import threshold_level
from edgecrack.training.data import Frames
from edgecrack.training.validation import probability

WIDTH = 320  # pixels, of each of the three pictures in a row
ROWS = 4
RED, GREEN = (0, 0, 255), (0, 200, 0)


def save_samples(path: str | os.PathLike[str], net: CrackNet, sets: Sequence[Frames], threshold: float) -> None:
    """Write a JPEG with a row for each of four frames: the frame, its mask in green, the predicted pixels in red.

    Raises SourceError when it cannot be written.
    """
    net.eval()
    places = [(frames, index) for frames in sets for index in range(len(frames))]
    chosen = [places[round(place)] for place in np.linspace(0, len(places) - 1, min(ROWS, len(places)))]
    rows = []
    with torch.inference_mode():
        for frames, index in chosen:
            frame = frames[index]
            found = probability(net, frame.image) >= threshold_level(threshold)
            truth = np.zeros_like(found) if frame.mask is None else frame.mask
            rows.append(_row(frame.image, truth, found))
    write_image(path, np.concatenate(rows))


def _row(image: NDArray[np.uint8], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.uint8]:
    height = max(1, round(image.shape[0] * WIDTH / image.shape[1]))
    pictures = [image, _painted(image, truth, GREEN), _painted(image, found, RED)]
    return np.asarray(np.hstack([resize(picture, height, WIDTH) for picture in pictures]), np.uint8)


def _painted(image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.where(mask[:, :, None], np.array(colour, np.uint8), image)
