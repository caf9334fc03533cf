"""A camera that is read by a thread: the newest frame, never an old one, and an account of every frame that came."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
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
_KEPT = 16  # frames that may wait where none may be dropped: half a second at 30 a second, 100 MB at 1080p


class Connection(Protocol):
    """A camera while it is connected; used by one thread."""

    def read(self) -> NDArray[np.uint8] | None:
        """The next picture, uint8 (H, W, 3) BGR; None for one that is damaged.

        Waits no longer than the time-out of the options. Raises SourceError, without passwords, when the camera is lost,
        TimeoutError when there is nothing yet and it may be asked again, EOFError when there is no more by intention.
        """

    def close(self) -> None:
        """Let go of the camera."""


class Refused(SourceError):
    """A camera that is there and will not be read: a wrong password, a file in place of a stream. No wait mends it."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a camera, or to what is written.

    Attributes:
        name: "connected", "lost", "unreachable" (a try to connect failed), "reconnected", "resized", "dropped" or "ended"; of
            a file "left out" (it cannot be written any more) or "deleted" (to make room); "resumed" of a log; "marked" of a
            place.
        source: the name of the camera, or of the file.
        utc: when, in seconds since 1970.
        details: what belongs to it: "reason", "tries" (to reconnect, so far), "width", "height", "cause", "first" and "last"
            (numbers of the frames that were dropped; with `SourceOptions.every`, each N-th from one to the other), "index"
            and "time" (of the frame that was marked).
    """

    name: str
    source: str
    utc: float
    details: dict[str, str | int | float] = field(default_factory=dict)

    def to_json(self) -> dict[str, str | int | float]:
        """What a log keeps of it; the time in ISO 8601."""
        return {"event": self.name, "source": self.source, "utc": iso_time(self.utc), **self.details}


class Camera:
    """One camera of a `LiveSource`, with the thread that reads it and the frames that wait.

    Attributes:
        name: what its frames and events are named by; without passwords.
        rate: the frames a second that are handed out, where that is known.
        read: the frames that came so far. Each was handed out, waits, or is in `dropped`.
        drops: whether frames may be dropped for lack of time.
        room: how many frames may wait.
        news: guards what the thread shares, and is told of each frame and event; one for all cameras of a source.
        error: what ended it, a SourceLost or worse; None while it runs, and when it came to its end.
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
        # What is waited for: before Python 3.13 a `join` that Ctrl-C interrupts takes the thread for ended.
        self._ended = threading.Event()
        self._patience = 2 * options.timeout + 1  # seconds: opening has two steps, each with the time-out

    @property
    def dropped(self) -> Counter[str]:
        """How many were dropped until now, by cause.

        "newer" (a newer one came first), "stale", "damaged", "stopped" (it waited when the source was stopped), "no room"
        (dropping is not allowed, and too many waited), "every" (it is not an N-th one; of these there is no event), "outside"
        (its size changed, and the region of interest lies outside of it).
        """
        with self.news:
            return Counter(self._dropped)

    def leave_out(self, frame: Frame, cause: str) -> None:
        """Count a frame that was handed out as dropped for `cause`."""
        with self.news:
            self._drop(frame.index, cause)

    def start(self) -> None:
        """Begin to read, unless that was begun or stopped."""
        if self._thread is None and not self._stopped:
            # A daemon, so that a program that forgets to close can end, but not while the thread is in a library that
            # calls back into Python, which would crash it.
            thread = threading.Thread(target=self._work, name=f"edgecrack {self.name}", daemon=True)
            atexit.register(self._leave)
            self._thread = thread
            thread.start()

    def stop(self) -> None:
        """Have the thread end, and what waits dropped; does not wait for it."""
        self._stopped = True
        with self.news:  # the lock of a Condition may be taken again by the thread that a signal interrupted
            self.news.notify_all()

    def leave(self) -> Callable[[], None]:
        """What waits until the thread has let go of the camera, or its time-out is over; nothing where it was called."""
        thread, self._thread = self._thread, None
        return partial(self._join, thread) if thread else lambda: None

    # The following are called with `news` held.

    @property
    def has_fresh(self) -> bool:
        """Whether a frame waits that is not too old."""
        return bool(self._waiting) and not self._is_stale(self._waiting[-1])

    @property
    def has_news(self) -> bool:
        """Whether there is a frame to be had or to be dropped, or an event."""
        return bool(self._waiting or self._events)

    @property
    def is_over(self) -> bool:
        """Whether no frame is to be had any more."""
        return self._stopped or (self._over and not self.has_fresh)

    def take(self) -> Frame | None:
        """The frame that comes next, of those that are not too old."""
        return self._waiting.popleft() if self._waiting else None

    def take_events(self) -> list[Event]:
        """What happened since, after dropping what nobody wants any more."""
        while self._waiting and (self._stopped or self._is_stale(self._waiting[0])):
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
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a further Ctrl-C kills; breaking off the wait would crash
        self._ended.wait(self._patience)

    def _work(self) -> None:
        error = None
        try:
            self._follow()
        except Exception as failure:  # raised where the frames are read: a thread has nobody to tell
            error = failure
        with self.news:
            self.error, self._over = error, True
            self._post("ended", **({"reason": str(error)} if error else {}))
        self._ended.set()

    def _follow(self) -> None:
        """Read one connection after the other until there is no more; raises SourceLost."""
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
                if tries == self._options.max_reconnects:
                    raise SourceLost(f"{self.name} was tried {tries} times and did not come back: {reason}")
                self.news.wait_for(lambda: self._stopped, delay)
            tries += 1

    def _read_connection(self) -> str | None:
        """Why the camera was lost; None when there is no more by intention."""
        try:
            connection = self._connect()
        except SourceError as error:
            if isinstance(error, Refused) and not self.read:  # one that was there may be setting itself up again
                raise Refused(f"{self.name}: {error}") from None
            return str(error)
        try:
            while not self._stopped:
                with suppress(TimeoutError):
                    self._put(connection.read())
        except SourceError as error:
            if isinstance(error, _TooSlow):
                raise
            return str(error)
        except EOFError:
            pass
        finally:
            connection.close()
        return None

    def _put(self, image: NDArray[np.uint8] | None) -> None:
        now, utc = time.monotonic(), time.time()
        with self.news:
            if self._stopped:
                return  # not counted: it came after the end
            index, self.read = self._options.first + self.read, self.read + 1
            if image is not None:
                self._note(image.shape[:2])
            if index % self._options.every:
                self._dropped["every"] += 1  # no event: they would break up the runs of drops, and pile up
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

    def _is_stale(self, frame: Frame) -> bool:
        age = time.monotonic() - (frame.monotonic or 0.0)
        return self.drops and age > self._options.staleness

    def _drop(self, index: int, cause: str) -> None:
        self._dropped[cause] += 1
        last = self._events[-1] if self._events else None
        if last and last.details.get("cause") == cause and last.details["last"] == index - self._options.every:
            self._events[-1] = replace(last, details={**last.details, "last": index})  # one event a run of drops
        else:
            self._post("dropped", cause=cause, first=index, last=index)

    def _note(self, size: tuple[int, ...]) -> None:
        """Post what a frame of `size` says about the camera."""
        name = ("reconnected" if self._size else "connected") if not self._connected else "resized"
        if not self._connected or size != self._size:
            self._connected, self._size = True, size
            self._post(name, width=size[1], height=size[0])

    def _post(self, name: str, **details: str | int | float) -> None:
        self._events.append(Event(name, self.name, time.time(), details))
        self.news.notify_all()


class _TooSlow(SourceError):
    """The consumer cannot keep up, and nothing may be dropped; no reconnect helps."""


def iso_time(utc: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(utc, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
