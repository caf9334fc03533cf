"""Real streams on loopback, MJPEG over HTTP and MPEG-TS over UDP, and what is told of others beforehand."""

import contextlib
import http.server
import logging
import socket
import sys
import threading
import time
import traceback
from contextlib import contextmanager

import av
import cv2
import numpy as np
import pytest
from waiting import free_port, listened, states, take_until

from edgecrack.errors import MissingDependency, SourceError, SourceLost, SpecError
from edgecrack.runtime import LiveSource, SourceOptions, network, open_source
from edgecrack.runtime import connections as connections_module
from edgecrack.runtime.camera import Refused
from edgecrack.runtime.gstreamer import pipeline_of
from edgecrack.runtime.network import NetworkConnection
from edgecrack.runtime.sources import described
from edgecrack.spec import FrameSpec

pytestmark = pytest.mark.usefixtures("no_thread_is_left")
QUICK = {"backoff": (0.05, 0.1), "timeout": 0.6}


def opened(source, **options):
    return listened(open_source(source, SourceOptions(**{**QUICK, **options})))


def test_a_camera_is_watched_as_it_is_killed_restarted_stalls_and_changes_its_size(camera):
    with opened(camera.url) as source:
        frames = iter(source)
        first = next(frames)
        assert first.image.shape == (48, 64, 3)
        assert abs(first.image.mean() - 50) < 3
        camera.kill()
        threading.Timer(0.4, camera.start).start()
        take_until(frames, lambda frame: "reconnected" in states(source))
        camera.silent = True
        threading.Timer(1.2, setattr, [camera, "silent", False]).start()
        take_until(frames, lambda frame: states(source).count("reconnected") == 2)
        camera.size = (72, 96)
        larger = take_until(frames, lambda frame: frame.image.shape == (72, 96, 3))
    assert abs(larger.image.mean() - 50) < 3
    assert states(source) == ["connected", "lost", "reconnected", "lost", "reconnected", "resized"]
    reasons = [event.details["reason"] for event in source.events if event.name == "lost"]
    assert reasons[0] in ("the stream ended", "Input/output error")
    assert reasons[1] == "nothing came within the time-out"
    assert "secret" not in repr([source.events, source.name, first.source])


def test_frames_are_new_and_not_invented(camera):
    """While the camera is lost nothing comes, and what comes after is of after."""
    with opened(camera.url) as source:
        frames = iter(source)
        before = next(frames)
        camera.kill()
        camera.value = 200
        gone = time.monotonic()
        threading.Timer(0.5, camera.start).start()
        after = take_until(frames, lambda frame: frame.monotonic > gone + 0.3)
    assert abs(before.image.mean() - 50) < 3
    assert abs(after.image.mean() - 200) < 3
    assert after.monotonic >= gone + 0.5
    assert after.utc - before.utc == pytest.approx(after.monotonic - before.monotonic, abs=0.05)


def test_a_slow_consumer_gets_fresh_frames_and_an_account_that_adds_up(camera):
    ages, seen = [], []
    with opened(camera.url) as source:
        for frame in source:
            ages.append(time.monotonic() - frame.monotonic)
            seen.append(frame.index)
            time.sleep(0.05)
            if len(seen) == 20:
                source.stop()
    assert max(ages[1:]) < 0.2  # a net of 20 a second on a camera of 100: no delay builds up
    assert source.read > 60
    lost = [
        index
        for event in source.events
        if event.name == "dropped"
        for index in range(event.details["first"], event.details["last"] + 1)
    ]
    waiting_at_the_end = source.dropped["stopped"] and lost[-1] not in lost[:-1]
    assert sorted(seen + lost) == list(range(source.read)), waiting_at_the_end
    assert len(seen) + sum(source.dropped.values()) == source.read


def test_without_drops_a_consumer_that_is_too_slow_fails(camera):
    with (
        opened(camera.url, drop=False) as source,
        pytest.raises(SourceError, match="faster than they are processed"),
    ):
        for _ in source:
            time.sleep(0.05)
    assert not isinstance(source.parts[0].error, SourceLost)


def test_a_camera_that_does_not_come_back_is_lost_and_its_password_is_nowhere(camera, caplog):
    source = open_source(camera.url, SourceOptions(**QUICK, max_reconnects=2))
    with caplog.at_level(logging.DEBUG), source:
        frames = iter(source)
        next(frames)
        camera.kill()
        with pytest.raises(
            SourceLost, match="tried 2 times and did not come back: cannot connect: Connection refused"
        ) as lost:
            list(frames)
    text = "".join(traceback.format_exception(lost.value)) + caplog.text + repr(lost.value.__context__)
    assert f"http://***@127.0.0.1:{camera.port}/video?token=***" in text
    assert "secret" not in text


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
def test_an_error_of_the_library_does_not_carry_the_password(scheme):
    with pytest.raises(SourceError) as caught:
        NetworkConnection(f"{scheme}://user:secret@127.0.0.1:9/x", 1.0)
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert str(error) == "cannot connect: Connection refused"


def test_a_file_behind_http_is_no_camera(tmp_path):
    from edgecrack.runtime import VideoWriter

    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for _ in range(20):
            video.write(np.zeros((48, 64, 3), np.uint8))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            for scheme in ("http", "HTTP"):
                with pytest.raises(Refused, match=r"it is a file of \d s and no camera"):
                    NetworkConnection(f"{scheme}://127.0.0.1:{server.server_port}/a.mp4", 2.0)
        finally:
            server.shutdown()
            thread.join()


def test_a_network_source_without_pyav_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"reading rtsp:// needs PyAV; pip install .edgecrack\[video\]."):
        open_source("rtsp://127.0.0.1/1")


def test_srt_is_refused_at_once_where_nothing_can_read_it(monkeypatch):
    for name in ("has_pygobject", "has_gstreamer"):
        monkeypatch.setattr(connections_module, name, lambda: False)
    if network.has_srt():
        assert isinstance(open_source("srt://127.0.0.1:9999"), LiveSource)
    else:
        with pytest.raises(SourceError, match="srt: sources need a PyAV built with SRT, PyGObject or an OpenCV with"):
            open_source("srt://127.0.0.1:9999")


@pytest.mark.parametrize("source", ["97", "/dev/video97", "v4l2:///dev/video97"])
def test_a_v4l2_camera_that_is_not_there_is_told(source, capfd):
    with (
        pytest.raises(SourceLost, match="did not come back: there is no /dev/video97"),
        open_source(source, SourceOptions(max_reconnects=0)) as camera,
    ):
        list(camera)
    assert capfd.readouterr().err.count("\n") <= 2  # our own words, and not OpenCV's


# GStreamer: what can be told without one.


def test_the_pipeline_of_a_csi_camera():
    assert pipeline_of("csi://1", SourceOptions(size=FrameSpec(720, 1280), rate=60)) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=60/1 ! nvvidconv ! "
        "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink sync=false drop=false max-buffers=2"
    )


def test_a_pipeline_of_ones_own_gets_a_sink_unless_it_has_one():
    assert pipeline_of("gst:videotestsrc", SourceOptions()).startswith("videotestsrc ! videoconvert ! ")
    assert pipeline_of("gst:videotestsrc ! appsink", SourceOptions()) == "videotestsrc ! appsink"


def test_a_pipeline_is_described_as_a_command_without_its_password():
    said = described("gst:rtspsrc location=rtsp://u:secret@h/1 ! decodebin", SourceOptions())
    assert said.startswith("gst-launch-1.0 rtspsrc 'location=rtsp://***@h/1' '!' decodebin '!' videoconvert")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtsp://u:secret@h/1", "rtsp://***@h/1 through PyAV"),
        ("0", "0 through OpenCV's V4L2"),
        ("raw:64x48@30", "raw:64x48@30 through a pipe"),
    ],
)
def test_a_camera_is_described_without_being_there(source, said):
    assert described(source) == said


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("rtsp:///1", {}, "got no host"),
        ("rtps://camera", {}, "cannot read rtps://"),
        ("raw:64@30", {}, "raw:WIDTHxHEIGHT@RATE"),
        ("http://camera", {"codec": "MJPG"}, "http takes no codec"),
        ("/nowhere/drive.mp4", {}, "no file or folder /nowhere/drive.mp4"),
    ],
)
def test_what_cannot_be_read_is_said_beforehand(source, options, message):
    with pytest.raises((SpecError, SourceError), match=message):
        described(source, SourceOptions(**options))


def test_a_pipeline_says_that_it_cannot_run_here(monkeypatch):
    monkeypatch.setattr(connections_module, "has_gstreamer", lambda: False)
    monkeypatch.setattr(connections_module, "has_pygobject", lambda: False)
    assert described("csi://0").endswith("  # not from here: neither this Python nor its OpenCV has GStreamer")


@pytest.mark.parametrize("source", ["csi://0", "gst:videotestsrc"])
def test_a_gstreamer_source_without_gstreamer_is_one_clear_line(source, monkeypatch):
    monkeypatch.setattr(connections_module, "has_gstreamer", lambda: False)
    monkeypatch.setattr(connections_module, "has_pygobject", lambda: False)
    with pytest.raises(
        SourceError, match=r"need PyGObject or an OpenCV with GStreamer.*--system-site-packages"
    ) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


# MPEG-TS over UDP.


@contextmanager
def sending(port, height=48, width=64):
    """Send H.264 in MPEG-TS to `port` until the block is left."""
    stop = threading.Event()

    def send():
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as file:
            options = {"preset": "ultrafast", "tune": "zerolatency"}
            stream = file.add_stream("libx264", rate=50, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.gop_size = 5
            index = 0
            while not stop.wait(0.02):
                picture = np.full((height, width, 3), 40 + index % 100, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
                index += 1
            file.mux(stream.encode(None))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_drones_udp_stream_is_read_and_comes_back_in_another_size():
    port = free_port(socket.SOCK_DGRAM)
    with opened(f"udp://127.0.0.1:{port}", timeout=1.5) as source:
        frames = iter(source)
        with sending(port):
            first = take_until(frames, lambda frame: True)
        with sending(port, 96, 128):
            second = take_until(frames, lambda frame: frame.image.shape == (96, 128, 3))
    assert first.image.shape == (48, 64, 3)
    assert second.index > first.index
    assert states(source)[0] == "connected"
    assert states(source)[-1] in ("resized", "reconnected")


def test_pictures_smeared_by_lost_packets_are_damaged_up_to_a_clean_key_frame(tmp_path):
    """The decoder makes up what is lost, and goes on from it: thin smears, as thin as cracks."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (360, 440, 3), np.uint8), (0, 0), 3)
    road = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    sent = [np.ascontiguousarray(road[step : step + 240, step : step + 320]) for step in range(120)]
    with av.open(str(tmp_path / "sent.ts"), "w", format="mpegts") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size = 20
        for picture in sent:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode(None))
    data = (tmp_path / "sent.ts").read_bytes()
    packets = [data[begin : begin + 188] for begin in range(0, len(data), 188)]
    whole = pictures_of(tmp_path / "sent.ts")
    assert len(whole) == len(sent)
    assert not [picture for picture in whole if picture is None]
    for lost in (0.3, 0.34, 0.5, 0.55, 0.8):
        del packets[round(lost * len(packets))]
    (tmp_path / "came.ts").write_bytes(b"".join(packets))
    came = pictures_of(tmp_path / "came.ts")
    clean = [picture for picture in came if picture is not None]
    assert 20 <= len(clean) < len(sent)
    for picture in clean:  # the very bytes that come of a stream without losses
        assert any(np.array_equal(picture, other) for other in whole)


def pictures_of(path):
    connection, pictures = NetworkConnection(str(path), 5.0), []
    try:
        while True:
            pictures.append(connection.read())
    except SourceError:
        return pictures
    finally:
        connection.close()


def test_a_camera_whose_picture_froze_is_lost_though_its_sound_goes_on():
    """Half a second of picture and sound, then sound alone, as fast as it lasts."""
    packets = []
    with av.open(Chunks(packets), "w", format="mpegts") as file:
        video, audio = file.add_stream("mpeg2video", rate=25), file.add_stream("mp2", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number in range(150):
            if number < 13:
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * number, np.uint8), format="bgr24")
                file.mux(video.encode(picture))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts = 48000, 1920 * number
            file.mux(audio.encode(sound))
            packets.append(None)  # a twenty-fifth of a second is over

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with contextlib.suppress(OSError):
                for data in packets:
                    self.wfile.write(data) if data else time.sleep(0.04)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        connection = NetworkConnection(f"http://127.0.0.1:{server.server_port}/live.ts", 0.5)
        begun, pictures = time.monotonic(), 0
        with pytest.raises(SourceError, match="nothing came within the time-out"):
            while True:
                pictures += connection.read() is not None
        assert pictures >= 8
        assert time.monotonic() - begun < 4  # of the six seconds that the sound lasts
        connection.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Chunks:
    """A file that keeps each piece that is written to it in a list."""

    def __init__(self, pieces):
        self.pieces = pieces

    def write(self, data):
        self.pieces.append(bytes(data))
        return len(data)
