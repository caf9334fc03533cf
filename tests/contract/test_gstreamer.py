"""Real GStreamer pipelines, through the bindings of the system's Python."""

import socketserver
import sys
import threading
import time

import numpy as np
import pytest

from edgecrack.errors import SourceLost
from edgecrack.runtime import SourceOptions, open_source
from edgecrack.runtime import connections as connections_module
from edgecrack.runtime.camera import Refused
from edgecrack.runtime.gstreamer import has_pygobject

BINDINGS = "/usr/lib/python3/dist-packages"  # Debian's; last, for it has other libraries too
BLUE, GREEN, RED = 0x60, 0x40, 0x20
COLOUR = f"pattern=solid-color foreground-color=0xff{RED:02x}{GREEN:02x}{BLUE:02x}"


pytestmark = [
    pytest.mark.filterwarnings("ignore::ImportWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def gstreamer(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, BINDINGS])
    if not has_pygobject():
        pytest.skip(
            "no PyGObject that fits this Python: apt install python3-gi gstreamer1.0-plugins-base gir1.2-gstreamer-1.0"
        )


def opened(pipeline, **options):
    source = open_source(f"gst:{pipeline}", SourceOptions(**{"timeout": 2.0, "max_reconnects": 0, **options}))
    source.events = []
    source.on_event = source.events.append
    return source


def test_pictures_come_with_their_colours_whatever_the_padding_of_their_rows():
    with opened(f"videotestsrc {COLOUR} ! video/x-raw,format=RGB,width=66,height=48") as source:
        frame = next(iter(source))
    assert frame.image.shape == (48, 66, 3)
    assert frame.image.flags.c_contiguous
    assert frame.image.flags.writeable
    np.testing.assert_array_equal(frame.image, np.broadcast_to([BLUE, GREEN, RED], (48, 66, 3)))


def test_a_pipeline_that_ends_is_a_camera_that_was_lost():
    with opened("videotestsrc num-buffers=5 ! video/x-raw,width=64,height=48", drop=False) as source:
        frames = []
        with pytest.raises(SourceLost, match="did not come back: the stream ended"):
            frames.extend(source)
    assert [frame.index for frame in frames] == list(range(5))


def test_a_silent_pipeline_is_let_go_of_after_its_time_out():
    begun = time.monotonic()
    with (
        opened("videotestsrc ! valve drop=true", timeout=0.5) as source,
        pytest.raises(SourceLost, match="nothing came within the time-out"),
    ):
        list(source)
    assert time.monotonic() - begun >= 0.5


def test_a_camera_that_is_not_there_says_so_and_is_tried_again():
    with (
        opened("v4l2src device=/dev/video97", max_reconnects=2, backoff=(0.01, 0.02)) as source,
        pytest.raises(SourceLost, match=r"tried 2 times.*Cannot identify device '/dev/video97'"),
    ):
        list(source)


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("nonsense", "that is no pipeline: no element"),
        ("videotestsrc ! fakesink name=appsink", "the pipeline has no appsink"),
        ("rtspsrc location=rtsp://admin:secret@127.0.0.1/1 nonsense=1 ! appsink", "that is no pipeline: no property"),
    ],
)
def test_what_is_no_pipeline_fails_at_once(pipeline, message):
    with opened(pipeline, max_reconnects=None) as source, pytest.raises(Refused, match=message) as caught:
        list(source)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_password_is_not_tried_again():
    """Cameras lock out who tries it again and again."""

    class Refuses(socketserver.StreamRequestHandler):
        def handle(self):
            while asked := self.rfile.readline().decode().split():
                lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
                number = next(line for line in lines if line.startswith("CSeq"))
                answer = "200 OK" if asked[0] == "OPTIONS" else "401 Unauthorized"
                challenge = 'Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\nWWW-Authenticate: Basic realm="camera"'
                self.wfile.write(f"RTSP/1.0 {answer}\r\n{number}\r\n{challenge}\r\n\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuses) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            pipeline = f"rtspsrc location=rtsp://admin:secret@127.0.0.1:{server.server_address[1]}/1 ! decodebin"
            with (
                opened(pipeline, max_reconnects=1, timeout=5.0) as source,
                pytest.raises(Refused, match="Unauthorized"),
            ):
                list(source)
        finally:
            server.shutdown()
            thread.join()


def test_a_sink_of_other_pixels_says_what_is_wanted():
    with (
        opened("videotestsrc ! video/x-raw,format=GRAY8 ! appsink") as source,
        pytest.raises(SourceLost, match="the appsink gives GRAY8; wanted video/x-raw,format=BGR"),
    ):
        list(source)


def test_without_pygobject_opencvs_gstreamer_is_taken(monkeypatch):
    monkeypatch.setattr(connections_module, "has_pygobject", lambda: False)
    if not connections_module.has_gstreamer():
        pytest.skip("this OpenCV was built without GStreamer")
    with opened(f"videotestsrc {COLOUR} ! video/x-raw,format=RGB,width=66,height=48") as source:
        assert next(iter(source)).image.shape == (48, 66, 3)
