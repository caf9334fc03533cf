"""A picture with its place and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 (H, W, 3) BGR, or (H, W, 4) BGRx for a model that takes it. It may be handed to the backend without a
            copy, so it is not to be written to.
        index: its place in the source, from 0, or in the part of it that was asked for. A camera goes on counting when it
            comes back; a number that is missing is a frame that was dropped.
        captured_at: seconds from the start of a video, or from the first frame of a camera; None where the source knows no
            time, as for images.
        source: the image or video file it came from, or the name of the source; without passwords.
        monotonic: when it arrived, in seconds of `time.monotonic()`, which no clock change disturbs; None for what was
            captured long ago: files and images.
        utc: when it arrived, in seconds since 1970 in UTC, by the clock of this machine; None for files and images.
    """

    image: NDArray[np.uint8]
    index: int
    captured_at: float | None
    source: str
    monotonic: float | None = None
    utc: float | None = None
