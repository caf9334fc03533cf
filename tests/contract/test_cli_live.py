"""`edgecrack run` on a camera and under signals, as processes."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import av
import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner
from waiting import wait_until

from edgecrack.cli.run import run
from edgecrack.errors import SourceLost, SpecError


@pytest.fixture
def camera(camera):
    camera.value = 200  # above the model's threshold
    return camera


@pytest.fixture
def start(model, tmp_path):
    """Start `edgecrack run MODEL ... --out OUT` as a process."""
    started = []

    def call(*options, stdin=None):
        command = [sys.executable, "-m", "edgecrack", "run", model, "--out", tmp_path / "out", *map(str, options)]
        pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=stdin is None, **pipes)
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def lines_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def has(out, **wanted):
    """Whether the log has a line with these values, or simply a frame's line."""
    path = out / "log.jsonl"
    if not path.exists():
        return False
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return any(wanted.items() <= line.items() and ("event" in line) == ("event" in wanted) for line in lines)


def check_account(lines):
    """Each number of the frames that came is processed or dropped, once, and the summary says how many."""
    processed = [line["index"] for line in lines if "event" not in line]
    dropped = [
        index for line in lines if line.get("event") == "dropped" for index in range(line["first"], line["last"] + 1)
    ]
    summary = lines[-1]
    assert summary["event"] == "summary"
    assert sorted(processed + dropped) == list(range(summary["captured"]))
    assert summary["processed"] == len(processed)
    assert sum(summary["dropped"].values()) == len(dropped)
    assert summary["failed"] == 0
    return processed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("silent", [False, True])
def test_a_signal_finishes_the_files_of_a_camera_within_two_seconds(start, camera, tmp_path, number, silent):
    process = start("--source", camera.url)
    out = tmp_path / "out"
    wait_until(lambda: len(lines_of(out)) > 20 if has(out) else False, process)
    camera.silent = silent
    if silent:
        time.sleep(0.3)
    process.send_signal(number)
    begun = time.monotonic()
    wait_until(lambda: has(out, event="summary"), seconds=2)
    assert process.wait(10) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert time.monotonic() - begun < (2 if not silent else 4)
    processed = check_account(lines_of(out))
    with av.open(str(out / "overlay.mp4")) as file:
        assert len(list(file.decode(video=0))) == len(processed)
    stdout, stderr = process.stdout.read(), process.stderr.read()
    assert f"{len(processed)} processed" in stdout + stderr
    text = stdout + stderr + (out / "log.jsonl").read_text()
    assert "secret" not in text
    assert "Traceback" not in text


def test_a_signal_ends_a_file_with_every_frame_that_was_read(start, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    for _ in range(20):
        writer.write(np.zeros((240, 320, 3), np.uint8))
    writer.release()
    process = start("--source", tmp_path / "a.avi", "--loop")
    out = tmp_path / "out"
    wait_until(lambda: has(out, index=30), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(2) == 143
    lines = lines_of(out)
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert f"{len(lines)} frames came: {len(lines)} processed, 0 dropped, 0 failed" in process.stdout.read()


def test_a_silent_writer_of_a_pipe_does_not_hold_up_the_end(start, tmp_path):
    process = start("--source", "raw:64x48", stdin=subprocess.PIPE)
    process.stdin.write(bytes(64 * 48 * 3) * 3)
    process.stdin.flush()
    wait_until(lambda: has(tmp_path / "out", index=1), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(3) == 130


BLOCKING = """
import sys, time
from pathlib import Path
from edgecrack import cli
from edgecrack.runtime import JsonLines

def block(sink, frame, detection):
    print("blocked", flush=True)
    {wait}

JsonLines.write = block
cli.main(sys.argv[1:])
"""


def test_a_sink_that_blocks_is_broken_off(model, tmp_path, camera):
    code = BLOCKING.format(wait="time.sleep(60)")
    command = [sys.executable, "-c", code, "run", model, "--source", camera.url, "--out", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "blocked\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 143
            assert re.search(r"0 processed, .*[12] failed", process.stdout.read())  # the second waited at the backend
        finally:
            process.kill()


def test_a_sink_that_raises_ends_the_run_with_an_account(model, tmp_path, camera):
    code = BLOCKING.format(wait="raise RuntimeError('a bug')")
    command = [sys.executable, "-c", code, "run", model, "--source", camera.url, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: a bug"
    assert re.search(r"frames came: 0 processed, .*[12] failed", done.stdout)
    lines = lines_of(tmp_path / "out")
    assert lines[-1]["event"] == "summary"
    told = sum(line["last"] - line["first"] + 1 for line in lines if line.get("event") == "dropped")
    assert told == sum(lines[-1]["dropped"].values()) == lines[-1]["captured"] - lines[-1]["failed"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("rtsp:///live", "wanted rtsp://HOST..., got no host"),
        ("rtsp://admin:secret", "wanted rtsp://HOST:PORT..., got one whose host or port"),
        ("udp://239.0.0.1", "wanted udp://HOST:PORT, got no port"),
        ("rtps://camera/1", "cannot read rtps:// sources; wanted a file, folder or pattern, or one of"),
    ],
)
def test_an_address_that_never_comes_right_fails_at_once(start, tmp_path, source, message):
    process = start("--source", source)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.startswith(f"edgecrack: {message}")
    assert stderr.count("\n") == 1
    assert "secret" not in stdout + stderr
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_a_camera_that_is_not_there_yet_is_told_on_the_terminal(start, tmp_path):
    process = start("--source", "rtsp://user:secret@127.0.0.1:9/1")
    line = process.stderr.readline()
    assert line == ("rtsp://***@127.0.0.1:9/1: unreachable (reason cannot connect: Connection refused, tries 0)\n")
    assert process.stderr.readline().endswith("tries 1)\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


@pytest.mark.parametrize("later", [0.01, 0.1])  # while the run ends, and when it has ended
def test_a_signal_that_is_sent_twice_is_one(model, tmp_path, camera, later):
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", camera.url, "--out", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            log = tmp_path / "out" / "log.jsonl"
            wait_until(lambda: log.is_file() and b'"index"' in log.read_bytes())
            process.send_signal(signal.SIGINT)
            time.sleep(later)
            process.send_signal(signal.SIGINT)  # as timeout does, to the process and to its group
            out, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, "frames came" in out) == (130, True)


def test_a_second_signal_kills(model, tmp_path, camera):
    code = BLOCKING.format(wait="while True:\n        try: time.sleep(60)\n        except KeyboardInterrupt: pass")
    command = [sys.executable, "-c", code, "run", model, "--source", camera.url, "--out", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "blocked\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.5)
            process.send_signal(signal.SIGINT)
            assert process.wait(2) == -signal.SIGINT
        finally:
            process.kill()


def test_a_camera_that_does_not_come_back_ends_with_5(start, camera, tmp_path):
    process = start("--source", camera.url, "--max-reconnects", 1)
    out = tmp_path / "out"
    wait_until(lambda: has(out), process)
    camera.kill()
    stdout, stderr = process.communicate(timeout=15)
    assert process.returncode == 5
    assert stdout.count("\n") == 1
    assert " frames came: " in stdout
    assert "did not come back" in stderr.splitlines()[-1]
    lines = lines_of(out)
    check_account(lines)
    states = [line["event"] for line in lines if line.get("event", "dropped") != "dropped"]
    assert states == ["connected", "lost", "unreachable", "ended", "summary"]
    assert "secret" not in stderr + (out / "log.jsonl").read_text()


def test_lines_of_a_camera_have_their_time_and_age_and_the_overlay_follows_its_size(start, camera, tmp_path):
    process = start("--source", camera.url)
    out = tmp_path / "out"
    wait_until(lambda: has(out, width=64), process)
    time.sleep(0.5)
    camera.size = (96, 128)
    wait_until(lambda: has(out, width=128), process)
    process.send_signal(signal.SIGINT)
    process.wait(5)
    lines = lines_of(out)
    check_account(lines)
    frames = [line for line in lines if "event" not in line]
    assert all(line["utc"].endswith("Z") and 0 <= line["age"] < 0.5 for line in frames)
    assert next(line for line in lines if line.get("event") == "resized")["width"] == 128
    with av.open(str(out / "overlay.mp4")) as file:
        first = list(file.decode(video=0))
    with av.open(str(out / "overlay-2.mp4")) as file:
        second = list(file.decode(video=0))
    assert {(frame.width, frame.height) for frame in first} == {(64, 48)}
    assert {(frame.width, frame.height) for frame in second} == {(128, 96)}
    assert len(first) + len(second) == len(frames)
    lasted = [line["time"] for line in frames if line["width"] == 64]
    assert float(first[-1].time - first[0].time) == pytest.approx(lasted[-1] - lasted[0], abs=0.05)


def test_raw_pictures_are_run_on_from_standard_input(start, tmp_path):
    process = start("--source", "raw:64x48@50", "--no-drop", stdin=subprocess.PIPE)

    def write():
        for _ in range(12):
            process.stdin.write(np.full((48, 64, 3), 220, np.uint8).tobytes())
        process.stdin.close()

    writer = threading.Thread(target=write)
    writer.start()
    process.wait(20)
    writer.join()
    assert process.returncode == 0, process.stderr.read()
    assert b"12 frames came: 12 processed, 0 dropped, 0 failed" in process.stdout.read()
    assert len(check_account(lines_of(tmp_path / "out"))) == 12


@pytest.mark.parametrize(("source", "options"), [("raw:96x72@50", ["--no-drop"]), ("raw:96x72", [])])
def test_tiles_a_region_and_every_nth_frame_of_a_camera(start, tmp_path, source, options):
    process = start(
        *("--source", source, *options, "--every", 3, "--tile", "tile", "--roi", "rows:0.5-1", "--masks"),
        stdin=subprocess.PIPE,
    )
    stdout, stderr = process.communicate(np.full((12, 72, 96, 3), 220, np.uint8).tobytes(), timeout=20)
    assert process.returncode == 0, stderr
    assert b"12 frames came: 4 processed, 8 dropped (8 every), 0 failed" in stdout
    frames = [line for line in lines_of(tmp_path / "out") if "event" not in line]
    assert [line["index"] for line in frames] == [0, 3, 6, 9]
    masks = sorted((tmp_path / "out" / "masks").iterdir())
    assert [mask.stem for mask in masks] == ["000000", "000003", "000006", "000009"]
    for path in masks:
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert not mask[:36].any()
        assert (mask[36:] == 255).all()


def test_no_drop_fails_when_it_cannot_keep_up(start, tmp_path):
    process = start("--source", "raw:64x48@1000", "--no-drop", stdin=subprocess.PIPE)

    def write():
        try:
            for _ in range(5000):
                process.stdin.write(bytes(64 * 48 * 3))
        except BrokenPipeError:
            pass

    writer = threading.Thread(target=write)
    writer.start()
    assert process.wait(20) == 1
    writer.join()
    assert b"gives frames faster than they are processed" in process.stderr.read()
    lines = lines_of(tmp_path / "out")
    check_account(lines)
    assert lines[-1]["dropped"] == {"no room": 1}


@pytest.fixture
def edgecrack(model, tmp_path):
    app = typer.Typer()
    app.command()(run)
    return lambda *options: CliRunner().invoke(
        app, [str(model), "--out", str(tmp_path / "out"), *map(str, options)], catch_exceptions=False
    )


def test_a_dry_run_prints_the_pipeline_and_makes_nothing(edgecrack, tmp_path):
    done = edgecrack("--source", "csi://0", "--size", "1280x720", "--rate", 60, "--dry-run")
    assert done.stdout.startswith("gst-launch-1.0 nvarguscamerasrc sensor-id=0 '!' ")
    assert "width=1280,height=720,framerate=60/1" in done.stdout
    assert not (tmp_path / "out").exists()


def test_options_come_through(edgecrack):
    with pytest.raises(SpecError, match="a flip is one of"):
        edgecrack("--source", "0", "--flip", "90")
    with pytest.raises(SpecError, match="http takes no size"):
        edgecrack("--source", "http://127.0.0.1:9", "--size", "64x48")
    with pytest.raises(SourceLost, match="there is no /dev/video97"):
        edgecrack("--source", "97", "--max-reconnects", 0)
