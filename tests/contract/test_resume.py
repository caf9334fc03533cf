"""Runs that are killed, and gone on with."""

import json
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import cv2
import numpy as np
import pytest
import typer
from resumed import DAMAGED, lines_of, masks_of, overlays_of, pictures_of, write_folder, write_video
from typer.testing import CliRunner

from edgecrack.cli.outputs import OutputOptions, open_sinks
from edgecrack.cli.resuming import Beginning, _next_number
from edgecrack.cli.run import run
from edgecrack.errors import SourceError, SpecError
from edgecrack.files import TEMPORARY
from edgecrack.runtime import VideoWriter, open_source


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.fixture
def edgecrack(model, tmp_path):
    app = typer.Typer()
    app.command()(run)
    return lambda *options: CliRunner().invoke(
        app, [str(model), "--out", str(tmp_path / "out"), *map(str, options)], catch_exceptions=False
    )


def cut(out, lines, torn=b""):
    """Take lines from the end of the log, as if the run had been killed there."""
    path = out / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]) + torn)


@pytest.mark.parametrize("left", [0, 1, 17, 20])
def test_what_the_log_has_is_not_done_again(edgecrack, tmp_path, video, left):
    edgecrack("--source", video, "--end", 0.8, "--masks")
    out = tmp_path / "out"
    whole = lines_of(out)
    assert len(whole) == 20
    cut(out, left, torn=b'{"index": ')
    before = {path.name: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    done = edgecrack("--source", video, "--end", 0.8, "--masks", "--resume")
    assert done.stdout.startswith(f"{20 - left} frames, " if left < 20 else "no frame came: nothing was left to do\n")
    assert lines_of(out) == whole
    again = [path.name for path in (out / "masks").iterdir() if path.stat().st_mtime_ns != before[path.name]]
    assert sorted(again) == [f"{index:06d}.png" for index in range(left, 20)]


def test_nothing_to_go_on_with_is_a_beginning(edgecrack, tmp_path, folder):
    edgecrack("--source", folder, "--resume")
    assert len(lines_of(tmp_path / "out")) == len(list(folder.glob("*.png"))) - DAMAGED


def test_a_log_that_grew_since_it_was_read_is_not_gone_on_with(edgecrack, tmp_path, folder):
    edgecrack("--source", folder)
    out = tmp_path / "out"
    beginning = Beginning.of(out, json.loads((out / "run.json").read_text()), resume=True)
    before = (out / "log.jsonl").read_bytes()
    (out / "log.jsonl").write_bytes(before + before.splitlines(keepends=True)[-1])
    with ExitStack() as stack, pytest.raises(SourceError, match="until now; give the same command again"):
        road = stack.enter_context(open_source(str(folder)))
        open_sinks(stack, road, out, OutputOptions(), beginning)


def test_of_hidden_files_only_what_a_kill_left_of_ours_is_removed(edgecrack, tmp_path, folder):
    ours, theirs = tmp_path / "out" / "masks" / f"{TEMPORARY}0123abcd.png", tmp_path / "out" / ".eslintrc.json"
    ours.parent.mkdir(parents=True)
    for path in (ours, theirs):
        path.touch()
    edgecrack("--source", folder)
    assert not ours.exists()
    assert theirs.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--every", 2], "every was 1 and is 2"),
        (["--threshold", 0.9], "threshold was 0.4 and is 0.9"),
        (["--roi", "rows:0-0.5"], "roi was None and is 'rows:0-0.5'"),
        (["--source", "rtsp:/admin:secret@cam"], r"sources was \['[^\n]*road.mp4'\] and is \['[^\n]*', '\*\*\*@cam'\]"),
    ],
)
def test_another_run_does_not_go_on_with_a_log(edgecrack, tmp_path, video, options, told):
    edgecrack("--source", video, "--end", 0.2)
    before = (tmp_path / "out" / "log.jsonl").read_bytes()
    with pytest.raises(SpecError, match=rf"^[^\n]*log\.jsonl is of another run: {told}; give the same again[^\n]*$"):
        edgecrack("--source", video, "--end", 0.2, "--resume", *options)
    assert (tmp_path / "out" / "log.jsonl").read_bytes() == before


def test_another_source_another_file_or_another_model_does_not_go_on_with_a_log(
    edgecrack, tmp_path, video, folder, model, write_model, spec
):
    edgecrack("--source", video, "--end", 0.2)
    with pytest.raises(SpecError, match="sources was"):
        edgecrack("--source", folder, "--resume")
    longer = video.read_bytes() + b"\0\0\0\x08free"
    video.write_bytes(longer)
    with pytest.raises(SpecError, match="bytes was"):
        edgecrack("--source", video, "--end", 0.2, "--resume")
    video.write_bytes(longer[:-8])
    other = write_model(tmp_path / "other.onnx", spec)
    other.write_bytes(other.read_bytes() + b"\x32\x00")  # an empty field that says nothing
    app = typer.Typer()
    app.command()(run)
    command = [str(other), "--source", str(video), "--out", str(tmp_path / "out"), "--end", "0.2", "--resume"]
    with pytest.raises(SpecError, match="sha256 was"):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("left", [1, 2, 3, 6, 7, 9])
def test_images_that_are_damaged_at_the_ends_of_folders_are_no_matter(edgecrack, tmp_path, left):
    """Where a folder's first images are damaged, its numbers follow on those of the one before."""
    road = np.full((48, 64, 3), 90, np.uint8)
    for folder, good in {"a": (0,), "b": (1, 2), "c": (), "d": (3, 4)}.items():
        (tmp_path / folder).mkdir()
        for index in range(5):
            path = tmp_path / folder / f"{index}.png"
            if index in good:
                cv2.imwrite(str(path), road)
            else:
                path.write_bytes(b"junk")
    sources = [tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d"]
    for name in ("e.mp4", "f.mp4"):
        with VideoWriter(tmp_path / name, 25) as writer:
            for _ in range(2):
                writer.write(road)
        sources.append(tmp_path / name)
    command = [word for source in sources for word in ("--source", source)]
    edgecrack(*command, "--masks")
    out = tmp_path / "out"
    whole = lines_of(out)
    assert [line["index"] for line in whole if "event" not in line] == [0, 1, 2, 3, 4, 0, 1, 0, 1]
    cut(out, left)
    edgecrack(*command, "--masks", "--resume")
    assert lines_of(out) == whole


def test_a_log_that_was_changed_is_not_gone_on_with(edgecrack, tmp_path, folder):
    edgecrack("--source", folder)
    out = tmp_path / "out"
    path = out / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:9]))
    with pytest.raises(SpecError, match=r"the log of [^\n]* has no [^\n]*\.png: one of them was changed"):
        edgecrack("--source", folder, "--resume")
    path.write_bytes(b"".join(lines[4:6] + lines[:4]))
    with pytest.raises(SpecError, match=r"has frame 1 where 8 was to come: it was changed"):
        edgecrack("--source", folder, "--resume")
    path.write_bytes(lines[0] + b'{"index": 1, "source": "b.png"}\n')
    with pytest.raises(SpecError, match=r"has a frame without its 'crack_pixels': it was changed"):
        edgecrack("--source", folder, "--resume")
    path.write_bytes(b"".join(lines[:9]))
    (folder / "000.jpg").write_bytes((folder / "001.png").read_bytes())
    with pytest.raises(SpecError, match=r"image 1 of [^\n]* was [^\n]* and is [^\n]* now"):
        edgecrack("--source", folder, "--resume")
    (folder / "000.jpg").rename(folder / "003.jpg")
    with pytest.raises(SpecError, match=r"image 3 of [^\n]* was [^\n]* and is [^\n]* now"):
        edgecrack("--source", folder, "--resume")
    (folder / "003.jpg").unlink()
    (out / "run.json").unlink()
    with pytest.raises(SpecError, match=r"has no readable run\.json beside it"):
        edgecrack("--source", folder, "--resume")


def test_of_a_camera_the_numbers_and_the_videos_go_on(tmp_path, model, camera):
    camera.value = 200
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", camera.url, "--out", out]
    log = out / "log.jsonl"
    refused = None
    for turn, number in enumerate((signal.SIGKILL, signal.SIGINT)):
        seen = len(log.read_bytes()) if log.exists() else 0
        options = ["--masks", *(["--resume"] if turn else [])]
        with subprocess.Popen([*map(str, command), *options], stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not log.exists() or len(log.read_bytes()) < seen + 8000:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            process.send_signal(number)
            process.stderr.read()
        if not turn:
            refused = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
            killed = lines_of(out)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "is of a run before: give --resume to go on with it, or another --out" in refused.stderr
    lines = lines_of(out)
    assert lines[: len(killed)] == killed
    resumed = next(line for line in lines if line.get("event") == "resumed")
    frames = [line["index"] for line in lines if "event" not in line]
    assert frames == sorted(set(frames))
    assert resumed["first"] == 1 + max(line.get("index", line.get("last", 0)) for line in killed)
    assert min(line["index"] for line in lines[len(killed) :] if "event" not in line) >= resumed["first"]
    summary = lines[-1]
    numbers = {index for index in frames if index >= resumed["first"]}
    for line in lines[len(killed) :]:
        if line.get("event") == "dropped":
            numbers |= set(range(line["first"], line["last"] + 1))
    assert numbers == set(range(resumed["first"], resumed["first"] + summary["captured"]))
    assert len(list((out / "masks").glob("*.png"))) == len(frames)
    assert sorted(path.name for path in out.glob("*.mp4")) == ["overlay-2.mp4", "overlay.mp4"]
    assert abs(sum(overlays_of(out)) - len(frames)) <= 2
    assert all("dropped" in line for line in lines if "event" not in line)
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"secret" not in written


def test_a_camera_goes_on_after_pictures_that_reached_the_disk_before_their_lines(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"index": 5, "source": "camera"}\n')
    assert _next_number(tmp_path / "log.jsonl") == 6
    for name in ("masks/000009.png", "evidence/front/000012.jpg", "evidence/000007-2.mp4", "evidence/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert _next_number(tmp_path / "log.jsonl") == 13
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "000020.jpg").touch()  # of a pipe without a rate
    assert _next_number(tmp_path / "log.jsonl") == 21


def test_what_is_left_of_videos_and_images_is_drawn_as_in_a_single_run(edgecrack, tmp_path, video):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((48, 64, 3), 90, np.uint8))
    command = ["--source", tmp_path / "photo.png", "--source", video, "--every", 60]
    edgecrack(*command)
    out = tmp_path / "out"
    whole = pictures_of(out)
    assert len(whole) == 5
    cut(out, 3)  # what is left is a video
    edgecrack(*command, "--resume")
    assert pictures_of(out) == whole
    assert len(lines_of(out)) == 5


def test_an_output_that_was_left_out_is_said_again(edgecrack, tmp_path, folder, caplog):
    masks = tmp_path / "out" / "masks"
    (masks / "002.png").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"masks"):
        edgecrack("--source", folder, "--masks")
    (masks / "002.png").rmdir()
    caplog.clear()
    edgecrack("--source", folder, "--masks", "--resume")
    assert f"{masks} was left out of the run before; what it lacks since then is not made up for" in caplog.messages


def test_masks_of_finds_are_named_as_in_a_single_run(edgecrack, tmp_path):
    """Two folders have images of the same names: what tells them apart is which of them are finds."""
    for folder, values in {"a": (20, 200), "b": (200, 200)}.items():
        (tmp_path / folder).mkdir()
        for index, value in enumerate(values):
            cv2.imwrite(str(tmp_path / folder / f"{index}.png"), np.full((48, 64, 3), value, np.uint8))
    command = ["--source", tmp_path / "a", "--source", tmp_path / "b", "--masks", "--save-when", "cracks"]
    edgecrack(*command)
    out = tmp_path / "out"
    whole = masks_of(out)
    assert sorted(whole) == ["masks/0.png", "masks/1-000001.png", "masks/1.png"]
    for left in (1, 2, 3):
        cut(out, left)
        edgecrack(*command, "--resume")
        assert masks_of(out) == whole


def test_a_folder_that_cannot_be_looked_into_is_one_line(model, folder, tmp_path):
    command = [sys.executable, "-m", "edgecrack", "run", str(model), "--source", str(folder)]
    done = subprocess.run([*command, "--out", str(tmp_path / ("x" * 300))], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("edgecrack: cannot write into ")
    assert done.stderr.rstrip().endswith("File name too long")
