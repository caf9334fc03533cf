"""Frames to be recorded, and a look at what was written; found through `pythonpath`."""

import av
import numpy as np

from edgecrack.runtime import Detection, Frame


def seen(index, at=None, source="road.mp4", size=(48, 64)):
    """A frame, of a camera where it has a time, with its detection."""
    image = np.full((*size, 3), index % 256, np.uint8)
    utc = None if at is None else 1.7e9 + at
    frame = Frame(image, index, at, source, at, utc)
    return frame, Detection.of(np.zeros(size, np.uint8), 0.5)


def values(path):
    """How bright the frames of a video are."""
    with av.open(str(path)) as file:
        return [round(frame.to_ndarray(format="bgr24").mean()) for frame in file.decode(video=0)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())
