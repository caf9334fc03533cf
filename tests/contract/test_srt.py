"""A real SRT sender, GStreamer's in a process of its own: killed and restarted, with a passphrase.

What reads it runs in processes of their own too: where a plugin in C++ may not throw, GStreamer ends the process.
"""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import free_port, wait_until

from edgecrack.runtime import network
from edgecrack.runtime.sources import described

PYTHON = Path("/usr/bin/python3")  # GStreamer's bindings are the system's
BINDINGS = "/usr/lib/python3/dist-packages"  # last, for it has other libraries too
SENDER = Path(__file__).parents[1] / "srt_sender.py"
PACKAGES = "python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-ugly gstreamer1.0-plugins-bad"
CHECK = """
import sys
sys.path.append(sys.argv[1])
import gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
assert all(map(Gst.ElementFactory.find, ("videotestsrc", "x264enc", "mpegtsmux", "srtsink", "srtsrc", "openh264dec")))
"""
RUN = """
import sys
sys.path.append(sys.argv.pop(1))
from edgecrack.cli import main
main()
"""
SECRET, WRONG = "geheim-und-lang", "not-geheim-und-lang"


class Sender:
    """The sender at one port; `start` waits until it listens."""

    def __init__(self):
        self.port = free_port(socket.SOCK_DGRAM)

    def start(self):
        command = [PYTHON, SENDER, str(self.port), SECRET]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def sender():
    for python in (PYTHON, sys.executable):
        if not PYTHON.exists() or subprocess.run([python, "-c", CHECK, BINDINGS], capture_output=True).returncode:
            pytest.skip(f"no GStreamer with SRT whose bindings fit {python}: apt install {PACKAGES}")
    sender = Sender()
    sender.start()
    yield sender
    sender.kill()


def lines_of(out):
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def test_a_drone_that_goes_away_and_comes_back_is_followed_and_a_signal_ends_the_run(sender, model, tmp_path):
    out = tmp_path / "out"
    address = f"srt://127.0.0.1:{sender.port}?passphrase={SECRET}"
    options = ["--source", address, "--out", out, "--no-overlay", "--headless"]
    command = [sys.executable, "-W", "ignore", "-c", RUN, BINDINGS, "run", model, *options]

    def told(name):
        return any(line.get("event") == name for line in lines_of(out))

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            wait_until(lambda: told("connected"), run)
            sender.kill()
            wait_until(lambda: told("lost"), run)
            sender.start()
            wait_until(lambda: told("reconnected"), run)
            run.send_signal(signal.SIGTERM)
            stdout, stderr = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 143, stderr
    lines = lines_of(out)
    assert lines[-1]["captured"] == lines[-1]["processed"] + sum(lines[-1]["dropped"].values())
    assert SECRET not in (out / "log.jsonl").read_text() + stdout + stderr


def test_a_wrong_passphrase_is_told_and_not_shown(sender, model, tmp_path):
    address = f"srt://127.0.0.1:{sender.port}?passphrase={WRONG}"
    options = ["--source", address, "--out", tmp_path / "out", "--max-reconnects", "0"]
    command = [sys.executable, "-W", "ignore", "-c", RUN, BINDINGS, "run", model, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert "did not come back" in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.skipif(network.has_srt(), reason="this PyAV has SRT")
def test_the_pipeline_can_be_printed():
    shown = described("srt://10.0.0.7:9000?passphrase=geheim&latency=200")
    assert shown.startswith(
        """gst-launch-1.0 srtsrc uri="srt://10.0.0.7:9000?passphrase=***&latency=200" '!' decodebin '!' """
    )
