"""`--camera` and `--input` on the command line: what is written, that it runs, and what is refused."""

from __future__ import annotations

import json

import cv2
import pytest

from edgecrack.cli import main
from edgecrack.onnx_graph import read_onnx
from edgecrack.rendering import rendered_frame
from edgecrack.runtime import VideoWriter
from edgecrack.spec import FrameSpec

SIZE = ["--size", "128x128"]
CAMERA = ["--camera", "320x180", "--input", "bgrx"]


def edgecrack(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    return caught.value.code or 0


def export(*arguments):
    return edgecrack("export", "--model", "msfnet", *SIZE, *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With rendered frames of the camera as images and as a video, and the exports made of them with and without it."""
    folder = tmp_path_factory.mktemp("camera")
    images = [rendered_frame(seed, 180, 320)[0] for seed in (0, 4, 7)]
    (folder / "frames").mkdir()
    with VideoWriter(folder / "road.mp4", 10) as video:
        for index, image in enumerate(images):
            cv2.imwrite(str(folder / "frames" / f"{index}.png"), image)
            video.write(image)
    int8 = ["--int8", "--target", "cpu", "--calib", folder / "frames"]
    assert export(*int8, "-o", folder / "plain") == 0
    assert export(*int8, *CAMERA, "-o", folder / "camera") == 0
    return folder


def test_the_file_says_what_it_takes(folder, capsys):
    path = folder / "camera" / "msfnet.int8-cpu.onnx"
    _, spec = read_onnx(path)
    assert (spec.frame, spec.camera, spec.pixels) == (FrameSpec(128, 128), FrameSpec(180, 320), "bgrx")
    assert edgecrack("info", path) == 0
    told = json.loads(capsys.readouterr().out)["spec"]
    assert (told["camera"], told["pixels"]) == ({"height": 180, "width": 320}, "bgrx")


def test_ranges_do_not_depend_on_where_frames_are_fitted(folder):
    plain, camera = (read_onnx(folder / name / "msfnet.int8-cpu.onnx")[1] for name in ("plain", "camera"))
    assert plain.hashes["ranges"] == camera.hashes["ranges"]


def test_a_bgrx_model_runs_over_a_video(folder, tmp_path, capsys):
    model = folder / "camera" / "msfnet.int8-cpu.onnx"
    assert edgecrack("run", model, "--source", folder / "road.mp4", "--out", tmp_path, "--masks") == 0
    assert "3 frames" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["width"], line["height"]) for line in lines] == [(320, 180)] * 3
    assert any(line["crack_pixels"] for line in lines)
    assert len(list((tmp_path / "masks").iterdir())) == 3
    assert (tmp_path / "overlay.mp4").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--input", "rgb"], 2, "it is bgr or bgrx, got 'rgb'"),
        (["--camera", "1080p"], 1, "a size is WIDTHxHEIGHT, for example 1024x640; got '1080p'"),
        (["--camera", "0x0"], 1, "a size is two positive whole numbers"),
        (["--camera", "16x16"], 1, "a camera's frame has 32 to 16384 pixels a side, got 16x16"),
        (["--camera", "20000x1080"], 1, "a camera's frame has 32 to 16384 pixels a side, got 20000x1080"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, code, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert export(*options, "-o", tmp_path) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
