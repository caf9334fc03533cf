"""`edgecrack run` on real videos that were cut short at every tenth of their length."""

import json
import logging

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edgecrack.cli.run import run
from edgecrack.errors import SourceError
from edgecrack.runtime import VideoWriter

FRAMES = 60
# file -> codec and options of the file; without faststart an MP4 has its index at the end
KINDS = {
    "a.mp4": ("libx264", {}),
    "faststart.mp4": ("libx264", {"movflags": "faststart"}),
    "a.mkv": ("libx264", {}),
    "a.avi": ("mjpeg", {}),
    "a.mjpeg": ("mjpeg", {}),
    "ours.mp4": (None, {}),
}


def picture(index):
    """Its brightness is its number, and its noise fills the file."""
    noise = np.random.default_rng(index).integers(0, 8, (48, 64, 3), np.uint8)
    return noise + np.uint8(4 * index)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (codec, options) in KINDS.items():
        if codec is None:
            with VideoWriter(folder / name, 25) as writer:
                for index in range(FRAMES):
                    writer.write(picture(index))
            continue
        with av.open(str(folder / name), "w", options=options) as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for index in range(FRAMES):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="bgr24")))
            file.mux(stream.encode(None))
    return folder


def decodable(path):
    """How many frames FFmpeg gives before it fails."""
    count = 0
    try:
        with av.open(str(path)) as file:
            for _ in file.decode(video=0):
                count += 1
    except (av.error.FFmpegError, IndexError):
        pass
    return count


@pytest.mark.parametrize("tenth", range(11))
@pytest.mark.parametrize("name", KINDS)
def test_a_video_that_was_cut_gives_what_it_holds_or_one_line(videos, model, tmp_path, caplog, name, tenth):
    whole = (videos / name).read_bytes()
    path, out = tmp_path / name, tmp_path / "out"
    path.write_bytes(whole[: len(whole) * tenth // 10])
    app = typer.Typer()
    app.command()(run)
    command = [str(model), "--source", str(path), "--out", str(out), "--backend", "onnxruntime"]
    told = ""
    with caplog.at_level(logging.WARNING, "edgecrack"):
        try:
            CliRunner().invoke(app, command, catch_exceptions=False)
        except SourceError as error:
            told = str(error)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] if out.exists() else []
    assert [line["index"] for line in lines] == list(range(len(lines)))
    expected = [4 * index + 3.5 > 102 for index in range(len(lines))]
    assert sum((line["crack_share"] > 0.5) != bright for line, bright in zip(lines, expected, strict=True)) <= 1
    if told:
        assert (lines, decodable(path), "\n" in told) == ([], 0, False)
        assert name in told
    elif tenth == 10:
        assert len(lines) == FRAMES
        assert not caplog.messages
    else:
        assert len(lines) >= decodable(path)
        if name not in ("a.mjpeg", "ours.mp4"):  # which say nowhere how long they are
            assert [message for message in caplog.messages if "it is truncated" in message] or len(lines) > FRAMES - 3
        with av.open(str(out / "overlay.mp4")) as file:
            assert sum(1 for _ in file.decode(video=0)) == len(lines)
