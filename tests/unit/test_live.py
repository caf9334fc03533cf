"""The accounting of a live source, with cameras whose every frame, stall and failure the test decides."""

import gc
import logging
import queue
import threading
import time

import numpy as np
import pytest
from waiting import wait_until

from edgecrack.errors import SourceError, SourceLost, SpecError
from edgecrack.runtime import Account, Camera, LiveSource, SourceOptions
from edgecrack.runtime.address import check_url, redacted, scheme_of
from edgecrack.runtime.camera import Refused

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
    ("source", "shown"),
    [
        ("rtsp://camera/1", "rtsp://camera/1"),
        ("rtsp://user:secret@camera:554/1?x=2", "rtsp://***@camera:554/1?x=2"),
        ("rtsp://user:se@cr/et@camera/1", "rtsp://***@camera/1"),
        ("http://camera/video?user=admin&pwd=secret&fps=5", "http://camera/video?user=***&pwd=***&fps=5"),
        ("rtsp://camera/user=admin_password=secret_channel=1.sdp", "rtsp://camera/user=***"),
        ("srt://camera:9?passphrase=secret&latency=20", "srt://camera:9?passphrase=***&latency=20"),
        (
            'gst:rtspsrc location=rtsp://u:secret@h/1 user-id=admin user-pw="my secret" latency=0 ! decodebin',
            "gst:rtspsrc location=rtsp://***@h/1 user-id=*** user-pw=*** latency=0 ! decodebin",
        ),
        ("gst:x264enc key-int-max=30 ! fakesink", "gst:x264enc key-int-max=30 ! fakesink"),
    ],
)
def test_passwords_are_not_shown(source, shown):
    assert redacted(source) == shown


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("0", "v4l2"),
        ("/dev/video12", "v4l2"),
        ("RTSP://camera", "rtsp"),
        ("csi://0", "csi"),
        ("gst:videotestsrc", "gst"),
        ("raw:1x1@1", "raw"),
        ("road.mp4", ""),
        ("photos/*.jpg", ""),
        ("C:/road.mp4", ""),
        ("2024", ""),
    ],
)
def test_the_kind_of_source_is_seen_from_its_string(source, scheme):
    assert scheme_of(source) == scheme


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
        {"max_reconnects": -1},
    ],
)
def test_an_option_that_cannot_be_is_refused(wrong):
    with pytest.raises(SpecError):
        SourceOptions(**wrong)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://camera/1",
        "rtsp://user:secret@camera:554/1?x=a@b",
        "rtsp://user:se@cret@10.0.0.1:8554",
        "http://[fe80::1]:8080/video",
        "udp://:5000",
        "udp://@239.0.0.1:1234?pkt_size=1316",
        "srt://:9000?mode=listener",
        "rtmp://a/b/c",
    ],
)
def test_an_address_that_may_be_is_taken(url):
    check_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtsp://", "got no host"),
        ("rtsp:///live", "got no host"),
        ("rtsp://user:secret@/live", "got no host"),
        ("rtsp://camera:99999/1", "host or port"),
        ("rtsp://camera:0/1", "host or port"),
        ("rtsp://admin:secret", "host or port"),
        ("rtsp://two words/1", "host or port"),
        ("udp://239.0.0.1", "got no port"),
        ("srt://camera/x", "got no port"),
    ],
)
def test_an_address_that_never_comes_right_is_refused_without_being_shown(url, message):
    with pytest.raises(SpecError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


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


# Several cameras as one source.


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
