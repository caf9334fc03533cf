"""Cameras: the newest frame, never an old one, and an account of every frame that came."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import SourceError, SourceLost
from edgecrack.runtime.closing import Closing
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


@dataclass(frozen=True)
class Event:
    """Something that happened to a camera.

    Attributes:
        name: "connected", "lost", "unreachable" (a try to connect failed), "reconnected", "resized", "dropped" or "ended".
        source: the name of the camera.
        utc: when, in seconds since 1970.
        details: what belongs to it: "reason", "tries" (to reconnect, so far), "width", "height", "cause", "first" and "last"
            (numbers of the frames that were dropped; with `SourceOptions.every`, each N-th from one to the other).
    """

    name: str
    source: str
    utc: float
    details: dict[str, str | int | float] = field(default_factory=dict)

    def to_json(self) -> dict[str, str | int | float]:
        """What a log keeps of it; the time in ISO 8601."""
        return {"event": self.name, "source": self.source, "utc": iso_time(self.utc), **self.details}


class LiveSource(Closing):
    """A camera, read by a thread of its own from the first `iter` to `close`.

    Of the frames that wait, the newest is handed out and those it overtook are dropped, and so is one older than
    `options.staleness`: the delay never grows, whatever the consumer does. A camera that is lost is connected anew.

    Attributes:
        read: the frames that came so far. Each was handed out, waits, or is in `dropped`.
        dropped: how many were dropped by cause: "newer" (a newer one came first), "stale", "damaged", "stopped" (it waited
            when the source was stopped), "no room" (dropping is not allowed, and too many waited), "every" (it is not an
            N-th one; of these there is no event).
        on_event: is called with each Event, by the thread that iterates; by default it writes to the logger "edgecrack".
        room: how many frames may wait, as many as the consumer takes at a time.
    """

    count = None

    def __init__(
        self, name: str, connect: Callable[[], Connection], options: SourceOptions, *, rate: float | None = None
    ) -> None:
        """`connect` raises SourceError when the camera is not there; `name` and its messages hold no passwords."""
        self.name = name
        self.rate = rate and rate / options.every  # at which frames are handed out
        self.read = 0
        self.dropped: Counter[str] = Counter()
        self.on_event: Callable[[Event], None] = _tell
        self.room = 1 if options.drop else _KEPT
        self._connect = connect
        self._options = options
        self._news = threading.Condition()  # guards all that follows
        self._waiting: deque[Frame] = deque()
        self._events: deque[Event] = deque()
        self._stopped = False
        self._over = False
        self._error: Exception | None = None
        self._started: float | None = None
        self._size: tuple[int, ...] | None = None
        self._connected = False
        self._thread: threading.Thread | None = None
        self._at_exit: Callable[[], None] = self.stop
        self._patience = 2 * options.timeout + 1  # seconds: opening has two steps, each with the time-out

    @property
    def ready(self) -> bool:
        """Whether the next frame, or the end, can be had without waiting."""
        with self._news:
            fresh = self._waiting and not self._is_stale(self._waiting[-1])
            return bool(fresh) or self._over or self._stopped

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceLost when the tries to reconnect are used up, SourceError when frames come too fast to keep all."""
        self._start()
        while True:
            with self._news:
                self._news.wait_for(lambda: self._events or self._waiting or self.ready)
                self._drop_unwanted()
                events, frame = list(self._events), self._waiting.popleft() if self._waiting else None
                self._events.clear()
                over = frame is None and (self._over or self._stopped)
            for event in events:
                self.on_event(event)
            if frame is not None:
                yield frame
            elif over:
                break
        if self._error and not self._stopped:
            raise self._error

    def stop(self) -> None:
        """End the iteration, from any thread or a signal handler; what waits is dropped. Does not wait for the camera."""
        self._stopped = True
        with self._news:  # the lock of a Condition may be taken again by the thread that a signal interrupted
            self._news.notify_all()

    def close(self) -> None:
        """Stop, and wait until the thread has let go of the camera; a second call does nothing.

        A camera that is silent is let go of when its time-out is over.
        """
        self.stop()
        thread, self._thread = self._thread, None
        with self._news:
            self._drop_unwanted()
        if thread is not None:
            thread.join(self._patience)
            if thread.is_alive():
                _log.warning("%s does not let go; its thread ends when the library answers", self.name)
            else:
                atexit.unregister(self._at_exit)

    def _start(self) -> None:
        if self._thread is None and not self._stopped:
            # A daemon, so that a program that forgets to close can end, but not while the thread is in a library that
            # calls back into Python, which would crash it.
            thread = threading.Thread(target=self._work, name=f"edgecrack {self.name}", daemon=True)
            self._at_exit = partial(self._leave, thread)
            atexit.register(self._at_exit)
            self._thread = thread
            thread.start()

    def _leave(self, thread: threading.Thread) -> None:
        self.stop()
        thread.join(self._patience)

    def _work(self) -> None:
        error = None
        try:
            self._follow()
        except Exception as failure:  # raised where the frames are read: a thread has nobody to tell
            error = failure
        with self._news:
            self._error, self._over = error, True
            self._post("ended", **({"reason": str(error)} if error else {}))

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
            with self._news:
                self._post("lost" if was_there else "unreachable", reason=reason, tries=tries)
                self._connected = False
                if tries == self._options.max_reconnects:
                    raise SourceLost(f"{self.name} was tried {tries} times and did not come back: {reason}")
                self._news.wait_for(lambda: self._stopped, delay)
            tries += 1

    def _read_connection(self) -> str | None:
        """Why the camera was lost; None when there is no more by intention."""
        try:
            connection = self._connect()
        except SourceError as error:
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
        with self._news:
            if self._stopped:
                return  # not counted: it came after the end
            index, self.read = self.read, self.read + 1
            if image is not None:
                self._note(image.shape[:2])
            if index % self._options.every:
                self.dropped["every"] += 1  # no event: they would break up the runs of drops, and pile up
                return
            if image is None:
                self._drop(index, "damaged")
                return
            self._started = now if self._started is None else self._started
            if len(self._waiting) >= self.room:
                self._make_room(index)
            image = flipped(image, self._options.flip)
            self._waiting.append(Frame(image, index, now - self._started, self.name, now, utc))
            self._news.notify_all()

    def _make_room(self, index: int) -> None:
        if not self._options.drop:
            self._drop(index, "no room")
            raise _TooSlow(
                f"{self.name} gives frames faster than they are processed: {self.room} wait and none may be dropped; "
                "lower its rate or allow drops"
            )
        self._drop(self._waiting.popleft().index, "newer")

    def _drop_unwanted(self) -> None:
        while self._waiting and (self._stopped or self._is_stale(self._waiting[0])):
            self._drop(self._waiting.popleft().index, "stopped" if self._stopped else "stale")

    def _is_stale(self, frame: Frame) -> bool:
        age = time.monotonic() - (frame.monotonic or 0.0)
        return self._options.drop and age > self._options.staleness

    def _drop(self, index: int, cause: str) -> None:
        self.dropped[cause] += 1
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
        self._news.notify_all()


class _TooSlow(SourceError):
    """The consumer cannot keep up, and nothing may be dropped; no reconnect helps."""


def iso_time(utc: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(utc, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tell(event: Event) -> None:
    if event.name == "dropped":
        return  # many a second, and counted
    level = logging.INFO if event.name in ("connected", "reconnected", "ended") else logging.WARNING
    details = ", ".join(f"{key} {value}" for key, value in event.details.items())
    _log.log(level, "%s: %s%s", event.source, event.name, f" ({details})" if details else "")
