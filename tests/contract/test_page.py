"""The page of `run --live`: what it serves, who is let in, and what it costs."""

from __future__ import annotations

import gc
import json
import os
import socket
import threading
import time
import weakref
from contextlib import ExitStack, closing, contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgecrack.errors import SourceError
from edgecrack.runtime import CrackDetector, Detection, Event, Frame, open_source

pytest.importorskip("starlette", reason="the page needs edgecrack[live]")
from visitor import ask, picture, state
from waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from edgecrack.runtime import page as page_module
from edgecrack.runtime.door import Door
from edgecrack.runtime.page import Page
from edgecrack.runtime.readings import Readings

TOKEN = "not-a-secret-at-all"  # noqa: S105


class Run:
    """A page with what it shows: `show` is what a run does with a frame."""

    def __init__(self, model, folder, token=None, address="0", name="frames"):
        self.detector = CrackDetector(model)
        self.source = open_source([np.zeros((48, 64, 3), np.uint8)])
        self.source.name = name
        self.readings = Readings.of(self.source)
        self.marks = []
        self.door = Door(address, token)
        self.page = Page(self.door, self.detector, self.readings, folder, self.mark)
        self.port = urlsplit(self.door.url).port
        self.url = f"http://127.0.0.1:{self.port}/"

    def mark(self, event):
        self.marks.append(event)

    def show(self, value, index=0, size=(48, 64)):
        frame = Frame(np.full((*size, 3), value, np.uint8), index, index / 10, self.source.name)
        self.readings.write(frame, self.detector.run(frame.image))

    def watch(self, **options):
        return connect(f"ws://127.0.0.1:{self.port}/watch", **options)

    def close(self):
        self.page.close()
        self.detector.close()


@pytest.fixture
def begin(model, tmp_path):
    """Open a page: `begin(token=None, address="0", name="frames")`."""
    runs = []

    def call(**options):
        runs.append(Run(model, tmp_path, **options))
        return runs[-1]

    yield call
    for run in runs:
        run.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "edgecrack page"]


# What it serves


def test_it_serves_its_own_files_and_asks_for_no_others(begin):
    run = begin()
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, text = ask(run.url + path)
        assert (status, headers.get_content_type()) == (200, kind)
        assert "//" not in text.replace("://${location", "").replace("; //", "").replace(") //", "").replace(
            "\n    //", ""
        )
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
    assert ask(run.url + "nothing")[0] == 404
    assert ask(run.url + "../door.py")[0] == 404
    assert ask(run.url + "mark")[0] == 405  # a link that is followed by chance marks nothing
    assert not run.marks


def test_the_threshold_is_the_detectors_from_the_next_frame_on(begin):
    run = begin()
    run.show(120)
    status, _, text = ask(run.url + "threshold?value=0.6", "POST")
    assert (status, json.loads(text)) == (200, {"threshold": 0.6})
    assert run.detector.threshold == 0.6
    assert run.detector.run(np.full((48, 64, 3), 120, np.uint8)).crack_pixels == 0
    with run.watch() as viewer:
        assert state(viewer)["threshold"] == 0.6


@pytest.mark.parametrize(
    "value", ["", "?value=", "?value=x", "?value=0", "?value=1.01", "?value=nan", "?value=-1", "?value=inf"]
)
def test_a_threshold_that_cannot_be_is_refused(begin, value):
    run = begin()
    status, _, text = ask(run.url + "threshold" + value, "POST")
    assert status == 400
    assert "wanted value=, a number in (0, 1], got" in text
    assert run.detector.threshold == 0.4


def test_a_mark_says_when_and_where(begin):
    run = begin()
    status, _, text = ask(run.url + "mark", "POST")
    assert status == 409
    assert "no frame came yet" in text
    run.show(10, index=41)
    run.show(10, index=42)
    before = time.time()
    status, _, text = ask(run.url + "mark", "POST")
    (event,) = run.marks
    assert (event.name, event.source, event.details) == ("marked", "frames", {"index": 42, "time": 4.2})
    assert before <= event.utc <= time.time()
    assert (status, json.loads(text)) == (200, [event.to_json()])


def test_a_name_that_is_not_utf_8_is_shown_and_marked(begin):
    run = begin(name=os.fsdecode(b"road\xff"))
    run.show(10)
    with run.watch() as viewer:
        assert state(viewer)["sources"][0]["name"] == "road\udcff"
    status, _, text = ask(run.url + "mark", "POST")
    assert (status, json.loads(text)[0]["source"]) == (200, "road\udcff")


def test_a_mark_that_cannot_be_written_is_not_called_one(begin, monkeypatch):
    run = begin()
    run.show(10)

    def full(event):
        raise SourceError("cannot write log.jsonl: No space left on device")

    monkeypatch.setattr(run.page, "_mark", full)
    assert ask(run.url + "mark", "POST")[::2] == (507, "cannot write log.jsonl: No space left on device")


def test_what_is_told(begin):
    run = begin()
    with run.watch() as viewer:
        (source,) = state(viewer)["sources"]
        assert (source["state"], source["silence"], source["crack_share"]) == ("waiting", None, None)
        run.readings.write_event(Event("connected", "frames", 0.0))
        run.show(120, index=7)
        run.source.dropped.update(newer=3, every=5)
        told = wait_until(lambda: (now := state(viewer))["sources"][0]["frames"] and now)
        (source,) = told["sources"]
        assert {
            "name": "frames",
            "state": "connected",
            "dropped": 3,
            "crack_share": 1.0,
        }.items() <= source.items()
        assert source["latency"] > 0
        assert told["free"] > 0
        run.readings.write_event(Event("lost", "frames", 0.0, {"reason": "it went away"}))
        run.readings.write_event(Event("left out", "out/overlay.mp4", 0.0, {"reason": "cannot write out/overlay.mp4"}))
        told = wait_until(lambda: (now := state(viewer))["troubles"] and now)
        assert told["troubles"] == ["cannot write out/overlay.mp4"]
        assert (told["sources"][0]["state"], told["sources"][0]["reason"]) == ("lost", "it went away")


# Who is let in


def test_on_the_machine_itself_no_token_is_asked_for(begin):
    run = begin()
    assert run.door.token is None
    assert run.door.url == run.url
    assert ask(run.url)[0] == 200


def test_a_name_that_was_pointed_at_this_machine_is_refused(begin):
    run = begin()
    run.show(10)
    assert ask(run.url, Host="evil.example")[0] == 403
    assert ask(run.url + "mark", "POST", Host="evil.example", Origin="http://evil.example")[0] == 403
    assert not run.marks


def test_another_sites_page_can_do_nothing(begin):
    run, origin = begin(), "http://evil.example"
    run.show(10)
    assert ask(run.url + "mark", "POST", Origin=origin)[0] == 403
    assert ask(run.url + "threshold?value=0.9", "POST", Origin=origin)[0] == 403
    with pytest.raises(InvalidStatus) as refused, run.watch(additional_headers={"Origin": origin}):
        pass
    assert refused.value.response.status_code == 403
    assert not run.marks
    assert run.detector.threshold == 0.4
    assert ask(run.url + "mark", "POST", Origin=run.url.rstrip("/"))[0] == 200


def test_whoever_has_no_token_sees_nothing(begin, caplog):
    run = begin(token=TOKEN)
    run.show(10)
    assert TOKEN not in run.door.url  # whoever chose it knows it
    status, headers, text = ask(run.url)
    assert status == 401
    assert "<form" in text
    assert "set-cookie" not in headers
    for given in ("", "x", TOKEN[:-1], TOKEN + "x", "%C3%A4"):
        assert ask(f"{run.url}?token={given}")[0] == 401
        assert ask(run.url, Authorization=f"Bearer {given}", Cookie=f"edgecrack-{run.port}={given}")[0] == 401
    for path, method in (("page.js", "GET"), ("mark", "POST"), ("threshold?value=0.9", "POST")):
        assert ask(run.url + path, method)[0] == 401
    with pytest.raises(InvalidStatus), run.watch():
        pass
    assert not run.marks
    assert run.detector.threshold == 0.4
    assert TOKEN not in caplog.text


def test_the_token_opens_the_page_and_a_cookie_keeps_it_open(begin):
    run = begin(token=TOKEN)
    status, headers, _ = ask(f"{run.url}?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")  # so that it does not stay in the browser's history
    cookie, _, attributes = headers["set-cookie"].partition(";")
    assert "HttpOnly" in attributes
    assert "SameSite=Lax" in attributes
    assert TOKEN not in cookie
    assert ask(run.url, Cookie=cookie)[0] == 200
    assert ask(run.url, Cookie=f"a=b; {cookie}", Host="tablet.example")[0] == 200  # the token is what counts
    with run.watch(additional_headers={"Cookie": cookie}) as viewer:
        assert state(viewer)["threshold"] == 0.4
    assert ask(run.url + "threshold?value=0.9", "POST", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(run.url + "mark", "POST", Cookie=cookie, Origin="http://evil.example")[0] == 403


# What it costs


class Plotted(Detection):
    plots = 0

    def plot(self, image):
        type(self).plots += 1
        return super().plot(image)


def test_pictures_are_drawn_only_while_somebody_watches(begin, monkeypatch):
    run = begin()
    monkeypatch.setattr(Plotted, "plots", 0)

    def show(index):
        frame = Frame(np.full((48, 64, 3), 120, np.uint8), index, None, "frames")
        detection = run.detector.run(frame.image)
        run.readings.write(frame, Plotted(detection.answer, detection.fit, 0.4))

    for index in range(20):
        show(index)
    assert ask(run.url)[0] == 200
    assert Plotted.plots == 0
    with run.watch() as viewer, run.watch() as other:
        picture(viewer)
        picture(other)
    assert Plotted.plots == 1  # for both
    for index in range(20):
        show(index)
    assert ask(run.url)[0] == 200
    assert Plotted.plots == 1


def test_a_viewer_is_given_the_newest_picture_and_no_other(begin):
    run = begin()
    with run.watch() as viewer:
        for value in range(0, 100, 5):
            run.show(value)
        number, image = picture(viewer)
        assert number == 0
        assert abs(int(image.mean()) - 95) <= 2
        viewer.send("next")
        assert isinstance(viewer.recv(20), str)  # there is nothing newer
        run.show(50)
        assert abs(int(picture(viewer)[1].mean()) - 50) <= 2


def test_large_frames_are_sent_no_larger_than_a_tablet_shows(begin):
    run = begin()
    run.show(10, size=(1440, 2560))
    with run.watch() as viewer:
        assert picture(viewer)[1].shape == (720, 1280, 3)


@contextmanager
def stalled_viewer(port):
    """A viewer that asks for twenty messages and reads none, with hardly any room for them on its side."""
    with socket.socket() as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.connect(("127.0.0.1", port))
        head = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        viewer.sendall(f"GET /watch HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}{'A' * 22}==\r\n\r\n".encode())
        viewer.sendall(20 * (b"\x81\x84" + bytes(4) + b"next"))  # text of four bytes, masked by zeros
        yield viewer


def test_viewers_that_stall_hold_up_nobody_and_keep_nothing(begin, capfd):
    run = begin()
    rng = np.random.default_rng(0)
    seen = []

    def show():
        frame = Frame(rng.integers(0, 90, (1080, 1920, 3), np.uint8), len(seen), None, "frames")
        seen.append(weakref.ref(frame))
        run.readings.write(frame, run.detector.run(frame.image))

    show()
    with stalled_viewer(run.port), stalled_viewer(run.port), run.watch() as viewer:
        for _ in range(30):
            show()
            picture(viewer)
        gc.collect()
        assert sum(frame() is not None for frame in seen) <= 2
        run.page.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "edgecrack page"]
    assert capfd.readouterr() == ("", "")


def test_a_viewer_that_asks_for_nothing_is_let_go(begin, monkeypatch):
    monkeypatch.setattr(page_module, "_PATIENCE", 0.2)
    with begin().watch() as viewer, pytest.raises(ConnectionClosed) as closed:
        viewer.recv(20)
    assert closed.value.rcvd.code == 1001


def test_connections_that_ask_for_nothing_take_no_handles(begin, monkeypatch):
    monkeypatch.setattr(page_module, "_PATIENCE", 0.5)
    monkeypatch.setattr(page_module, "_VIEWERS", 4)
    run = begin()
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", run.port))) for _ in range(20)]
        for connection in idle:
            connection.settimeout(20)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""  # hung up
    assert ask(run.url)[0] == 200


def test_whatever_a_viewer_sends_is_a_wish_for_more(begin, caplog):
    run = begin()
    with run.watch() as viewer:
        for wish in ("next", "", b"\xff\0", "{"):
            viewer.send(wish)
            assert viewer.recv(20)
        viewer.send("x" * 2000)
        with pytest.raises(ConnectionClosed):
            viewer.recv(20)
    assert ask(run.url)[0] == 200
    assert not caplog.records


def test_it_ends_though_viewers_do_not(begin, capfd):
    run = begin()
    run.show(10)
    with run.watch() as viewer, closing(socket.create_connection(("127.0.0.1", run.port))) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: localh")
        picture(viewer)
        run.page.close()
        run.page.close()
        with pytest.raises(ConnectionClosed):
            picture(viewer)
    assert not [thread for thread in threading.enumerate() if thread.name == "edgecrack page"]
    with Door(str(run.port)):
        pass
    assert capfd.readouterr() == ("", "")
