"""A real RTMP server, nginx in a process of its own, to which a drone pushes: PyAV, in H.264. Both go away and come back."""

import shutil
import socket
import subprocess
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from waiting import free_port, listened, states, take_until

from edgecrack.errors import SourceLost
from edgecrack.runtime import SourceOptions, open_source

MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; idle_streams off; }} }} }}
"""
QUICK = {"backoff": (0.05, 0.2), "timeout": 2.0}


class Server:
    def __init__(self, folder):
        self.port = free_port()
        self.url = f"rtmp://127.0.0.1:{self.port}/live/drone"
        self.configuration = folder / "nginx.conf"
        self.configuration.write_text(CONFIGURATION.format(module=MODULE, folder=folder, port=self.port))

    def start(self):
        self.process = subprocess.Popen(
            ["/usr/sbin/nginx", "-c", self.configuration, "-p", self.configuration.parent],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("nginx does not listen")

    def kill(self):
        self.process.terminate()  # a kill would leave its worker behind
        self.process.wait()


class Drone:
    """Pushes pictures of `size` to `url` until it is stopped, and begins anew when it is thrown out."""

    def __init__(self, url, size=(160, 120)):
        self.url, self.size, self.stopped = url, size, threading.Event()
        self.thread = threading.Thread(target=self._fly)
        self.thread.start()

    def _fly(self):
        while not self.stopped.wait(0.1):
            try:
                self._push()
            except (av.error.FFmpegError, OSError):
                continue

    def _push(self):
        with av.open(self.url, "w", format="flv") as file:
            stream = file.add_stream(
                "libx264", rate=30, options={"tune": "zerolatency", "preset": "ultrafast", "g": "15"}
            )
            stream.width, stream.height = self.size
            stream.pix_fmt = "yuv420p"
            number = 0
            while not self.stopped.wait(1 / 30):
                picture = np.full((self.size[1], self.size[0], 3), 60 + number % 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                number += 1
                file.mux(stream.encode(frame))

    def land(self):
        self.stopped.set()
        self.thread.join()


@pytest.fixture
def server(tmp_path):
    if not MODULE.exists() or not shutil.which("nginx", path="/usr/sbin"):
        pytest.skip("no RTMP server: apt install nginx libnginx-mod-rtmp")
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_drone_lands_and_another_takes_off_and_the_server_is_restarted(server):
    drone = Drone(server.url)
    try:
        with listened(open_source(server.url, SourceOptions(**QUICK))) as source:
            frames = iter(source)
            assert next(frames).image.shape == (120, 160, 3)
            drone.land()
            drone = Drone(server.url, (320, 240))
            take_until(frames, lambda frame: frame.image.shape == (240, 320, 3))
            server.kill()
            server.start()
            last = take_until(frames, lambda frame: states(source).count("reconnected") >= 2)
        assert source.read == last.index + 1 + source.dropped["stopped"]
        assert states(source).count("lost") >= 2
    finally:
        drone.land()


def test_a_stream_that_nobody_pushes_is_tried_again(server):
    options = SourceOptions(**{**QUICK, "timeout": 0.5}, max_reconnects=1)
    with (
        open_source(server.url, options) as source,
        pytest.raises(SourceLost, match="tried 1 times and did not come back"),
    ):
        next(iter(source))
