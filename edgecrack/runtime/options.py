"""How a source is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SpecError
from edgecrack.spec import FrameSpec

Flip = Literal["horizontal", "vertical", "180"]
_CODES: dict[Flip, int] = {"horizontal": 1, "vertical": 0, "180": -1}


@dataclass(frozen=True)
class SourceOptions:
    """What can be asked of a source; `open_source` refuses what the source at hand cannot do.

    Attributes:
        size: the frame size asked of a V4L2 or CSI camera; None leaves it to the camera.
        rate: the frames a second asked of a V4L2 or CSI camera.
        codec: the four letters of the format asked of a V4L2 camera, such as "MJPG" or "YUYV".
        flip: mirror the frames, or turn them by 180 degrees for a camera that hangs upside down.
        loop: begin a file, folder or pattern again at its end, for ever.
        start: seconds of a video file that are left out; they are decoded, so that the cut is exact.
        end: the second at which a video file is left.
        every: hand out each N-th frame only, from the first; the others are not even read of images, and of a camera are
            counted as dropped.
        first: the number of the first frame that is handed out, of a run that is gone on with: of files those before it are
            left out, exactly, and a camera begins to count there.
        staleness: the age in seconds at which a camera's frame is dropped and not handed out.
        drop: hand out the newest frame of a camera and drop those it overtook; False keeps every frame and raises
            SourceError when the consumer cannot keep up.
        max_reconnects: failed tries in a row after which a camera counts as lost; None tries for ever.
        timeout: seconds without a frame after which a network camera counts as stalled and is connected anew.
        backoff: seconds before the first try to reconnect, doubled at each failure, and their most.
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
        if self.flip is not None and self.flip not in get_args(Flip):
            raise SpecError(f"a flip is one of {', '.join(get_args(Flip))}, got {self.flip!r}")
        if self.codec is not None and len(self.codec) != 4:
            raise SpecError(f"a camera's codec has four letters, such as MJPG, got {self.codec!r}")
        if self.rate is not None and not 0.01 <= self.rate <= 1000:
            raise SpecError(f"a frame rate is between 0.01 and 1000 a second, got {self.rate!r}")
        if not 0 <= (self.start or 0) < (float("inf") if self.end is None else self.end):
            raise SpecError(f"start and end are seconds, 0 <= start < end, got {self.start} and {self.end}")
        if not isinstance(self.every, int) or self.every < 1:
            raise SpecError(f"every N-th frame wants a whole number from 1, got {self.every!r}")
        if self.first < 0:
            raise SpecError(f"the number of the first frame is 0 or more, got {self.first}")
        if not (self.staleness > 0 and self.timeout > 0 and 0 < self.backoff[0] <= self.backoff[1]):
            raise SpecError("staleness, timeout and backoff are seconds above 0")
        if self.max_reconnects is not None and self.max_reconnects < 0:
            raise SpecError(f"the number of reconnects is 0 or more, got {self.max_reconnects}")

    def check(self, kind: str, allowed: set[str]) -> None:
        """Raise SpecError for an option that was set and that `kind` of source, which takes `allowed`, cannot do."""
        default = SourceOptions()
        names = ("size", "rate", "codec", "flip", "loop", "start", "end", "drop", "max_reconnects")
        unfit = [name for name in names if name not in allowed and getattr(self, name) != getattr(default, name)]
        if unfit:
            raise SpecError(f"{kind} takes no {' or '.join(unfit).replace('_', '-')}")


def flipped(image: NDArray[np.uint8], flip: Flip | None) -> NDArray[np.uint8]:
    """`image`, uint8 (H, W, C), flipped as asked; the same array where nothing is asked."""
    return image if flip is None else np.asarray(cv2.flip(image, _CODES[flip]), np.uint8)
