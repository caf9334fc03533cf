"""Several cameras as one source."""

import threading
import time

import pytest
from scripted import END, LOST, QUICK, Scripted, dropped, live, picture, send
from waiting import wait_until

from edgecrack.errors import SourceError, SourceLost
from edgecrack.runtime import Account, Camera, LiveSource, SourceOptions
from edgecrack.runtime.camera import Refused


def several(*cameras, **options):
    options = SourceOptions(**{**QUICK, **options})
    source = LiveSource(*(Camera(name, camera.connect, options) for name, camera in zip("abc", cameras, strict=False)))
    source.events = []
    source.on_event = source.events.append
    return source


def wait_for(source, *counts):
    """Wait until so many frames came of each camera."""
    wait_until(lambda: [camera.read for camera in source.parts] == list(counts))


def test_cameras_take_turns_however_fast_each_is():
    fast, slow = Scripted(), Scripted()
    with several(fast, slow) as source:
        frames = iter(source)
        fast.script.put(picture(0))
        assert next(frames).source == "a"
        for index in range(1, 50):
            fast.script.put(picture(index))
        slow.script.put(picture(100))
        wait_for(source, 50, 1)
        assert [(frame.source, frame.index) for frame in (next(frames), next(frames))] == [("b", 0), ("a", 49)]
        for _ in range(3):
            fast.script.put(picture())
            slow.script.put(picture())
        wait_for(source, 53, 4)
        assert [frame.source for frame in (next(frames), next(frames))] == ["b", "a"]
        source.stop()
        assert list(frames) == []
    assert [camera.read for camera in source.parts] == [53, 4]
    account = Account.of(source, {"a": 3, "b": 2})
    assert (account.captured, account.processed, account.failed) == (57, 5, 0)
    assert account.sources["a"] == Account(53, 3, {"newer": 50}, 0)
    assert account.sources["b"] == Account(4, 2, {"newer": 2}, 0)
    assert account.dropped == {"newer": 52}


def test_a_camera_whose_frame_is_to_be_dropped_has_the_next_turn():
    one, other = Scripted(), Scripted()
    with several(one, other) as source:
        frames, seen = iter(source), []
        for index in range(1, 6):
            one.script.put(picture())
            other.script.put(picture())
            if index == 1:
                next_frame = next(frames)
            wait_for(source, index, index)
            next_frame = next(frames)
            seen.append(next_frame.source)
            if seen[-1] == "b":
                source.put_first(next_frame)
        source.stop()
        assert list(frames) == []
    assert "a" not in seen[seen.index("b") :]


def test_events_keep_their_order_though_the_clock_is_set_back(monkeypatch):
    camera = Scripted(picture(), LOST, picture())
    clock = iter(range(10**6, 0, -1))
    monkeypatch.setattr("edgecrack.runtime.camera.time.time", lambda: float(next(clock)))
    with several(camera) as source:
        for part in source.parts:
            part.start()
        wait_for(source, 2)
        next(iter(source))
        source.stop()
    names = [event.name for event in source.events if event.name != "dropped"]
    assert names[:3] == ["connected", "lost", "reconnected"]


def test_an_account_of_several_adds_up_and_is_told_by_source():
    first, second = Scripted(picture(), END), Scripted(None, END)
    with several(first, second) as source:
        assert len(list(source)) == 1
    account = Account.of(source, {})  # it was handed out and did not come through
    assert str(account).splitlines() == [
        "2 frames came: 0 processed, 1 dropped (1 damaged), 1 failed",
        "  a: 1 frames came: 0 processed, 0 dropped, 1 failed",
        "  b: 1 frames came: 0 processed, 1 dropped (1 damaged), 0 failed",
    ]
    assert account.to_json() == {
        "event": "summary",
        "captured": 2,
        "processed": 0,
        "dropped": {"damaged": 1},
        "failed": 1,
        "sources": {
            "a": {"captured": 1, "processed": 0, "dropped": {}, "failed": 1},
            "b": {"captured": 1, "processed": 0, "dropped": {"damaged": 1}, "failed": 0},
        },
    }


def test_a_camera_that_is_given_up_does_not_stop_the_others():
    gone, there = Scripted(picture(), LOST), Scripted()
    with several(gone, there, max_reconnects=1) as source:
        frames = iter(source)
        gone.refuse = 0
        assert next(frames).source == "a"
        gone.refuse = 99
        for index in range(20):
            there.script.put(picture())
            assert (frame := next(frames)).source == "b"
            assert frame.index == index
        wait_until(lambda: source.parts[0].error)
        assert not source.ready
        there.script.put(picture())
        there.script.put(END)
        with pytest.raises(SourceLost, match=r"^a was tried 1 times and did not come back: "):
            next(frames)
            next(frames)
    assert [event.source for event in source.events if event.name == "ended"] == ["a", "b"]


def test_the_end_names_all_cameras_that_were_given_up():
    first, second = Scripted(), Scripted()
    first.refuse = second.refuse = 99
    with several(first, second, max_reconnects=0) as source, pytest.raises(SourceLost) as lost:
        list(source)
    assert str(lost.value) == (
        "a was tried 0 times and did not come back: connection refused; "
        "b was tried 0 times and did not come back: connection refused"
    )


@pytest.mark.parametrize(("error", "message"), [(ZeroDivisionError("a bug"), "a bug"), (Refused("no"), "a: no")])
def test_what_is_worse_than_a_loss_ends_all_at_once(error, message):
    class Broken(Scripted):
        def connect(self):
            raise error

    there = Scripted(*[picture()] * 5)
    before = threading.active_count()
    with several(Broken(), there) as source, pytest.raises(type(error), match=message):
        for _ in source:
            there.script.put(picture())  # it would go on for ever
    assert threading.active_count() == before
    assert there.open == 0


def test_of_several_cameras_too_one_that_is_too_fast_to_keep_fails():
    fast, slow = Scripted(*[picture()] * 40), Scripted(picture())
    with several(fast, slow, drop=False) as source:
        frames = iter(source)
        seen = [next(frames)]
        wait_until(lambda: source.parts[0].error)
        with pytest.raises(SourceError, match=r"^a gives frames faster than they are processed"):
            seen.extend(frames)
        kept = [frame.index for frame in seen if frame.source == "a"]
        assert kept == list(range(source.parts[0].read - 1))  # what it had
        assert source.parts[1].read == 1
    assert sum(source.dropped.values()) == 1


def test_cameras_of_one_name_are_told_apart():
    """Two channels of a recorder, whose addresses differ in what is not shown."""
    cameras = [Camera("rtsp://recorder/user=***", Scripted().connect, SourceOptions()) for _ in range(3)]
    source = LiveSource(*cameras)
    assert [camera.name for camera in source.parts] == [
        "rtsp://recorder/user=***",
        "rtsp://recorder/user=*** (2)",
        "rtsp://recorder/user=*** (3)",
    ]
    assert source.name == ", ".join(camera.name for camera in cameras)


@pytest.mark.parametrize(("frames", "rooms"), [(1, [1, 1]), (2, [1, 1]), (3, [2, 2]), (8, [4, 4])])
def test_cameras_share_the_room_of_a_batch(frames, rooms):
    source = several(Scripted(), Scripted())
    source.make_room(frames)
    source.make_room(1)  # it does not shrink
    assert [camera.room for camera in source.parts] == rooms


def test_stop_ends_all_cameras_while_one_is_lost_and_one_silent():
    lost, silent = Scripted(picture(), LOST), Scripted()
    before = threading.active_count()
    with several(lost, silent, backoff=(20.0, 20.0)) as source:
        frames = iter(source)
        next(frames)
        threading.Timer(0.1, source.stop).start()
        begun = time.monotonic()
        assert list(frames) == []
    assert time.monotonic() - begun < 2
    assert threading.active_count() == before


def test_what_is_dropped_at_the_end_is_told_once():
    camera = Scripted(picture())
    with live(camera) as source:
        frames = iter(source)
        next(frames)
        send(camera, source, picture())
        source.close()  # the consumer breaks off
        source.close()
    assert dropped(source) == {"stopped": [1]}
