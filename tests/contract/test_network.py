"""Streams on loopback as odd as some cameras send them."""

import contextlib
import io
import itertools
import re
import socketserver
import struct
import threading
import time

import av
import cv2
import numpy as np
import pytest

from edgecrack.errors import SourceError, SourceLost
from edgecrack.runtime import SourceOptions, network, open_source
from edgecrack.runtime.network import NetworkConnection

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_stream_of_key_frames_without_times_is_no_picture_without_end():
    """What has no time and is a key frame looks like a part of the picture before it."""
    data = io.BytesIO()
    with av.open(data, "w", format="h264") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "x264-params": "keyint=1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for value in range(100):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), value, np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(io.BytesIO(data.getvalue()), format="h264") as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        assert all(packet.pts is None and packet.is_keyframe for packet in packets[1:])
        taken = iter(packets)
        next(network._whole(taken))
        assert 100 - len(list(taken)) < 50  # it is not held back until the end
        decoder = av.CodecContext.create("h264", "r")
        assert sum(len(decoder.decode(packet)) for packet in network._whole(packets)) > 60


def test_a_camera_whose_name_is_not_utf_8_is_connected_to():
    with (
        rtsp_camera([], name=b"Br\xfccke") as url,
        open_source(url, SourceOptions(max_reconnects=0, timeout=0.5)) as source,
        pytest.raises(SourceLost),
    ):
        list(source)


def test_a_lost_rtp_packet_damages_every_picture_up_to_the_next_key_frame():
    """FFmpeg's RTP does not say that a packet is missing; the decoder flags only the first picture that lacks it."""
    pictures = h264(90, key=30)
    sent = [rtp_payloads(picture, 100) for picture in pictures]
    assert len(sent[40]) > 3
    sent[40][2] = None  # lost
    with rtsp_camera(sent) as url, open_source(url, SourceOptions(max_reconnects=0, drop=False)) as source:
        came = []
        with pytest.raises(SourceLost):
            for frame in source:
                came.append(frame)
    clean = decoded(pictures)
    assert all(any(np.array_equal(frame.image, picture) for picture in clean) for frame in came)
    assert len(came) >= 60
    assert 18 <= source.dropped["damaged"] <= 24  # pictures 40 to 59, and what is merged or flagged around them


def test_packets_that_never_make_a_picture_are_no_hang(monkeypatch):
    monkeypatch.setattr(network, "_BLIND", 1.2)
    pictures = h264(200, key=1000)
    parameters = [nal for nal in pictures[0] if nal[0] & 31 in (7, 8)]
    blind = [rtp_payloads(parameters + picture) for picture in pictures[1:]]
    with rtsp_camera(blind, pause=0.02) as url:
        connection = NetworkConnection(url, 0.4)
        try:
            begun = time.monotonic()
            with pytest.raises(TimeoutError):  # so that one who reads can look whether to go on
                connection.read()
            assert time.monotonic() - begun < 1.0
            with pytest.raises(SourceError, match="its packets make no picture"):
                while True:
                    with contextlib.suppress(TimeoutError):
                        connection.read()
        finally:
            connection.close()


def test_a_jpeg_that_is_cut_short_is_no_picture(camera):
    """FFmpeg shows the picture before in what is missing."""
    noise, count = np.random.default_rng(0), itertools.count()

    def picture():
        number = next(count)
        shown = np.clip(noise.normal(60 + 120 * (number % 2), 9, (96, 128, 3)), 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", shown)[1].tobytes()
        return data[: len(data) // 2] if number > 20 and number % 5 == 0 else data

    camera.picture, camera.rate = picture, 50
    with open_source(camera.url, SourceOptions(drop=False)) as source:
        for _, frame in zip(range(60), source, strict=False):
            rows = frame.image.mean(axis=(1, 2))
            assert rows.max() - rows.min() < 40  # of one picture
        assert source.dropped["damaged"] > 3


def h264(count, key):
    """`count` pictures of a moving road, each as its NAL units, one slice each; every `key`-th is a key frame."""
    road = cv2.GaussianBlur(np.random.default_rng(5).integers(60, 200, (160, 600, 3), np.uint8), (0, 0), 1.5)
    data = io.BytesIO()
    tuned = f"keyint={key}:min-keyint={key}:scenecut=0:repeat-headers=1:sliced-threads=0"
    with av.open(data, "w", format="h264") as file:
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "10", "x264-params": tuned}
        stream = file.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 240, 160, "yuv420p"
        for number in range(count):
            left = 2 * number % 340
            shown = np.ascontiguousarray(road[:, left : left + 240])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="bgr24")))
        file.mux(stream.encode(None))
    pictures, units = [], []
    for nal in filter(None, re.split(b"\x00\x00\x00?\x01", data.getvalue())):
        units.append(nal)
        if nal[0] & 31 in (1, 5):
            pictures.append(units)
            units = []
    return pictures


def decoded(pictures):
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(b"".join(b"\0\0\0\1" + nal for nal in picture)) for picture in pictures]
    return [frame.to_ndarray(format="bgr24") for packet in [*packets, None] for frame in decoder.decode(packet)]


def rtp_payloads(picture, most=1000):
    """The RTP payloads of a picture's NAL units, large ones in parts (FU-A)."""
    payloads = []
    for nal in picture:
        if len(nal) <= most:
            payloads.append(nal)
            continue
        parts = [nal[begin : begin + most] for begin in range(1, len(nal), most)]
        for number, part in enumerate(parts):
            ends = 0x80 * (number == 0) | 0x40 * (number == len(parts) - 1)
            payloads.append(bytes([nal[0] & 0xE0 | 28, nal[0] & 31 | ends]) + part)
    return payloads


@contextlib.contextmanager
def rtsp_camera(pictures, pause=0.005, name=b"road"):
    """The URL of an RTSP server that plays `pictures`, each a list of RTP payloads, None for a lost one, and hangs up.

    Without any it stays silent.
    """
    sdp = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=" + name + b"\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    sdp += b"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
    told = {
        "OPTIONS": b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
        "DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s" % (len(sdp), sdp),
        "SETUP": b"Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
    }

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while asked := self.rfile.readline().decode().split():
                lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
                number = next(line for line in lines if line.startswith("CSeq"))
                self.wfile.write(
                    f"RTSP/1.0 200 OK\r\n{number}\r\n".encode() + told.get(asked[0], b"Session: 1\r\n\r\n")
                )
                if asked[0] == "PLAY" and pictures:
                    with contextlib.suppress(OSError):
                        self.play()
                    return

        def play(self):
            sequence = itertools.count()
            for index, payloads in enumerate(pictures):
                for number, payload in zip(sequence, payloads, strict=False):
                    last = 0x80 * (payload is payloads[-1])
                    head = struct.pack("!BBHII", 0x80, 96 | last, number & 0xFFFF, index * 3600, 1)
                    if payload is not None:
                        self.wfile.write(b"$\0" + struct.pack("!H", len(head) + len(payload)) + head + payload)
                time.sleep(pause)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/road"
        finally:
            server.shutdown()
            thread.join()
