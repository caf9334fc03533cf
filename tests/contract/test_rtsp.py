"""A real RTSP camera, GStreamer's server in a process of its own: killed, restarted, stalled, resized, with a password."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from waiting import free_port, listened, states, take_until

from edgecrack.errors import SourceError, SourceLost
from edgecrack.runtime import SourceOptions, open_source

PYTHON = Path("/usr/bin/python3")  # GStreamer's bindings are the system's
SERVER = Path(__file__).parents[1] / "rtsp_server.py"
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
CHECK = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("videotestsrc", "x264enc", "rtph264pay")))
"""
USER, PASSWORD, ESCAPED = "surveyor", "se@cr/et", "se%40cr%2Fet"
QUICK = {"backoff": (0.05, 0.2), "timeout": 2.0}


class RtspCamera:
    """The server at one port; `start` waits until it listens."""

    def __init__(self):
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def url_with(self, password):
        return f"rtsp://{USER}:{password}@127.0.0.1:{self.port}/cam"

    def start(self, *options):
        command = [PYTHON, SERVER, str(self.port), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def resize(self, size):
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def gstreamer():
    if not PYTHON.exists() or subprocess.run([PYTHON, "-c", CHECK], capture_output=True).returncode:
        pytest.skip(f"GStreamer's RTSP server is not installed: apt install {PACKAGES}")


@pytest.fixture
def rtsp(gstreamer):
    camera = RtspCamera()
    yield camera
    if camera.process and camera.process.returncode is None:
        camera.kill()


def opened(url, **options):
    return listened(open_source(url, SourceOptions(**{**QUICK, **options})))


def test_a_camera_is_killed_restarted_resized_and_stalls(rtsp):
    rtsp.start()
    with opened(rtsp.url) as source:
        frames = iter(source)
        first = next(frames)
        assert first.image.shape == (240, 320, 3)
        assert first.image.std() > 20  # the pattern, and no grey
        rtsp.resize("640x480")
        take_until(frames, lambda frame: frame.image.shape == (480, 640, 3))
        rtsp.kill()
        threading.Timer(0.5, rtsp.start, ["--size", "160x120"]).start()
        take_until(frames, lambda frame: frame.image.shape == (120, 160, 3))
        rtsp.process.send_signal(signal.SIGSTOP)
        take_silence = time.monotonic()
        threading.Timer(3.0, rtsp.process.send_signal, [signal.SIGCONT]).start()
        last = take_until(frames, lambda frame: states(source).count("reconnected") == 2)
    assert states(source) == ["connected", "resized", "lost", "reconnected", "lost", "reconnected"]
    reasons = [event.details["reason"] for event in source.events if event.name == "lost"]
    assert reasons[1] == "nothing came within the time-out"
    assert last.monotonic > take_silence + 2  # of after the silence, not of before
    assert source.read == last.index + 1 + source.dropped["stopped"]
    assert rtsp.process.poll() is None


def test_pictures_in_slices_come_whole(rtsp):
    """Parameters of the decoder between two slices look like the end of a picture: half of it would be made up."""
    rtsp.start()
    with opened(rtsp.url, drop=False) as source:
        frames = iter(source)
        bars = [next(frames).image[:140] for _ in range(100)]  # of the pattern, what does not move
    still = np.median(bars[50:], axis=0)
    assert max(float(np.abs(picture - still).mean()) for picture in bars) < 5


def test_a_camera_that_boots_later_than_we_do_is_waited_for(rtsp):
    with opened(rtsp.url, drop=False) as source:  # else the first may be dropped for one newer
        threading.Timer(1.0, rtsp.start).start()
        assert next(iter(source)).index == 0
    assert source.events[0].name == "unreachable"
    assert source.events[0].details["reason"] == "cannot connect: Connection refused"


def test_a_stream_that_is_not_there_yet_is_tried_again(rtsp):
    rtsp.start()
    with (
        opened(rtsp.url.replace("cam", "other"), max_reconnects=2) as source,
        pytest.raises(SourceLost, match="tried 2 times and did not come back: cannot connect: Server returned 404"),
    ):
        next(iter(source))


@pytest.mark.parametrize("password", ["wr@ng%2Fone", None])
def test_a_wrong_password_fails_at_once_and_is_not_shown(rtsp, caplog, password):
    rtsp.start("--user", f"{USER}:{PASSWORD}")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(SourceError, match="refuses the user name or the password") as caught,
    ):
        next(iter(open_source(rtsp.url_with(password) if password else rtsp.url, SourceOptions(**QUICK))))
    assert not isinstance(caught.value, SourceLost)
    text = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert "\n" not in str(caught.value)
    assert not [secret for secret in ("wr@ng", "ng%2Fone", USER) if secret in text]


def test_a_run_with_a_password_keeps_it_to_itself(rtsp, model, tmp_path):
    """Through a kill and a restart, with every frame accounted for."""
    credentials = ("--user", f"{USER}:{PASSWORD}")
    rtsp.start(*credentials)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", rtsp.url_with(ESCAPED), "--out", out]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            wait_for(out, "connected", run)
            rtsp.kill()
            wait_for(out, "lost", run)
            rtsp.start(*credentials)
            wait_for(out, "reconnected", run)
            run.send_signal(signal.SIGTERM)
            stdout, stderr = run.communicate(timeout=20)
        finally:
            run.kill()
    assert run.returncode == 143, stderr
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    done = [line["index"] for line in lines if "event" not in line]
    for line in lines:
        if line.get("event") == "dropped":
            done += range(line["first"], line["last"] + 1)
    assert sorted(done) == list(range(lines[-1]["captured"]))
    assert lines[-1]["failed"] == 0
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"rtsp://***@127.0.0.1" in written
    assert f"rtsp://***@127.0.0.1:{rtsp.port}/cam: lost" in stderr
    for secret in (USER, PASSWORD, ESCAPED):
        assert secret not in stdout + stderr
        assert secret.encode() not in written


def wait_for(out, event, run):
    """Wait until the log tells of `event` and has a frame after it, where one is to come."""
    deadline = time.monotonic() + 60
    log = out / "log.jsonl"
    while True:
        lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []
        places = [place for place, line in enumerate(lines) if line.get("event") == event]
        if places and (event == "lost" or ("event" not in lines[-1] and places[-1] < len(lines) - 1)):
            return
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
