"""Live status of a run for a viewer: each source's state, frame rate, latency, drops, and newest image."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgecrack.runtime.account import Account, Counted
from edgecrack.runtime.camera import Event
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.detection import Detection
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.live import LiveSource

if TYPE_CHECKING:
    from edgecrack.runtime.sources import CountedSource

_KEPT = 30  # frames over which the frame rate is measured
_PAUSE = 1.0  # seconds without a frame after which the frame rate falls
# event name -> new state of its camera; other events do not change it
_STATES = {
    **dict.fromkeys(("connected", "reconnected", "resized"), "connected"),
    **dict.fromkeys(("lost", "unreachable"), "lost"),
    "ended": "ended",
}


@dataclass(frozen=True)
class Reading:
    """The status of one source at one moment.

    Attributes:
        name: name of the source, without passwords.
        state: "waiting" (no frame yet), "connected", "lost" or "ended"; a file is "connected" from its first frame on.
        reason: why it is lost; "" otherwise.
        frames: number of frames processed so far.
        pace: frames per second, over the last 30.
        latency: milliseconds from arrival of the newest frame until it was processed; for a file, the sum of its
            stages.
        silence: seconds since the newest frame was processed; None before the first.
        dropped: number of frames dropped so far, excluding those not requested (`SourceOptions.every`).
        crack_share: fraction of crack pixels in the newest frame, 0..1; None before the first.
    """

    name: str
    state: str
    reason: str
    frames: int
    pace: float
    latency: float
    silence: float | None
    dropped: int
    crack_share: float | None


@dataclass
class _Dial:
    """The live state of one source; guarded by the lock of its Readings."""

    source: Counted
    state: str = "waiting"
    reason: str = ""
    frames: int = 0
    latency: float = 0.0
    crack_share: float | None = None
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    newest: tuple[Frame, Detection] | None = None

    def take(self, frame: Frame, detection: Detection, now: float) -> None:
        self.frames += 1
        self.times.append(now)
        self.newest = frame, detection
        self.crack_share = detection.crack_share
        self.latency = sum(detection.speed.values()) if frame.monotonic is None else 1e3 * (now - frame.monotonic)
        if self.state == "waiting":  # files and pipes have no events
            self.state = "connected"

    def pace(self, now: float) -> float:
        if len(self.times) < 2:
            return 0.0
        until = self.times[-1] if now - self.times[-1] < _PAUSE else now
        return (len(self.times) - 1) / max(1e-6, until - self.times[0])

    def reading(self, now: float) -> Reading:
        return Reading(
            name=self.source.name,
            state=self.state,
            reason=self.reason,
            frames=self.frames,
            pace=self.pace(now),
            latency=self.latency,
            silence=now - self.times[-1] if self.times else None,
            dropped=sum(count for cause, count in dict(self.source.dropped).items() if cause != "every"),
            crack_share=self.crack_share,
        )


class Readings(Closing):
    """A sink that keeps only the newest status and frame of each source; any thread may read it."""

    def __init__(self, parts: Iterable[Counted]) -> None:
        """`parts` are the sources whose frames and events will be written; `of` takes them from a source."""
        self._lock = threading.Lock()
        self._troubles: dict[str, str] = {}
        self._dials = {part.name: _Dial(part) for part in parts}

    @classmethod
    def of(cls, source: CountedSource) -> Readings:
        """Make readings for `source`: one for each camera, or a single one for files read one after the other."""
        return cls(source.parts if isinstance(source, LiveSource) else [source])

    def write(self, frame: Frame, detection: Detection) -> None:
        """Store the newest frame of a source; does not block on readers."""
        now = time.monotonic()
        _ = detection.crack_share  # computed outside the lock, so that neither readers nor the next frame wait
        with self._lock:
            self._dial(frame.source).take(frame, detection, now)

    def write_event(self, event: Event | Account) -> None:
        """Store an event of a camera or an output; an account is ignored."""
        with self._lock:
            if isinstance(event, Event) and event.name == "left out":
                self._troubles[event.source] = str(event.details.get("reason", ""))
            elif isinstance(event, Event) and event.name in _STATES and event.source in self._dials:
                dial = self._dials[event.source]
                dial.state, dial.reason = _STATES[event.name], str(event.details.get("reason", ""))

    def now(self) -> list[Reading]:
        """The reading of every source, in the order given to the constructor."""
        now = time.monotonic()
        with self._lock:
            return [dial.reading(now) for dial in self._dials.values()]

    def newest(self) -> list[tuple[int, Frame, Detection] | None]:
        """For each source, in the same order: frames processed, newest frame and detection; None before the first."""
        with self._lock:
            return [dial.newest and (dial.frames, *dial.newest) for dial in self._dials.values()]

    def troubles(self) -> list[str]:
        """The reason why each output that is no longer written failed."""
        with self._lock:
            return list(self._troubles.values())

    def _dial(self, source: str) -> _Dial:
        # The frames of a folder are named after their files: they belong to the only source there is.
        return self._dials.get(source) or next(iter(self._dials.values()))
