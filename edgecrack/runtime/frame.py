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
        index: its place in the source, from 0.
        captured_at: seconds from the start of a video; None where the source knows no time, as for images.
        source: the image or video file it came from, or the name of the source.
    """

    image: NDArray[np.uint8]
    index: int
    captured_at: float | None
    source: str
