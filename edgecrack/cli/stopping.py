"""How Ctrl-C and SIGTERM end a command, and a run whose files are to be whole; not a verb."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ECHO = 0.3  # seconds in which a second signal is the first one again: timeout sends it to the process and to its group
_GRACE = 1.0  # seconds from the signal until the step at hand is broken off; closing the files takes the rest of two


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command just as Ctrl-C does, but with another exit status."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM raises Terminated, so that nothing is left half-written, and a second one kills.

    A signal that is ignored stays ignored.
    """
    here = threading.current_thread() is threading.main_thread()  # signals belong to the main thread
    if not here or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def raised(number: int) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, _first(raised))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _first(handle: Callable[[int], None]) -> Callable[[int, FrameType | None], None]:
    """A handler that calls `handle` at the first signal; a second one kills, unless it is an echo of the first."""
    came: list[float] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if not came:
            came.append(time.monotonic())
            handle(number)
        elif time.monotonic() - came[0] > _ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    return handler


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first Ctrl-C or SIGTERM calls `stop`, and a second one kills the process.

    If the block goes on for a second after that, it is broken off by KeyboardInterrupt, and again each second. When it has
    ended, a Ctrl-C raises KeyboardInterrupt, and a SIGTERM Terminated. A signal that is ignored stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    caught: list[int] = []

    def end(number: int) -> None:
        caught.append(number)
        signal.setitimer(signal.ITIMER_REAL, _GRACE, _GRACE)
        stop()

    def late(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in signals}
    alarm = signal.signal(signal.SIGALRM, late)
    try:
        first = _first(end)
        for number in signals:
            signal.signal(number, first)
        yield
    except KeyboardInterrupt:
        if signal.SIGTERM not in caught:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, 0)  # again: a signal may have come in between
        signal.signal(signal.SIGALRM, alarm)
    if signal.SIGTERM in caught:
        raise Terminated
    if caught:
        raise KeyboardInterrupt
