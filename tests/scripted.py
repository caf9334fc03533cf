"""Cameras whose every frame, stall and failure the test decides."""

import queue

import numpy as np
from waiting import wait_until

from edgecrack.errors import SourceError
from edgecrack.runtime import Camera, LiveSource, SourceOptions

LOST = SourceError("the cable is out")
END = EOFError()
QUICK = {
    "backoff": (0.01, 0.04),
    "timeout": 1.0,
    "staleness": 60.0,
}  # on a slow machine no frame is to be dropped for it


def picture(value=0, height=6, width=8):
    return np.full((height, width, 3), value, np.uint8)


class Scripted:
    """A connection that gives what is put into `script`: pictures, None, or errors; None of them yet is a wait."""

    def __init__(self, *script):
        self.script = queue.Queue()
        for step in script:
            self.script.put(step)
        self.connects = 0
        self.open = 0
        self.refuse = 0

    def connect(self):
        self.connects += 1
        if self.refuse:
            self.refuse -= 1
            raise SourceError("connection refused")
        self.open += 1
        return self

    def read(self):
        try:
            step = self.script.get(timeout=0.01)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self):
        self.open -= 1


def live(camera, **options):
    source = LiveSource(Camera("camera", camera.connect, SourceOptions(**{**QUICK, **options})))
    source.events = []
    source.on_event = source.events.append
    return source


def send(camera, source, *pictures):
    """Put pictures into the camera's script and wait until they came."""
    expected = source.read + len(pictures)
    for image in pictures:
        camera.script.put(image)
    wait_until(lambda: source.read == expected)


def told(source):
    return [event.name for event in source.events if event.name != "dropped"]


def dropped(source):
    """The numbers of the dropped frames by cause, as the events name them."""
    numbers = {}
    for event in source.events:
        if event.name == "dropped":
            first, last = event.details["first"], event.details["last"]
            numbers.setdefault(event.details["cause"], []).extend(range(first, last + 1))
    return numbers
