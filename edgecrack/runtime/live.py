"""One or several cameras as one source: their newest frames in turn, without waiting for any one camera."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from edgecrack.errors import EdgecrackError, SourceError, SourceLost
from edgecrack.runtime.camera import Camera, Event
from edgecrack.runtime.closing import Closing
from edgecrack.runtime.frame import Frame

_log = logging.getLogger("edgecrack")


class LiveSource(Closing):
    """Cameras, each read by its own thread from the first `iter` to `close`.

    Only a camera's newest waiting frame is handed out; older ones, and any older than `SourceOptions.staleness`, are
    dropped, so that the delay never grows, however slow the consumer is. Cameras take turns, and none is waited for. A
    lost camera is reconnected; when it is given up, the others go on.

    Attributes:
        parts: the cameras.
        on_event: called with each Event, in the thread that iterates or closes; by default it writes to the logger
            "edgecrack".
    """

    count = None

    def __init__(self, *cameras: Camera) -> None:
        """Take over cameras that have not been started. Duplicate names get a number: "NAME (2)"."""
        self.parts = cameras
        self.on_event: Callable[[Event], None] = self._tell
        self._news = threading.Condition()
        self._turns = deque(cameras)  # least recently served camera first
        self._stopped = self._closed = False
        names: Counter[str] = Counter()
        for camera in cameras:
            camera.news = self._news
            names[camera.name] += 1
            if names[camera.name] > 1:
                camera.name = f"{camera.name} ({names[camera.name]})"

    @property
    def name(self) -> str:
        """The names of the cameras."""
        return ", ".join(camera.name for camera in self.parts)

    @property
    def rate(self) -> float | None:
        """The highest known frame rate of the cameras, in frames per second."""
        return max((camera.rate for camera in self.parts if camera.rate), default=None)

    @property
    def read(self) -> int:
        """The number of frames received so far from all cameras."""
        return sum(camera.read for camera in self.parts)

    @property
    def dropped(self) -> Counter[str]:
        """The number of frames dropped, by cause, as named by `Camera.dropped`."""
        return sum((camera.dropped for camera in self.parts), Counter())

    @property
    def ready(self) -> bool:
        """Whether the next frame, or the end, is available without waiting."""
        with self._news:
            return any(camera.has_fresh for camera in self.parts) or self._is_over

    @property
    def drops(self) -> bool:
        """Whether any camera may drop frames."""
        return any(camera.drops for camera in self.parts)

    def is_stale(self, frame: Frame, since: float) -> bool:
        """Whether a frame that was handed out has waited since `since` for longer than its camera's frames may."""
        return self._camera_of(frame).is_stale(frame, since)

    def put_first(self, frame: Frame) -> None:
        """Give the camera of `frame`, which is to be dropped, the next turn, or it might never get one."""
        with self._news:
            camera = self._camera_of(frame)
            self._turns.remove(camera)
            self._turns.appendleft(camera)

    def leave_out(self, frame: Frame, cause: str, reason: str | None = None) -> None:
        """Count a frame that was handed out as dropped for `cause`; warns with `reason`, if any, once per camera."""
        camera = self._camera_of(frame)
        if reason and not camera.dropped[cause]:
            _log.warning("%s: %s; such frames are dropped", camera.name, reason)
        camera.leave_out(frame, cause)

    def make_room(self, frames: int) -> None:
        """Let `frames` frames wait, divided between the cameras: as many as the consumer takes at a time."""
        for camera in self.parts:
            camera.room = max(camera.room, math.ceil(frames / len(self.parts)))

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceLost at the end, if the attempts to reconnect a camera were exhausted.

        Raises SourceError at once when a camera refuses to be read or sends frames too fast to keep all, or when the
        source is closed.
        """
        if self._closed:
            raise SourceError(f"{self.name} is closed; open it again")
        for camera in self.parts:
            camera.start()
        while True:
            with self._news:
                self._news.wait_for(lambda: any(camera.has_news for camera in self.parts) or self._is_over)
                events = self._events()
                frame = None if self._has_failed else self._next()
                over = frame is None and self._is_over
            for event in events:
                self.on_event(event)
            if frame is not None:
                yield frame
            elif over:
                break
        self._raise()

    def stop(self) -> None:
        """End the iteration, from any thread or signal handler; drop waiting frames. Does not wait for the cameras."""
        self._stopped = True
        for camera in self.parts:
            camera.stop()

    def close(self) -> None:
        """Stop, and wait until the threads have released the cameras; a second call does nothing.

        A silent camera is released when its time-out expires.
        """
        self.stop()
        with self._news:
            events = [] if self._closed else self._events()  # at a second call the log may already be closed
            self._closed = True
        for event in events:
            with suppress(EdgecrackError):  # a full log ends the run with its own error
                self.on_event(event)
        for join in [camera.leave() for camera in self.parts]:  # all before the first wait, which may be interrupted
            join()

    def _camera_of(self, frame: Frame) -> Camera:
        return next(camera for camera in self.parts if camera.name == frame.source)

    def _events(self) -> list[Event]:
        return sorted(
            (event for camera in self.parts for event in camera.take_events()), key=lambda event: event.monotonic
        )

    def _next(self) -> Frame | None:
        """The frame of the camera whose turn it is."""
        for camera in self._turns:
            frame = camera.take()
            if frame is not None:
                self._turns.remove(camera)
                self._turns.append(camera)
                return frame
        return None

    @property
    def _is_over(self) -> bool:
        """Whether no more frames will come."""
        return self._has_failed or all(camera.is_over for camera in self.parts)

    @property
    def _has_failed(self) -> bool:
        """Whether a camera has ended, its frames used up, with an error worse than a loss; that ends the others too."""
        return any(
            camera.is_over and camera.error and not isinstance(camera.error, SourceLost) for camera in self.parts
        )

    def _raise(self) -> None:
        if self._stopped:
            return
        errors = [camera.error for camera in self.parts if camera.error]
        for error in errors:
            if not isinstance(error, SourceLost):
                raise error
        if errors:
            raise SourceLost("; ".join(map(str, errors)))

    def _tell(self, event: Event) -> None:
        if event.name == "dropped":
            return  # many per second, and counted anyway
        # The error of an only camera is raised; if others go on, it must be logged.
        given_up = "reason" in event.details and len(self.parts) > 1
        quiet = event.name == "connected" or (event.name == "ended" and not given_up)
        details = ", ".join(f"{key} {value}" for key, value in event.details.items())
        level = logging.INFO if quiet else logging.WARNING
        _log.log(level, "%s: %s%s", event.source, event.name, f" ({details})" if details else "")
