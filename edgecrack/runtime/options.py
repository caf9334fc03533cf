"""Options for reading a source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SpecError
from edgecrack.spec import FrameSpec, check_frame

Flip = Literal["horizontal", "vertical", "180"]
_CODES: dict[Flip, int] = {"horizontal": 1, "vertical": 0, "180": -1}


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading a source; `open_source` rejects those that the given source does not support.

    Attributes:
        size: the frame size requested from a V4L2 or CSI camera; None leaves it to the camera.
        rate: the frame rate, in frames per second, requested from a V4L2 or CSI camera.
        codec: the FourCC of the pixel format requested from a V4L2 camera, such as "MJPG" or "YUYV".
        flip: mirror the frames, or rotate them by 180 degrees for a camera mounted upside down.
        loop: repeat a file, folder or pattern endlessly.
        start: seconds to skip at the start of a video file; they are decoded, so that the cut is exact.
        end: the time in seconds at which to stop reading a video file.
        every: hand out only every N-th frame, starting with the first; the other images of a folder are not even read,
            and the other frames of a camera count as dropped.
        first: the index of the first frame to hand out when a run is resumed: earlier frames of files are skipped,
            exactly, and a camera starts counting from it.
        staleness: the age in seconds above which a camera's frame is dropped instead of handed out.
        drop: hand out a camera's newest frame and drop the older ones that wait; False keeps every frame and raises
            SourceError when the consumer cannot keep up.
        max_reconnects: consecutive failed attempts after which a camera is given up as lost; None retries forever.
        timeout: seconds without a frame after which a network camera counts as stalled and is reconnected.
        backoff: seconds before the first attempt to reconnect, doubled at each failure, and their maximum.
    """

    size: FrameSpec | None = None
    rate: float | None = None
    codec: str | None = None
    flip: Flip | None = None
    loop: bool = False
    start: float | None = None
    end: float | None = None
    every: int = 1
    first: int = 0
    staleness: float = 0.5
    drop: bool = True
    max_reconnects: int | None = None
    timeout: float = 3.0
    backoff: tuple[float, float] = (1.0, 30.0)

    def __post_init__(self) -> None:
        if self.size is not None and not isinstance(self.size, FrameSpec):
            raise SpecError(f"a size is a FrameSpec, got {self.size!r}")
        if self.flip is not None and self.flip not in get_args(Flip):
            raise SpecError(f"a flip is one of {', '.join(get_args(Flip))}, got {self.flip!r}")
        if self.codec is not None and len(self.codec) != 4:
            raise SpecError(f"a camera's codec has four letters, such as MJPG, got {self.codec!r}")
        if self.rate is not None and not 0.01 <= self.rate <= 1000:
            raise SpecError(f"a frame rate is between 0.01 and 1000 a second, got {self.rate!r}")
        if not 0 <= (self.start or 0) < (math.inf if self.end is None else self.end):
            raise SpecError(f"start and end are seconds, 0 <= start < end, got {self.start} and {self.end}")
        if not isinstance(self.every, (int, np.integer)) or self.every < 1:
            raise SpecError(f"every N-th frame wants a whole number from 1, got {self.every!r}")
        if self.first < 0:
            raise SpecError(f"the number of the first frame is 0 or more, got {self.first}")
        if not (
            self.staleness > 0 and 0 < self.timeout < math.inf and 0 < self.backoff[0] <= self.backoff[1] < math.inf
        ):
            raise SpecError("staleness, timeout and backoff are seconds above 0, the last two finite")
        if self.max_reconnects is not None and self.max_reconnects < 0:
            raise SpecError(f"the number of reconnects is 0 or more, got {self.max_reconnects}")

    def check(self, kind: str, allowed: set[str]) -> None:
        """Raise SpecError if an option is set that a source of this `kind`, which takes `allowed`, does not take."""
        default = SourceOptions()
        names = ("size", "rate", "codec", "flip", "loop", "start", "end", "drop", "max_reconnects")
        unfit = [name for name in names if name not in allowed and getattr(self, name) != getattr(default, name)]
        if unfit == ["drop"]:
            raise SpecError(f"{kind} drops no frame for lack of time anyway; leave --no-drop out")
        if unfit:
            raise SpecError(f"{kind} takes no {' or '.join(unfit).replace('_', '-')}")


def flipped(image: NDArray[np.uint8], flip: Flip | None) -> NDArray[np.uint8]:
    """Flip `image`, uint8 (H, W, 3 or 4); returns the same array if `flip` is None. Raises FrameError for another."""
    if flip is None:
        return image
    check_frame(image, "bgrx")
    return np.asarray(cv2.flip(image, _CODES[flip]), np.uint8)
