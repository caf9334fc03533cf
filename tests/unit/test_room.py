"""The room that videos take on the disk."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
from recordings import names, seen, values

from edgecrack.runtime import Frame, OverlayVideo
from edgecrack.runtime.recording import Room


def test_the_oldest_videos_are_deleted_to_keep_to_the_room_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecrack.runtime.recording._INTERVAL", 0.0)
    told = []
    (tmp_path / "overlay-1.txt").write_bytes(bytes(100_000))
    (tmp_path / "holiday.mp4").write_bytes(bytes(100_000))
    room = Room(tmp_path, most=150_000, patterns=["overlay*.mp4"], tell=told.append)
    rng = np.random.default_rng(0)
    with OverlayVideo(tmp_path / "overlay.mp4", 10, segment=1, room=room) as video:
        for index in range(80):
            frame, detection = seen(index)
            noisy = Frame(rng.integers(0, 256, (48, 64, 3), np.uint8), index, frame.captured_at, frame.source)
            video.write(noisy, detection)
    left = [name for name in names(tmp_path) if name.startswith("overlay") and name.endswith("mp4")]
    sizes = [(tmp_path / name).stat().st_size for name in left]
    assert sum(sizes) <= 150_000 + max(sizes)
    assert len(left) >= 2
    deleted = [Path(event.source).name for event in told]
    assert deleted == ["overlay.mp4", *[f"overlay-{number}.mp4" for number in range(2, 9 - len(left))]]
    assert {event.name for event in told} == {"deleted"}
    assert {"overlay-1.txt", "holiday.mp4"} <= set(names(tmp_path))
    assert all(len(values(tmp_path / name)) == 10 for name in left)


def test_what_this_run_wrote_is_newer_than_what_was_there_whatever_the_clock_says(tmp_path):
    now = time.time()
    for number, age in ((1, 50), (2, 40)):
        path = tmp_path / f"overlay-{number}.mp4"
        path.write_bytes(bytes(1000))
        os.utime(path, (now - age, now - age))
    told = []
    room = Room(tmp_path, most=2500, patterns=["overlay*.mp4"], tell=told.append)
    room.take(tmp_path / "overlay-3.mp4")
    for number in (3, 4):  # with the clock a day behind
        path = tmp_path / f"overlay-{number}.mp4"
        path.write_bytes(bytes(1000))
        os.utime(path, (now - 86400 - number, now - 86400 - number))
        room.take(tmp_path / f"overlay-{number + 1}.mp4")
        room.let_go(path)
    assert [Path(event.source).name for event in told] == ["overlay-1.mp4", "overlay-2.mp4"]
    assert names(tmp_path) == ["overlay-3.mp4", "overlay-4.mp4"]


def test_a_file_that_is_taken_away_during_the_look_ends_no_recording(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / f"overlay-{number}.mp4").write_bytes(bytes(1000))
    stat = Path.stat

    def meanwhile(path, **options):
        if path.name == "overlay-1.mp4":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", meanwhile)
    Room(tmp_path, most=1500, patterns=["overlay*.mp4"]).keep()
    monkeypatch.undo()
    assert len(names(tmp_path)) == 1


def test_a_look_that_takes_long_is_taken_rarely(tmp_path, monkeypatch):
    monkeypatch.setattr("edgecrack.runtime.recording._INTERVAL", 0.01)
    looks = []

    def slow(folder):
        looks.append(time.monotonic())
        time.sleep(0.05)
        return shutil._ntuple_diskusage(10**12, 0, 10**12)

    monkeypatch.setattr(shutil, "disk_usage", slow)
    room, end = Room(tmp_path), time.monotonic() + 0.5
    while time.monotonic() < end:
        room.keep()
    assert len(looks) == 1  # and the next after twenty times as long
