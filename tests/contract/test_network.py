"""Streams on loopback as odd as some cameras send them."""

import io
import socketserver
import threading

import av
import numpy as np
import pytest

from edgecrack.errors import SourceLost
from edgecrack.runtime import SourceOptions, network, open_source

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
    name = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=Br\xfccke\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n".encode("latin-1")
    sdp = name + b"a=rtpmap:96 H264/90000\r\na=control:track1\r\n"
    told = {
        "OPTIONS": b"Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
        "DESCRIBE": b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n%s" % (len(sdp), sdp),
        "SETUP": b"Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n",
    }

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while asked := self.rfile.readline().decode().split():
                lines = iter(lambda: self.rfile.readline().decode().strip(), "")
                number = next(line for line in lines if line.startswith("CSeq"))
                list(lines)
                self.wfile.write(
                    f"RTSP/1.0 200 OK\r\n{number}\r\n".encode() + told.get(asked[0], b"Session: 1\r\n\r\n")
                )

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            options = SourceOptions(max_reconnects=0, timeout=0.5)
            with (
                open_source(f"rtsp://127.0.0.1:{server.server_address[1]}/x", options) as source,
                pytest.raises(SourceLost),
            ):
                list(source)
        finally:
            server.shutdown()
            thread.join()
