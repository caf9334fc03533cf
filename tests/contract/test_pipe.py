"""Raw pictures in a pipe."""

import json
import os
import pty
import shlex
import subprocess
import sys
import threading

import numpy as np
import pytest

from edgecrack.errors import SourceError, SpecError
from edgecrack.runtime import open_source
from edgecrack.runtime.camera import Refused
from edgecrack.runtime.connections import PipeConnection
from edgecrack.spec import FrameSpec

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("wrong", ["raw:", "raw:64x48@", "raw:0x48@30", "raw:64x48@0", "raw:64*48@30", "raw:64x48@-1"])
def test_a_raw_format_that_cannot_be_is_refused(wrong):
    with pytest.raises(SpecError, match="WIDTHxHEIGHT@RATE"):
        open_source(wrong)


def test_a_picture_that_no_memory_holds_is_refused():
    with pytest.raises(SpecError, match="at most 268435456 pixels, got raw:99999x99999"):
        open_source("raw:99999x99999@30")


def test_a_pipe_whose_writer_failed_is_an_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(writing)
    monkeypatch.setattr("edgecrack.runtime.in_order.PipeConnection", lambda frame: PipeConnection(frame, reading))
    with (
        open_source("raw:64x48") as source,
        pytest.raises(SourceError, match="no picture came on standard input; did the program that writes it fail"),
    ):
        list(source)
    os.close(reading)


def test_raw_pictures_come_whole_however_they_are_cut():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
    data = pictures.tobytes() + b"part of a picture"
    reading, writing = os.pipe()

    def write():
        for begin in range(0, len(data), 5000):
            os.write(writing, data[begin : begin + 5000])
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    pipe = PipeConnection(FrameSpec(48, 64), reading)
    try:
        np.testing.assert_array_equal([pipe.read() for _ in range(3)], pictures)
        assert pipe.read() is None  # the part
        with pytest.raises(EOFError):
            pipe.read()
    finally:
        thread.join()
        os.close(reading)


def test_a_silent_pipe_may_be_asked_again():
    reading, writing = os.pipe()
    pipe = PipeConnection(FrameSpec(1, 1), reading)
    with pytest.raises(TimeoutError):
        pipe.read()
    os.write(writing, b"\x01\x02")
    with pytest.raises(TimeoutError):
        pipe.read()
    os.write(writing, b"\x03")
    assert pipe.read().tolist() == [[[1, 2, 3]]]
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_is_closed_is_none_and_is_not_tried_again(model, tmp_path):
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", "raw:64x48@30", "--out", tmp_path / "out"]
    line = shlex.join(map(str, command)) + " <&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "standard input is closed; pipe raw BGR pictures into it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_that_is_cut_short_is_counted(model, tmp_path):
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", "raw:64x48", "--out", tmp_path / "out"]
    done = subprocess.run(command, input=bytes(64 * 48 * 3 + 100), capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"2 frames came: 1 processed, 1 dropped (1 damaged), 0 failed" in done.stdout


def test_a_terminal_is_no_pipe_however_often_it_is_tried():
    terminal, other = pty.openpty()
    try:
        with pytest.raises(Refused, match="standard input is a terminal"):
            PipeConnection(FrameSpec(1, 1), other)
    finally:
        os.close(terminal)
        os.close(other)


def test_a_folder_in_place_of_a_pipe_is_one_line(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(SourceError, match=r"^standard input cannot be read: Is a directory$"):
        PipeConnection(FrameSpec(1, 1), folder).read()
    os.close(folder)


def test_a_detection_is_given_out_while_the_writer_waits_for_it(model):
    code = """
import sys
from edgecrack import CrackDetector
with CrackDetector(sys.argv[1], hint="throughput") as detector:
    for frame, detection in detector.stream("raw:64x48"):
        print(frame.index, detection.crack_pixels, flush=True)
"""
    command = [sys.executable, "-c", code, str(model)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        for index in range(4):
            process.stdin.write(bytes([200 * (index % 2)]) * (48 * 64 * 3))
            assert process.stdout.readline().split() == [b"%d" % index, b"%d" % (48 * 64 * (index % 2))]
        process.stdin.close()
        guard.cancel()
        guard.join()
    assert process.returncode == 0


@pytest.mark.parametrize(("source", "count"), [("raw:64x48", 200), ("raw:64x48@30", None)])
def test_standard_input_is_a_source(source, count):
    code = """
import sys, time
from edgecrack.runtime import open_source
with open_source(sys.argv[1]) as road:
    frames = []
    for frame in road:
        frames.append((frame.index, int(frame.image[0, 0, 0])))
        time.sleep(0.001)
assert all(index % 256 == value for index, value in frames), frames
print(len(frames), road.read, sum(road.dropped.values()), road.rate)
"""
    data = b"".join(bytes([index % 256]) * (48 * 64 * 3) for index in range(200))
    done = subprocess.run([sys.executable, "-c", code, source], input=data, capture_output=True, check=True, timeout=20)
    taken, read, dropped, rate = done.stdout.decode().split()
    assert int(read) == int(taken) + int(dropped) == 200
    if count:
        assert (int(taken), rate) == (count, "None")  # the writer waits, so nothing has to be dropped
    else:
        assert rate == "30.0"


def test_the_account_is_in_the_log_also_where_nobody_reads_what_is_printed(model, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", "raw:64x48@30", "--no-drop", "--out", out]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, input=bytes(5 * 48 * 64 * 3), stdout=writing, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["processed"] == 5
