"""Waiting for what another thread or process does, and what a source says meanwhile; found through `pythonpath`."""

from __future__ import annotations

import socket
import time


def free_port(kind=socket.SOCK_STREAM):
    """A port of this machine that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, process=None, seconds=60):
    """What `condition` answers once it holds; fails when `process` ends before."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process is None or process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def take_until(frames, condition, seconds=60):
    """The first frame for which `condition` holds."""
    deadline = time.monotonic() + seconds
    for frame in frames:
        if condition(frame):
            return frame
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    raise AssertionError("the frames ended")


def listened(source):
    """`source`, whose events are in its list `events`."""
    source.events = []
    source.on_event = source.events.append
    return source


def states(source):
    """The names of what happened to a source that is `listened` to."""
    return [event.name for event in source.events if event.name not in ("dropped", "unreachable")]
