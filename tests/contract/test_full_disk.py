"""Runs on a disk that is full: a small file system in memory, mounted for one process."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edgecrack.runtime import VideoWriter

# In the namespace: mounts SIZE at FOLDER, runs edgecrack with the rest, and prints what the folder then holds.
INSIDE = """
import json, os, pathlib, subprocess, sys
size, filler, folder, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
pathlib.Path(folder, "filler").write_bytes(bytes(int(filler)))
done = subprocess.run(command, capture_output=True, text=True, check=False)
import av
out, frames = pathlib.Path(folder), {}
for path in out.rglob("*.mp4"):
    with av.open(str(path)) as file:
        frames[path.name] = sum(1 for _ in file.decode(video=0)) if path.stat().st_size else 0
log = (out / "log.jsonl").read_text() if (out / "log.jsonl").exists() else ""
names = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
print(json.dumps([done.returncode, done.stdout, done.stderr, log, frames, names]))
"""


@pytest.fixture(scope="module")
def namespace():
    """What runs a command in a mount namespace of its own."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        if (
            shutil.which("unshare")
            and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
        ):
            return command
    pytest.skip("this machine allows no mount namespace, in which a small disk could be mounted")


@pytest.fixture
def run_on_disk(namespace, model, tmp_path):
    """`run_on_disk("300k", *options)`: how `edgecrack run` ended on such a disk, and what it left there."""

    def call(size, *options, filler=0):
        out = tmp_path / "disk"
        out.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "edgecrack", "run", model, "--out", out, *options]
        inside = [*namespace, sys.executable, "-c", INSIDE, size, filler, out, *command]
        done = subprocess.run([*map(str, inside)], capture_output=True, text=True, check=True, timeout=120)
        return json.loads(done.stdout)

    return call


@pytest.fixture
def video(tmp_path):
    """Of noise, so that what is drawn of it takes room: some 4 kB a frame."""
    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "road.mp4", 25) as writer:
        for _ in range(300):
            writer.write(rng.integers(0, 256, (64, 80, 3), np.uint8))
    return tmp_path / "road.mp4"


def test_a_full_disk_stops_the_recording_and_not_the_detecting(run_on_disk, video, tmp_path):
    code, stdout, stderr, log, frames, _ = run_on_disk("512k", "--source", video)
    assert code == 1
    assert "300 frames came: 300 processed, 0 dropped, 0 failed" in stdout
    overlay = tmp_path / "disk" / "overlay.mp4"
    assert f"not written to the end: {overlay}" in stdout
    warning, *_, end = stderr.splitlines()
    reasons = f"cannot write {overlay}: No space left on device", f"cannot write into {overlay.parent}: "  # a slow run
    assert warning.startswith(reasons)
    assert warning.endswith("; going on without it")
    assert end.startswith(tuple(f"edgecrack: {reason}" for reason in reasons))
    assert "Traceback" not in stderr
    lines = [json.loads(line) for line in log.splitlines()]
    indices = [line["index"] for line in lines if "event" not in line]
    assert indices == list(range(len(indices)))
    assert 20 < frames["overlay.mp4"] <= len(indices)


def test_a_disk_that_the_masks_fill_keeps_whole_masks_and_a_whole_log(run_on_disk, tmp_path):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(40):
        cv2.imwrite(str(tmp_path / "photos" / f"{index:02d}.png"), rng.integers(0, 256, (300, 300, 3), np.uint8))
    code, stdout, stderr, log, _, names = run_on_disk("400k", "--source", tmp_path / "photos", "--masks")
    assert code == 1
    assert "40 frames came: 40 processed" in stdout
    assert stderr.count("; going on without it\n") == stdout.count("not written to the end: ") >= 1
    assert all(json.loads(line) for line in log.splitlines())
    assert not [name for name in names if "/." in name]


@pytest.mark.parametrize("options", [["--segment", 1], ["--save-when", "cracks", "--threshold", 0.1, "--segment", 1]])
def test_videos_leave_room_for_the_log_which_says_where_they_end(run_on_disk, video, options):
    code, _, stderr, log, frames, _ = run_on_disk("2200k", "--source", video, *options, filler=1_200_000)
    assert code == 1
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["index"] for line in lines if "event" not in line] == list(range(300))
    (event,) = (line for line in lines if "event" in line)
    assert event["event"] == "left out"
    assert "of the disk are left, and the log needs them" in event["reason"]
    assert event["reason"] in stderr
    shown = sum(frames.values())
    assert 50 < shown < 290
    assert abs(shown - lines.index(event)) <= 2


def test_a_disk_that_is_full_from_the_start_is_one_line(run_on_disk, video):
    code, _, stderr, _, _, _ = run_on_disk("4k", "--source", video, filler=4096)
    assert code == 1
    assert stderr.count("\n") == 1
    assert "No space left on device" in stderr


def test_with_room_to_keep_to_a_small_disk_never_fills(run_on_disk, video):
    code, stdout, _, log, frames, _ = run_on_disk("700k", "--source", video, "--keep-gb", "0.0003", "--segment", 1)
    assert (code, stdout.count("not written")) == (0, 0)
    assert len([line for line in log.splitlines() if '"index"' in line]) == 300
    deleted = [line for line in log.splitlines() if '"deleted"' in line]
    assert deleted
    assert "overlay.mp4" not in frames
    assert "overlay-12.mp4" in frames
    assert len(frames) == 12 - len(deleted)
