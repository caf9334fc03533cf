"""What `edgecrack run` writes, as it is asked to."""

import fcntl
import json
import os
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
from edgecrack.errors import SourceError, SourceLost, SpecError
from edgecrack.files import TEMPORARY
from edgecrack.runtime import VideoWriter


@pytest.fixture
def edgecrack(model, tmp_path):
    app = typer.Typer()
    app.command()(run)
    return lambda *options: CliRunner().invoke(
        app, [str(model), "--out", str(tmp_path / "out"), *map(str, options)], catch_exceptions=False
    )


@pytest.fixture
def video(tmp_path):
    """12 s of 10 frames a second; two pieces of crack in a frame of the sixth second."""
    with VideoWriter(tmp_path / "road.mp4", 10, quality=0) as writer:
        for index in range(120):
            image = np.full((48, 64, 3), 40, np.uint8)
            if index == 55:
                image[8:16, 8:24] = image[32:40, 40:56] = 240
            writer.write(image)
    return tmp_path / "road.mp4"


def lines_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def files(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def count(path):
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def test_the_log_has_boxes_contours_and_masks_on_request(edgecrack, video, tmp_path):
    edgecrack("--source", video, "--start", 5.4, "--end", 5.7, "--no-overlay")
    assert not {"boxes", "contours", "rle"} & lines_of(tmp_path / "out")[1].keys()
    (tmp_path / "out").rename(tmp_path / "before")
    edgecrack("--source", video, "--start", 5.4, "--end", 5.7, "--boxes", "--contours", "--rle", "--no-overlay")
    before, found, after = lines_of(tmp_path / "out")
    assert before["boxes"] == before["contours"] == after["boxes"] == []
    assert sorted(found["boxes"]) == [[8, 8, 24, 16], [40, 32, 56, 40]]
    assert sorted(map(sorted, found["contours"])) == [
        [[8, 8], [8, 15], [23, 8], [23, 15]],
        [[40, 32], [40, 39], [55, 32], [55, 39]],
    ]
    assert found["rle"]["size"] == [48, 64]
    assert before["rle"]["counts"] == after["rle"]["counts"]


def test_only_what_was_found_is_kept(edgecrack, video, tmp_path):
    done = edgecrack("--source", video, "--save-when", "cracks", "--masks")
    out = tmp_path / "out"
    assert files(out) == ["evidence/000055.jpg", "evidence/000055.mp4", "log.jsonl", "masks/000055.png", "run.json"]
    assert 41 <= count(out / "evidence" / "000055.mp4") <= 51
    assert len(lines_of(out)) == 120
    assert f"written: {out / 'evidence'}, {out / 'masks'}, {out / 'log.jsonl'}\n" in done.stdout


def test_a_find_can_be_asked_to_be_large(edgecrack, video, tmp_path):
    edgecrack("--source", video, "--save-when", "cracks", "--min-crack-share", 0.2)
    assert files(tmp_path / "out") == ["log.jsonl", "run.json"]


def test_of_images_those_with_cracks_are_kept(edgecrack, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(4):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), np.full((48, 64, 3), 240 if index == 2 else 0, np.uint8))
    edgecrack("--source", tmp_path / "photos", "--save-when", "cracks", "--masks")
    assert files(tmp_path / "out") == ["log.jsonl", "masks/2.png", "overlay/2.jpg", "run.json"]


def test_a_video_is_cut_into_segments(edgecrack, video, tmp_path):
    edgecrack("--source", video, "--segment", 5)
    out = tmp_path / "out"
    assert files(out) == ["log.jsonl", "overlay-2.mp4", "overlay-3.mp4", "overlay.mp4", "run.json"]
    assert [count(out / name) for name in ("overlay.mp4", "overlay-2.mp4", "overlay-3.mp4")] == [50, 50, 20]


def test_several_videos_have_files_of_their_own(edgecrack, video, tmp_path):
    other = tmp_path / "other road.mp4"
    other.write_bytes(video.read_bytes())
    said = edgecrack("--source", video, "--source", other, "--end", 0.5, "--masks").stdout
    out = tmp_path / "out"
    assert [str(out / f"overlay-{name}.mp4") in said for name in ("road", "other-road")] == [True, True]
    assert [count(out / f"overlay-{name}.mp4") for name in ("road", "other-road")] == [5, 5]
    assert len(list((out / "masks" / "road").iterdir())) == len(list((out / "masks" / "other-road").iterdir())) == 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--save-when", "sometimes"], "always or when there are cracks, got 'sometimes'"),
        (["--segment", 0.5], "a segment is 1 second or longer, got 0.5"),
        (["--segment", "nan"], "a segment is 1 second or longer, got nan"),
        (["--keep-gb", 0], "the gigabytes to keep are more than 0, got 0"),
        (["--save-when", "cracks", "--min-crack-share", 2], "a share of crack is between 0 and 1, got 2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(edgecrack, video, tmp_path, options, told):
    with pytest.raises(SpecError, match=told):
        edgecrack("--source", video, *options)
    assert not list(tmp_path.glob("out/*"))


def test_a_blank_before_an_address_does_not_let_its_password_out(edgecrack, tmp_path):
    with pytest.raises(SourceLost):
        edgecrack("--source", " rtsp://admin:secret@127.0.0.1:9/1", "--max-reconnects", 0)
    record = (tmp_path / "out" / "run.json").read_text()
    assert "secret" not in record
    assert json.loads(record)["live"] is True
    told = edgecrack("--source", " rtsp://admin:secret@127.0.0.1:9/1", "--dry-run").stdout
    assert told == "rtsp://***@127.0.0.1:9/1 through PyAV\n"


def test_cameras_have_clips_of_their_own_and_no_password_is_written_anywhere(model, tmp_path, camera):
    """Over the whole of it: two cameras, clips, images, masks, log, record, standard output and error."""
    out = tmp_path / "out"
    urls = [camera.url, camera.url.replace("/video?", "/rear?")]
    command = [sys.executable, "-m", "edgecrack", "run", model, "--source", urls[0], "--source", urls[1], "--out", out]
    command += ["--save-when", "cracks", "--masks", "--rle", "--boxes", "--segment", "2", "--keep-gb", "1"]
    told = []
    for options in ([], ["--resume"]):
        with subprocess.Popen(
            [*map(str, command), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            camera.value = 200
            deadline = time.monotonic() + 60
            before = len(list(out.rglob("*.jpg")))
            while len(list(out.rglob("*.jpg"))) < before + 2:
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            told += [process.stdout.read(), process.stderr.read()]
            assert process.wait(20) == 143
    folders = [path for path in (out / "evidence").iterdir() if path.is_dir()]
    assert len(folders) == len(list((out / "masks").iterdir())) == 2
    for folder in folders:
        assert sum(count(path) for path in folder.glob("*.mp4")) > 10
        assert list(folder.glob("*.jpg"))
    frames = [(line["source"], line["index"]) for line in lines_of(out) if "event" not in line]
    assert len(frames) == len(set(frames))
    names = "".join(str(path) for path in out.rglob("*"))
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"secret" not in written
    assert "secret" not in names + "".join(told)
    assert "Traceback" not in "".join(told)


def test_two_runs_do_not_write_into_one_folder(edgecrack, video, tmp_path):
    (tmp_path / "out").mkdir()
    other = os.open(tmp_path / "out", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SourceError, match=r"another run writes into .*out; give another --out"):
            edgecrack("--source", video)
    finally:
        os.close(other)
    assert files(tmp_path / "out") == []
    assert edgecrack("--source", video, "--end", 0.5).exit_code == 0


def test_a_run_leaves_alone_what_another_writes_below_its_folder(edgecrack, video, tmp_path):
    ours, theirs = tmp_path / "out" / "masks", tmp_path / "out" / "another" / "masks"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
        (folder / f"{TEMPORARY}half.png").touch()
    edgecrack("--source", video, "--end", 0.5)
    assert not list(ours.iterdir())
    assert len(list(theirs.iterdir())) == 1
