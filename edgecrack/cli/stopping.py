"""How Ctrl-C and SIGTERM end a command, and a run whose files are to be whole; not a verb."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
    alarm, deaf_until = signal.getsignal(signal.SIGALRM), 0.0

    def raised(number: int, frame: FrameType | None) -> None:
        nonlocal deaf_until
        deaf_until = _deafen([number])
        raise Terminated

    signal.signal(signal.SIGTERM, raised)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _sleep_until(deaf_until)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _deafen(numbers: Iterable[int], again: float = 0.0, late: Callable[[], None] = lambda: None) -> float:
    """Ignore the signals `numbers` until the time that is returned; then each kills, and `late` is called every `again` s.

    Left to the system, as a handler would not know when a signal came that was sent during a long call.
    """
    deaf = list(numbers)

    def tick(number: int, frame: FrameType | None) -> None:
        if not deaf:
            late()
        while deaf:
            signal.signal(deaf.pop(), signal.SIG_DFL)

    for number in deaf:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, _ECHO, again)
    return time.monotonic() + _ECHO


def _sleep_until(moment: float) -> None:
    """Sleep until a `time.monotonic`, if that is to come: a signal that is heard before would be taken for another."""
    time.sleep(max(0.0, moment - time.monotonic()))


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Within the block the first Ctrl-C or SIGTERM calls `stop`, and a second one kills the process.

    If the block goes on for a second after that, it is broken off by KeyboardInterrupt, and again and again. When it has
    ended, a Ctrl-C raises KeyboardInterrupt, and a SIGTERM Terminated. A signal that is ignored stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    caught: list[int] = []
    deaf_until = 0.0

    def late() -> None:
        raise KeyboardInterrupt

    def first(number: int, frame: FrameType | None) -> None:
        nonlocal deaf_until
        caught.append(number)
        deaf_until = _deafen(before, _GRACE - _ECHO, late)
        stop()

    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in signals}
    alarm = signal.getsignal(signal.SIGALRM)
    try:
        for number in signals:
            signal.signal(number, first)
        yield
    except KeyboardInterrupt:
        if signal.SIGTERM not in caught:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _sleep_until(deaf_until)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, 0)  # again: a signal may have come in between
        signal.signal(signal.SIGALRM, alarm)
    if signal.SIGTERM in caught:
        raise Terminated
    if caught:
        raise KeyboardInterrupt
