"""A camera read by its own thread: yields the newest frame, never a stale one, and accounts for every frame."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError, SourceLost
from edgecrack.runtime.frame import Frame
from edgecrack.runtime.options import SourceOptions, flipped

_log = logging.getLogger("edgecrack")
_KEPT = 16  # frames that may wait when none may be dropped: half a second at 30 FPS, 100 MB at 1080p


class Connection(Protocol):
    """An open connection to a camera; used by one thread only."""

    def read(self) -> NDArray[np.uint8] | None:
        """Read the next image, uint8 (H, W, 3) BGR; None for a damaged one.

        Waits no longer than `SourceOptions.timeout`. Raises SourceError, without passwords, when the camera is lost,
        TimeoutError when there is nothing yet and it may be called again, EOFError at the regular end of the stream.
        """

    def close(self) -> None:
        """Release the camera."""


class Refused(SourceError):
    """A camera that responds but cannot be read: a wrong password, a file instead of a stream. Retrying is futile."""


@dataclass(frozen=True)
class Event:
    """An event of a camera or of an output.

    Attributes:
        name: for a camera "connected", "lost", "unreachable" (an attempt to connect failed), "reconnected", "resized",
            "dropped" or "ended"; for a file "left out" (it can no longer be written) or "deleted" (to make room);
            "resumed" for a log; "marked" for a place.
        source: the name of the camera or file.
        utc: time of the event, in seconds since 1970.
        details: depending on the event: "reason", "tries" (attempts to reconnect so far), "width", "height", "cause",
            "first" and "last" (indices of a run of dropped frames; with `SourceOptions.every`, every N-th between
            them), "index" and "time" (of the marked frame).
        monotonic: time of the event in seconds of `time.monotonic()`, which no change of the clock disorders.
    """

    name: str
    source: str
    utc: float
    details: dict[str, str | int | float] = field(default_factory=dict)
    monotonic: float = field(default_factory=time.monotonic, compare=False, repr=False)

    def to_json(self) -> dict[str, str | int | float]:
        """The log entry of the event, with its time in ISO 8601."""
        return {"event": self.name, "source": self.source, "utc": iso_time(self.utc), **self.details}


class Camera:
    """One camera of a `LiveSource`, with the thread that reads it and its queue of waiting frames.

    Attributes:
        name: the source name in its frames and events; without passwords.
        rate: frames handed out per second, if known.
        read: number of frames received so far. Each was handed out, is waiting, or is counted in `dropped`.
        drops: whether frames may be dropped when the consumer is too slow.
        room: the maximum number of waiting frames.
        news: condition that guards the state shared with the thread and is notified of each frame and event; all
            cameras of a source share one.
        error: the error that ended it, a SourceLost or worse; None while it runs and after a regular end.
    """

    def __init__(
        self, name: str, connect: Callable[[], Connection], options: SourceOptions, *, rate: float | None = None
    ) -> None:
        """`connect` raises SourceError when the camera is not there; `name` and its messages hold no passwords."""
        self.name = name
        self.rate = rate and rate / options.every
        self.read = 0
        self.drops = options.drop
        self.room = 1 if self.drops else _KEPT
        self.news = threading.Condition()
        self.error: Exception | None = None
        self._connect = connect
        self._options = options
        self._dropped: Counter[str] = Counter()
        self._waiting: deque[Frame] = deque()
        self._events: deque[Event] = deque()
        self._stopped = False
        self._over = False
        self._started: float | None = None
        self._size: tuple[int, ...] | None = None
        self._connected = False
        self._thread: threading.Thread | None = None
        # Waited for in place of `join`, which before Python 3.13, if interrupted by Ctrl-C, takes the thread for ended.
        self._ended = threading.Event()
        self._patience = 2 * options.timeout + 1  # seconds: opening has two steps, each with its own time-out

    @property
    def dropped(self) -> Counter[str]:
        """The number of frames dropped so far, by cause.

        "newer" (replaced by a newer frame), "stale", "damaged", "stopped" (waiting when the source was stopped),
        "no room" (dropping is not allowed, and too many were waiting), "every" (not an N-th frame; these cause no
        event), "outside" (its size changed, and the region of interest lies outside it).
        """
        with self.news:
            return Counter(self._dropped)

    def leave_out(self, frame: Frame, cause: str) -> None:
        """Count a frame that was already handed out as dropped for `cause`."""
        with self.news:
            self._drop(frame.index, cause)

    def start(self) -> None:
        """Start the reading thread, unless it was started or stopped before."""
        if self._thread is None and not self._stopped:
            # A daemon, so that a program that forgets to close can exit; but the exit waits for the thread, as it would
            # crash if the thread were in a library that calls back into Python.
            thread = threading.Thread(target=self._work, name=f"edgecrack {self.name}", daemon=True)
            atexit.register(self._leave)
            self._thread = thread
            thread.start()

    def stop(self) -> None:
        """Signal the thread to end, so that waiting frames are dropped; does not wait for it."""
        self._stopped = True
        with self.news:  # safe in a signal handler: the lock of a Condition is reentrant
            self.news.notify_all()

    def leave(self) -> Callable[[], None]:
        """Return a function that waits for the thread to release the camera or time out; a no-op the second time."""
        thread, self._thread = self._thread, None
        return partial(self._join, thread) if thread else lambda: None

    # The following must be called with `news` held.

    @property
    def has_fresh(self) -> bool:
        """Whether a frame is waiting that is not stale."""
        return bool(self._waiting) and not self.is_stale(self._waiting[-1])

    @property
    def has_news(self) -> bool:
        """Whether there is a waiting frame, to be taken or dropped, or an event."""
        return bool(self._waiting or self._events)

    @property
    def is_over(self) -> bool:
        """Whether no more frames will come."""
        return self._stopped or (self._over and not self.has_fresh)

    def take(self) -> Frame | None:
        """Remove and return the next waiting frame, or None; stale ones are dropped by `take_events`."""
        return self._waiting.popleft() if self._waiting else None

    def take_events(self) -> list[Event]:
        """Return the events since the last call, after dropping stale frames, or all of them once stopped."""
        while self._waiting and (self._stopped or self.is_stale(self._waiting[0])):
            self._drop(self._waiting.popleft().index, "stopped" if self._stopped else "stale")
        events = list(self._events)
        self._events.clear()
        return events

    def _join(self, thread: threading.Thread) -> None:
        if self._ended.wait(self._patience):
            thread.join()
            atexit.unregister(self._leave)
        else:
            _log.warning("%s does not let go; its thread ends when the library answers", self.name)

    def _leave(self) -> None:
        self.stop()
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C kills; interrupting the wait would crash
        self._ended.wait(self._patience)

    def _work(self) -> None:
        error = None
        try:
            self._follow()
        except Exception as failure:  # raised in the iterating thread: this one has no caller
            error = failure
        with self.news:
            self.error, self._over = error, True
            self._post("ended", **({"reason": str(error)} if error else {}))
        self._ended.set()

    def _follow(self) -> None:
        """Read one connection after another until the stream ends. Raises SourceLost."""
        tries, (wait, most) = 0, self._options.backoff
        while not self._stopped:
            before = self.read
            reason = self._read_connection()
            if reason is None:
                return
            was_there = self.read > before
            tries = 0 if was_there else tries
            delay = min(most, wait * 2 ** min(tries, 30))
            with self.news:
                self._post("lost" if was_there else "unreachable", reason=reason, tries=tries)
                self._connected = False
                if self._options.max_reconnects is not None and tries >= self._options.max_reconnects:
                    raise SourceLost(f"{self.name} was tried {tries} times and did not come back: {reason}")
                self.news.wait_for(lambda: self._stopped, delay)
            tries += 1

    def _read_connection(self) -> str | None:
        """Read one connection to its end; return why the camera was lost, None at the regular end or when stopped."""
        try:
            with closing(self._connect()) as connection:
                while not self._stopped:
                    with suppress(TimeoutError):
                        self._put(connection.read())
        except _TooSlow:
            raise
        except SourceError as error:
            if isinstance(error, Refused) and not self.read:  # a camera that worked before may be restarting
                raise Refused(f"{self.name}: {error}") from None
            return str(error)
        except EOFError:
            pass
        return None

    def _put(self, image: NDArray[np.uint8] | None) -> None:
        now, utc = time.monotonic(), time.time()
        with self.news:
            if self._stopped:
                return  # not counted: it arrived after the end
            index, self.read = self._options.first + self.read, self.read + 1
            if image is not None:
                self._note(image.shape[:2])
            if index % self._options.every:
                self._dropped["every"] += 1  # no event: these would break up the runs of drops, and pile up
                return
            if image is None:
                self._drop(index, "damaged")
                return
            self._started = now if self._started is None else self._started
            if len(self._waiting) >= self.room:
                self._make_room(index)
            image = flipped(image, self._options.flip)
            self._waiting.append(Frame(image, index, now - self._started, self.name, now, utc))
            self.news.notify_all()

    def _make_room(self, index: int) -> None:
        if not self.drops:
            self._drop(index, "no room")
            raise _TooSlow(
                f"{self.name} gives frames faster than they are processed: {self.room} wait and none may be dropped; "
                "lower its rate or allow drops"
            )
        self._drop(self._waiting.popleft().index, "newer")

    def is_stale(self, frame: Frame, since: float = 0.0) -> bool:
        """Whether `frame` is older than `SourceOptions.staleness`, or was at hand that long since `since`.

        Never where no frame may be dropped.
        """
        age = time.monotonic() - max(since, frame.monotonic or 0.0)
        return self.drops and age > self._options.staleness

    def _drop(self, index: int, cause: str) -> None:
        self._dropped[cause] += 1
        last = self._events[-1] if self._events else None
        if last and last.details.get("cause") == cause and last.details["last"] == index - self._options.every:
            self._events[-1] = replace(last, details={**last.details, "last": index})  # one event per run of drops
        else:
            self._post("dropped", cause=cause, first=index, last=index)

    def _note(self, size: tuple[int, ...]) -> None:
        """Post an event if a frame of `size` shows a new connection or a changed frame size."""
        name = ("reconnected" if self._size else "connected") if not self._connected else "resized"
        if not self._connected or size != self._size:
            self._connected, self._size = True, size
            self._post(name, width=size[1], height=size[0])

    def _post(self, name: str, **details: str | int | float) -> None:
        self._events.append(Event(name, self.name, time.time(), details))
        self.news.notify_all()


class _TooSlow(SourceError):
    """The consumer cannot keep up and no frame may be dropped; reconnecting does not help."""


def iso_time(utc: float) -> str:
    """Format seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(utc, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
