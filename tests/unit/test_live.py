"""The accounting of a live source."""

import gc
import logging
import math
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from scripted import END, LOST, QUICK, Scripted, dropped, live, picture, send, told
from waiting import wait_until

from edgecrack.errors import SourceError, SourceLost, SpecError
from edgecrack.runtime import Account, Camera, LiveSource, SourceOptions
from edgecrack.runtime.camera import Refused


def test_every_frame_has_its_number_and_its_time():
    camera = Scripted(picture(0))
    before, before_utc = time.monotonic(), time.time()
    with live(camera) as source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.05)
        send(camera, source, picture(1))
        second = next(frames)
    assert (first.index, second.index, first.source) == (0, 1, "camera")
    assert before <= first.monotonic <= second.monotonic - 0.05
    assert before_utc <= first.utc <= second.utc - 0.04 <= time.time()
    assert first.captured_at == 0
    assert second.captured_at == second.monotonic - first.monotonic


def test_the_newest_wins_and_every_number_is_accounted_for():
    camera = Scripted(picture(0))
    with live(camera) as source:
        frames = iter(source)
        next(frames)
        send(camera, source, *[picture(index) for index in range(1, 10)])
        second = next(frames)
        camera.script.put(END)
        assert list(frames) == []
    assert second.index == 9
    assert second.image[0, 0, 0] == 9
    assert dropped(source) == {"newer": list(range(1, 9))}
    assert source.dropped == {"newer": 8}
    assert str(Account.of(source, {"camera": 2})) == "10 frames came: 2 processed, 8 dropped (8 newer), 0 failed"


def test_a_consumer_that_blocks_finds_no_old_frame():
    camera = Scripted(picture(0))
    with live(camera, staleness=0.5) as source:
        frames = iter(source)
        next(frames)
        send(camera, source, picture(1))
        time.sleep(0.6)  # the sink blocks, and the camera falls silent
        assert not source.ready
        threading.Timer(0.05, camera.script.put, [picture(7)]).start()
        fresh = next(frames)
    assert fresh.image[0, 0, 0] == 7
    assert time.monotonic() - fresh.monotonic < 0.5
    assert dropped(source) == {"stale": [1]}


def test_a_batch_may_wait_for_a_consumer_of_batches():
    camera = Scripted(picture(0))
    with live(camera) as source:
        source.make_room(3)
        frames = iter(source)
        next(frames)
        send(camera, source, *[picture(index) for index in range(1, 9)])
        assert [next(frames).index for _ in range(3)] == [6, 7, 8]


def test_frames_between_every_nth_are_counted_as_dropped():
    camera = Scripted(*map(picture, range(5)), None, None, *map(picture, range(7, 11)), END)
    with live(camera, every=3, drop=False) as source:
        frames = [(frame.index, frame.image[0, 0, 0]) for frame in source]
    assert frames == [(0, 0), (3, 3), (9, 9)]
    assert source.dropped == {"every": 7, "damaged": 1}
    assert dropped(source) == {"damaged": [6]}
    assert (
        str(Account.of(source, {"camera": 3}))
        == "11 frames came: 3 processed, 8 dropped (7 every, 1 damaged), 0 failed"
    )


def test_of_every_nth_frame_the_newest_wins_too():
    camera = Scripted(picture(0))
    with live(camera, every=4) as source:
        frames = iter(source)
        next(frames)
        send(camera, source, *[picture()] * 1001)
        assert len(source.parts[0]._events) <= 2  # they do not pile up while the consumer is blocked
        assert next(frames).index == 1000
        (event,) = [event for event in source.events if event.name == "dropped"]
        assert event.details == {"cause": "newer", "first": 4, "last": 996}
    assert source.dropped == {"every": 751, "newer": 249}


def test_without_drops_every_frame_comes_in_order():
    camera = Scripted(*[picture(index) for index in range(12)], END)
    with live(camera, drop=False, staleness=0.001) as source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.05)
        assert [first.index] + [frame.index for frame in frames] == list(range(12))
    assert source.dropped == {}


def test_without_drops_a_consumer_that_cannot_keep_up_fails_after_what_it_had():
    camera = Scripted(*[picture(index) for index in range(40)])
    with live(camera, drop=False) as source:
        wait = iter(source)
        seen = [next(wait).index]
        wait_until(lambda: source.parts[0]._over)
        with pytest.raises(SourceError, match=r"faster than they are processed.*lower its rate or allow drops"):
            seen.extend(frame.index for frame in wait)
    assert seen == list(range(len(seen)))
    assert dropped(source) == {"no room": [len(seen)]}
    assert source.read == len(seen) + 1
    assert camera.connects == 1  # no reconnect helps there


def test_a_lost_camera_is_connected_anew_and_goes_on_counting():
    camera = Scripted(picture(1), LOST, picture(2), LOST, picture(3), END)
    with live(camera, drop=False) as source:
        frames = list(source)
    assert [(frame.index, frame.image[0, 0, 0]) for frame in frames] == [(0, 1), (1, 2), (2, 3)]
    assert told(source) == ["connected", "lost", "reconnected", "lost", "reconnected", "ended"]
    assert source.events[1].details == {"reason": "the cable is out", "tries": 0}
    assert camera.connects == 3
    assert camera.open == 0


def test_tries_back_off_and_begin_anew_when_the_camera_was_there(monkeypatch):
    waits = []
    camera = Scripted(picture(1), LOST, picture(2), END)
    source = live(camera, drop=False, backoff=(1.0, 30.0))
    wait_for = source.parts[0].news.wait_for

    def note(predicate, timeout=None):
        if timeout is None:
            return wait_for(predicate)
        waits.append(timeout)
        camera.refuse = camera.refuse or (7 if len(waits) == 8 else 0)
        return None

    monkeypatch.setattr(source.parts[0].news, "wait_for", note)
    camera.refuse = 7
    with source:
        assert len(list(source)) == 2
    assert waits[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert waits[7] == 1
    assert waits[8:] == [2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("tries", [0, 1, 3])
def test_tries_that_are_used_up_are_a_lost_source(tries):
    camera = Scripted(picture(1), LOST)
    with live(camera, max_reconnects=tries) as source:
        frames = iter(source)
        next(frames)
        camera.refuse = 99
        with pytest.raises(SourceLost, match=f"camera was tried {tries} times and did not come back: ") as lost:
            next(frames)
    assert lost.value.exit_code == 5
    assert 1 + tries == camera.connects
    assert told(source) == ["connected", "lost", *["unreachable"] * tries, "ended"]


def test_a_camera_that_is_late_is_waited_for():
    camera = Scripted(picture(1), END)
    camera.refuse = 3
    with live(camera, max_reconnects=3) as source:
        assert len(list(source)) == 1
    assert told(source) == ["unreachable"] * 3 + ["connected", "ended"]


def test_a_change_of_size_is_followed_and_told():
    camera = Scripted(picture(1), picture(2, 12, 16), picture(3, 12, 16), LOST, picture(4), END)
    with live(camera, drop=False) as source:
        shapes = [frame.image.shape[:2] for frame in source]
    assert shapes == [(6, 8), (12, 16), (12, 16), (6, 8)]
    assert told(source) == ["connected", "resized", "lost", "reconnected", "ended"]
    sizes = [(event.details["width"], event.details["height"]) for event in source.events if "width" in event.details]
    assert sizes == [(8, 6), (16, 12), (8, 6)]


def test_a_damaged_frame_is_dropped_by_that_name():
    camera = Scripted(picture(1), None, None, picture(2), END)
    with live(camera, drop=False) as source:
        assert [frame.index for frame in source] == [0, 3]
    assert dropped(source) == {"damaged": [1, 2]}


def test_an_error_that_is_a_bug_is_raised_where_the_frames_are_read():
    with live(Scripted(ZeroDivisionError("a bug"))) as source, pytest.raises(ZeroDivisionError, match="a bug"):
        list(source)


def test_a_listener_that_fails_ends_the_iteration_and_no_thread_is_left():
    def full(event):
        raise SourceError("no space left on device")

    before = threading.active_count()
    with live(Scripted(picture(1))) as source, pytest.raises(SourceError, match="no space left"):
        source.on_event = full
        list(source)
    assert threading.active_count() == before


@pytest.mark.parametrize("when", ["connecting", "silent", "lost", "full"])
def test_stop_ends_the_iteration_at_once_and_close_the_thread(when):
    camera = Scripted(*{"full": [picture(1)], "lost": [picture(1), LOST]}.get(when, []))
    camera.refuse = 99 if when == "connecting" else 0
    before = threading.active_count()
    with live(camera, backoff=(20.0, 20.0)) as source:
        frames, seen = iter(source), 0
        if when in ("full", "lost"):
            next(frames)
            seen = 1
        if when == "full":
            send(camera, source, *[picture(2)] * 5)
            source.stop()
        else:
            threading.Timer(0.1, source.stop).start()
        begun = time.monotonic()
        assert list(frames) == []
    assert time.monotonic() - begun < 1
    assert threading.active_count() == before
    assert camera.open == 0
    assert source.read == seen + sum(source.dropped.values()) == (6 if when == "full" else seen)


PROGRAM = """
import atexit, signal, time
from edgecrack.runtime import Camera, LiveSource, SourceOptions

class Silent:
    open = True
    def read(self):
        time.sleep(1)
        raise TimeoutError
    def close(self):
        self.open = False

silent = Silent()
atexit.register(lambda: print("still read" if silent.open else "let go of"))
source = LiveSource(Camera("camera", lambda: silent, SourceOptions()))
source.parts[0].start()
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
source.close()
"""


def test_a_program_does_not_end_while_a_camera_is_read_though_closing_was_interrupted():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in ended.stderr
    assert ended.stdout == "let go of\n"


def test_a_further_interrupt_at_the_end_kills_and_does_not_crash():
    again = "import os, threading; again = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))"
    survived = PROGRAM.replace("source.close()", "try: source.close()\nexcept KeyboardInterrupt: pass")
    program = f"{survived}{again}; again.daemon = True; again.start()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGINT
    assert ended.stdout == ended.stderr == ""


def test_what_waits_when_the_source_is_stopped_is_dropped_by_that_name():
    camera = Scripted(picture(1))
    with live(camera) as source:
        frames = iter(source)
        next(frames)
        camera.script.put(picture(2))
        wait_until(lambda: source.read == 2)
        source.stop()
        camera.script.put(picture(3))  # after the end: it does not count
        assert list(frames) == []
    assert source.read == 2
    assert dropped(source) == {"stopped": [1]}


def test_a_source_that_was_never_read_has_no_thread():
    camera = Scripted()
    with live(camera):
        assert camera.connects == 0
    assert list(live(Scripted(END))) == []


def test_states_are_logged_without_a_listener(caplog):
    source = LiveSource(Camera("camera", Scripted(picture(1), LOST, picture(1), END).connect, SourceOptions(**QUICK)))
    with caplog.at_level(logging.INFO, "edgecrack"), source:
        list(source)
    assert [message.split(" (")[0] for message in caplog.messages] == [
        "camera: connected",
        "camera: lost",
        "camera: reconnected",
        "camera: ended",
    ]


def test_memory_does_not_grow_while_the_consumer_is_blocked():
    camera = Scripted()
    with live(camera) as source:
        frames = iter(source)
        camera.script.put(picture(0))
        next(frames)
        for _ in range(2000):
            camera.script.put(picture(1))
        wait_until(lambda: source.read == 2001)
        gc.collect()
        assert len(source.parts[0]._waiting) == 1
        assert len(source.parts[0]._events) <= 2
        next(frames)
    assert source.dropped == {"newer": 1999}


@pytest.mark.parametrize(
    ("flip", "corner"), [(None, (0, 0)), ("horizontal", (0, 7)), ("vertical", (5, 0)), ("180", (5, 7))]
)
def test_frames_are_flipped_as_asked(flip, corner):
    image = picture()
    image[0, 0] = 200
    with live(Scripted(image, END), flip=flip) as source:
        (frame,) = source
    assert frame.image.flags.c_contiguous
    assert [tuple(place) for place in np.argwhere(frame.image[..., 0] == 200)] == [corner]


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": "90"},
        {"codec": "MJPEG"},
        {"rate": 0},
        {"start": -1},
        {"start": 5, "end": 5},
        {"staleness": 0},
        {"backoff": (2, 1)},
        {"backoff": (1, math.inf)},
        {"timeout": math.inf},
        {"max_reconnects": -1},
    ],
)
def test_an_option_that_cannot_be_is_refused(wrong):
    with pytest.raises(SpecError):
        SourceOptions(**wrong)


def test_a_camera_that_was_there_is_not_given_up_for_refusing():
    """It may be setting itself up again."""
    camera = Scripted(picture(1), LOST, picture(2), END)
    connect, answers = camera.connect, [None, Refused("who are you?"), None]

    def refuse_once():
        if answer := answers.pop(0):
            raise answer
        return connect()

    source = LiveSource(Camera("camera", refuse_once, SourceOptions(**QUICK, drop=False)))
    with source:
        assert [frame.index for frame in source] == [0, 1]
