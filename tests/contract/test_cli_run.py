import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edgecrack.cli.run import run
from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.runtime import VideoWriter


@pytest.fixture
def edgecrack(model):
    """`edgecrack run MODEL ...` with the given options; an EdgecrackError comes out as it is."""
    app = typer.Typer()
    app.command()(run)

    def call(*options):
        return CliRunner().invoke(app, [str(model), *map(str, options)], catch_exceptions=False)

    return call


@pytest.fixture
def video(tmp_path):
    with VideoWriter(tmp_path / "road.mp4", 12.5) as writer:
        for value in range(20):
            writer.write(np.full((61, 80, 3), 12 * value, np.uint8))
    return tmp_path / "road.mp4"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(3):
        image = np.full((50 + index, 70, 3), 100 * index, np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"photo{index}.png"), image)
    return tmp_path / "photos"


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_video_gives_an_overlay_video_and_a_log(edgecrack, video, tmp_path):
    done = edgecrack("--source", video, "--out", tmp_path / "out")
    assert names(tmp_path / "out") == ["log.jsonl", "overlay.mp4", "run.json"]
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as file:
        assert file.streams.video[0].average_rate == 12.5
        assert len(list(file.decode(video=0))) == 20
    bright = [line["crack_share"] > 0.99 for line in log_of(tmp_path / "out")]
    assert bright == [12 * value > 102 for value in range(20)]
    first, second, third, fourth = done.stdout.splitlines()
    assert first.startswith("20 frames, ")
    assert first.endswith("a second end to end on openvino")
    assert second == "55.000 % of the pixels are crack at threshold 0.4"
    assert third == "20 frames came: 20 processed, 0 dropped, 0 failed"
    assert fourth == f"written: {tmp_path / 'out' / 'overlay.mp4'}, {tmp_path / 'out' / 'log.jsonl'}"
    assert done.stderr == ""  # no bar where there is no terminal


def test_a_folder_gives_a_folder(edgecrack, folder, tmp_path):
    edgecrack("--source", folder, "--out", tmp_path / "out", "--masks", "--threshold", 0.6, "--backend", "onnxruntime")
    assert names(tmp_path / "out") == ["log.jsonl", "masks", "overlay", "run.json"]
    assert names(tmp_path / "out" / "overlay") == [f"photo{index}.jpg" for index in range(3)]
    assert names(tmp_path / "out" / "masks") == [f"photo{index}.png" for index in range(3)]
    for index in range(3):
        mask = cv2.imread(str(tmp_path / "out" / "masks" / f"photo{index}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, np.full((50 + index, 70), 255 if index == 2 else 0))
    assert [line["source"] for line in log_of(tmp_path / "out")] == [str(folder / f"photo{i}.png") for i in range(3)]


def test_the_overlay_can_be_left_out(edgecrack, video, tmp_path):
    edgecrack("--source", video, "--out", tmp_path / "out", "--no-overlay")
    assert names(tmp_path / "out") == ["log.jsonl", "run.json"]


def test_a_video_that_calls_itself_too_quick_has_an_overlay(edgecrack, tmp_path):
    with av.open(str(tmp_path / "road.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=2000)
        stream.width, stream.height = 64, 48
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame(64, 48)))
        file.mux(stream.encode(None))
    edgecrack("--source", tmp_path / "road.mp4", "--out", tmp_path / "out")
    assert len(log_of(tmp_path / "out")) == 3
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3


def test_a_second_run_leaves_the_first_ones_results_alone(edgecrack, folder, tmp_path):
    out = tmp_path / "out"
    edgecrack("--source", folder, "--masks", "--out", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        SpecError, match=r"log\.jsonl is of a run before: give --resume to go on with it, or another --out$"
    ):
        edgecrack("--source", folder / "photo0.png", "--threshold", 0.9, "--masks", "--out", out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_unreadable_image_is_dropped_and_counted(edgecrack, folder, tmp_path, caplog):
    (folder / "photo1.png").write_bytes(b"junk")
    done = edgecrack("--source", folder, "--out", tmp_path / "out")
    assert [line["index"] for line in log_of(tmp_path / "out")] == [0, 2]
    assert names(tmp_path / "out" / "overlay") == ["photo0.jpg", "photo2.jpg"]
    assert [message for message in caplog.messages if "photo1.png is not an image" in message]
    assert "3 frames came: 2 processed, 1 dropped (1 damaged), 0 failed" in done.output


def test_errors_come_through(edgecrack, folder, tmp_path):
    with pytest.raises(SourceError, match="no file or folder"):
        edgecrack("--source", tmp_path / "nothing", "--out", tmp_path / "out")
    with pytest.raises(SourceError, match="too long"):
        edgecrack("--source", "a" * 300, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="cannot write"):
        edgecrack("--source", folder, "--out", tmp_path / "file" / "out")
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((9, 9, 3), np.uint16))
    with pytest.raises(FrameError, match="uint16"):
        edgecrack("--source", tmp_path / "deep.png", "--out", tmp_path / "out")


def test_ctrl_c_closes_the_files_and_goes_on_to_the_caller(model, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(3000):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    code = """
import sys
from pathlib import Path
from edgecrack.cli.run import run
model, source, out = sys.argv[1:]
try:
    run(Path(model), [source], Path(out))
except KeyboardInterrupt:
    sys.exit(130)
"""
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, model, tmp_path / "a.avi", out])
    deadline = time.monotonic() + 30
    while not (out / "log.jsonl").exists() or len((out / "log.jsonl").read_bytes()) < 5000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    lines = log_of(out)
    assert 10 < len(lines) < 3000
    with av.open(str(out / "overlay.mp4")) as file:
        assert abs(len(list(file.decode(video=0))) - len(lines)) <= 1


def test_a_folder_whose_name_is_not_utf_8_is_run_and_named_as_it_is(model, folder, tmp_path):
    odd = os.fsencode(tmp_path) + b"/road\xff"
    shutil.copytree(folder, os.fsdecode(odd))
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", odd, "--out", tmp_path / "out"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as where the locale is UTF-8
    for options in (["--dry-run"], ["--source", folder]):
        done = subprocess.run([*command, *options], capture_output=True, env=environment, timeout=300)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
        assert odd in done.stdout
