"""What `edgecrack run` shows on a terminal while it runs, and what it does not show elsewhere."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edgecrack.runtime import Account, Detection, Event, Frame, open_source
from edgecrack.runtime.readings import Readings


class Terminal:
    """A run whose standard error is a terminal of 100 columns; `text` is what it was shown, without colours."""

    def __init__(self, *command):
        self._own, other = pty.openpty()
        environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other, text=True, env=environment)
        os.close(other)
        self._shown = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while data := os.read(self._own, 65536):
                self._shown += data
        except OSError:  # what a terminal says at its end
            pass

    @property
    def text(self):
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._shown.decode(errors="replace"))

    def wait_for(self, pattern):
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text[-2000:]
            assert self.process.poll() is None or re.search(pattern, self.text), self.text[-2000:]
            time.sleep(0.02)

    def end(self):
        out, _ = self.process.communicate(timeout=60)
        self._reader.join(60)
        return out

    def close(self):
        self.process.kill()
        self.end()
        os.close(self._own)


@pytest.fixture
def terminal(model, tmp_path):
    opened = []

    def call(*options):
        command = [sys.executable, "-m", "edgecrack", "run", model, "--out", tmp_path / "out", "--no-overlay"]
        opened.append(Terminal(*map(str, [*command, *options])))
        return opened[-1]

    yield call
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for value in range(30):
        writer.write(np.full((48, 64, 3), 5 * value, np.uint8))
    writer.release()
    return path


def test_a_file_has_a_line_and_a_bar(terminal, video):
    shown = terminal("--source", video)
    out = shown.end()
    assert re.search(r"source +state +frames/s +delay +dropped +crack", shown.text)
    assert re.search(r"connected +\d+\.\d +\d+ ms +0 +\d+\.\d\d%", shown.text)
    assert "30/30" in shown.text
    assert out.startswith("30 frames, ")
    assert "drive.avi" not in out
    assert "30 frames, " not in shown.text  # results go to standard output alone


def test_a_camera_that_is_lost_is_said_to_be(terminal, camera):
    shown = terminal("--source", camera.url)
    shown.wait_for(r"connected +\d+\.\d")
    camera.kill()
    shown.wait_for(r"lost: ")
    camera.start()
    shown.process.send_signal(signal.SIGINT)
    shown.end()
    assert shown.process.returncode == 130
    assert "secret" not in shown.text
    assert "Traceback" not in shown.text


def test_headless_shows_nothing(terminal, video):
    shown = terminal("--source", video, "--headless")
    assert shown.end().startswith("30 frames, ")
    assert shown.text == ""


def test_where_there_is_no_terminal_there_are_results_and_nothing_else(model, video, tmp_path):
    command = [
        sys.executable,
        "-m",
        "edgecrack",
        "run",
        model,
        "--source",
        video,
        "--out",
        tmp_path / "out",
        "--no-overlay",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 4


# What is read


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("edgecrack.runtime.readings.time.monotonic", lambda: now.seconds)
    return now


def seen(index=0, source="frames", arrived=None, value=0):
    frame = Frame(np.zeros((4, 4, 3), np.uint8), index, None, source, arrived)
    return frame, Detection.of(np.full((4, 4), value, np.uint8), 0.5)


@pytest.fixture
def readings():
    return Readings.of(open_source([np.zeros((4, 4, 3), np.uint8)]))


def test_the_pace_is_of_the_intervals_and_falls_when_nothing_comes(readings, clock):
    assert readings.now()[0].pace == 0
    readings.write(*seen(0))
    assert readings.now()[0].pace == 0  # one frame has no pace
    for index in range(1, 101):
        clock.seconds += 0.25
        readings.write(*seen(index))
        assert readings.now()[0].pace == pytest.approx(4)
    clock.seconds += 0.9
    assert readings.now()[0].pace == pytest.approx(4)
    clock.seconds += 9.1
    (reading,) = readings.now()
    assert reading.pace == pytest.approx(29 / (29 * 0.25 + 10))
    assert reading.silence == pytest.approx(10)
    assert reading.frames == 101


def test_the_delay_of_a_camera_is_its_age_and_of_a_file_what_its_stages_took(readings, clock):
    readings.write(*seen(arrived=999.75))
    assert readings.now()[0].latency == pytest.approx(250)
    frame, detection = seen()
    detection.speed.update(preprocess=1.0, inference=20.0)
    readings.write(frame, detection)
    assert readings.now()[0].latency == pytest.approx(21, abs=0.9)  # scaling back took its time too


def test_each_camera_is_read_by_itself_and_events_change_its_state():
    cameras = [SimpleNamespace(name=name, dropped=Counter(newer=2, every=7)) for name in ("left", "right")]
    readings = Readings(cameras)
    readings.write(*seen(5, "right", 1.0, 255))
    left, right = readings.now()
    assert (left.frames, left.crack_share, left.dropped, left.state) == (0, None, 2, "waiting")
    assert (right.frames, right.crack_share) == (1, 1.0)
    for name, state in (
        ("connected", "connected"),
        ("dropped", "connected"),
        ("lost", "lost"),
        ("unreachable", "lost"),
        ("resized", "connected"),
        ("ended", "ended"),
    ):
        readings.write_event(Event(name, "left", 0.0, {"reason": "why"} if state == "lost" else {}))
        left, right = readings.now()
        assert (left.state, left.reason) == (state, "why" if state == "lost" else "")
        assert right.state == "connected"  # though it has no events, as a pipe
    readings.write_event(Event("lost", "nobody", 0.0))
    readings.write_event(Account(1, 1, {}, 0))


def test_the_newest_is_kept_and_no_other(readings):
    assert readings.newest() == [None]
    for index in range(3):
        shown = seen(index)
        readings.write(*shown)
    assert readings.newest() == [(3, *shown)]


def test_a_folders_frames_are_its_own_though_named_by_their_files(readings):
    readings.write(*seen(source="folder/a.jpg"))
    readings.write(*seen(1, source="folder/b.jpg"))
    assert [reading.frames for reading in readings.now()] == [2]
