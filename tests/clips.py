"""Small videos, and ways to spoil them; found through `pythonpath`."""

from fractions import Fraction

import av
import numpy as np


def write_video(path, count=30, rate=Fraction(30000, 1001), key_every=250, **options):
    """`count` frames that brighten by 8, so that a frame can be told from its neighbours; H.264 without B-frames."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = key_every
        noise = np.random.default_rng(0).integers(0, 8, (48, 64, 3), np.uint8)
        for index in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise + np.uint8(8 * index), format="bgr24")))
        file.mux(stream.encode(None))
    return path


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
