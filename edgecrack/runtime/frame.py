"""An image with its index, source and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One image from a source.

    Attributes:
        image: uint8 (H, W, 3) BGR, or (H, W, 4) BGRx for a model that takes it. Do not modify it: it may be passed to
            the backend without a copy.
        index: its position in the source, or in the requested part of it, from 0. Numbering continues when a camera
            reconnects; a missing number is a dropped frame.
        captured_at: seconds from the start of a video, or from the first frame of a camera; None where the source has
            no timestamps, as for images.
        source: the image or video file it came from, or the name of the source; without passwords.
        monotonic: when it arrived, in seconds of `time.monotonic()`, which clock changes do not affect; None for
            recorded material: files and images.
        utc: when it arrived, in seconds since 1970 in UTC, by this machine's clock; None for files and images.
    """

    image: NDArray[np.uint8]
    index: int
    captured_at: float | None
    source: str
    monotonic: float | None = None
    utc: float | None = None
