"""`edgecrack export`: the file asked for, each option, and what is refused."""

from __future__ import annotations

import shutil

import cv2
import pytest
import torch

import edgecrack.weights
from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.ranges import measure_ranges
from edgecrack.cli import main
from edgecrack.engine_file import read_record
from edgecrack.export import graph
from edgecrack.export.graph import onnx_from_model
from edgecrack.export.parity import REDUCED, Bound
from edgecrack.models import build_model
from edgecrack.models.checkpoint import save_checkpoint
from edgecrack.onnx_graph import read_onnx
from edgecrack.rendering import rendered_frame
from edgecrack.spec import FrameSpec, ModelSpec

FRAME = FrameSpec(64, 96)
SPEC = ModelSpec("msfnet", 0.125, frame=FRAME)


def rendered(count: int = 2):
    return [rendered_frame(seed, FRAME.height, FRAME.width)[0] for seed in range(count)]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return build_model(SPEC).eval()


@pytest.fixture(scope="module")
def fp32(net, tmp_path_factory):
    """The net as ONNX."""
    return onnx_from_model(net, SPEC, tmp_path_factory.mktemp("onnx") / "msfnet.onnx")


@pytest.fixture
def checkpoint(net, tmp_path):
    save_checkpoint(tmp_path / "own.safetensors", net, SPEC)
    return tmp_path / "own.safetensors"


@pytest.fixture
def quick(fp32, monkeypatch):
    """Spare the command the tracing, which other tests go through."""
    monkeypatch.setattr(graph, "onnx_from_model", lambda net, spec, path, **_: shutil.copy(fp32, path))


def export(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["export", *map(str, arguments)])
    return caught.value.code or 0


@pytest.fixture
def ranges(fp32, tmp_path):
    found = measure_ranges(fp32, CalibrationFrames.from_images(rendered(), FRAME))
    found.save(tmp_path / "own.ranges.json")
    return tmp_path / "own.ranges.json"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "name", "precision", "target"),
    [
        ([], "msfnet.onnx", "fp32", "tensorrt"),
        (["--fp16"], "msfnet.fp16.onnx", "fp16", "tensorrt"),
        (["--int8"], "msfnet.int8.onnx", "int8", "tensorrt"),
        (["--int8", "--fp16"], "msfnet.int8-fp16.onnx", "int8-fp16", "tensorrt"),
        (["--int8", "--target", "cpu"], "msfnet.int8-cpu.onnx", "int8", "cpu"),
    ],
)
def test_the_command_writes_what_was_asked_for(options, name, precision, target, checkpoint, ranges, tmp_path, capsys):
    if "--int8" in options:
        options = [*options, "--ranges", ranges]
    out = tmp_path / "out"
    assert export("--model", "msfnet", "--weights", checkpoint, *options, "-o", out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out / name}\n"
    assert {path.name for path in out.iterdir()} == {"msfnet.onnx", name}
    _, spec = read_onnx(out / name)
    assert (spec.precision, spec.target, spec.frame) == (precision, target, FRAME)
    assert f"{name:24} 8 rendered" in captured.err


def test_the_command_calibrates_on_a_folder_and_compares_on_it(checkpoint, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, image in enumerate(rendered(count=3)):
        cv2.imwrite(str(frames / f"{index}.png"), image)
    arguments = ("--model", "msfnet", "--weights", checkpoint, "--int8", "--calib", frames, "-o", tmp_path / "out")
    assert export(*arguments, "--size", "64x48", "--batch", "2") == 0
    captured = capsys.readouterr().err
    assert "measuring on 3 frames" in captured
    assert f"{'msfnet.int8.onnx':24} 3 calibration" in captured
    _, spec = read_onnx(tmp_path / "out" / "msfnet.int8.onnx")
    assert (spec.frame, spec.batch) == (FrameSpec(48, 64), 2)
    kept = tmp_path / "out" / "msfnet.ranges.json"
    arguments = ("--model", "msfnet", "--weights", checkpoint, "--int8", "--ranges", kept, "-o", tmp_path / "again")
    assert export(*arguments, "--size", "64x48", "--batch", "2") == 0
    first, second = (tmp_path / name / "msfnet.int8.onnx" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_ranges_are_kept_and_all_frames_compared_where_int8_is_refused(checkpoint, tmp_path, capsys, monkeypatch):
    cv2.imwrite(str(tmp_path / "0.png"), rendered(count=1)[0])
    monkeypatch.setitem(REDUCED, "int8", Bound(0.0, f1=2.0))
    arguments = ("--model", "msfnet", "--weights", checkpoint, "--int8", "--calib", tmp_path, "-o", tmp_path / "out")
    assert export(*arguments, "--size", "64x48") == 3
    captured = capsys.readouterr().err
    assert f"{'msfnet.int8.onnx':24} 1 calibration" in captured
    assert "give --calib more frames like those it is to see" in captured
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"msfnet.onnx", "msfnet.ranges.json"}


def test_a_file_for_another_size_is_not_replaced_unsaid(checkpoint, tmp_path, capsys):
    arguments = ("--model", "msfnet", "--weights", checkpoint, "-o", tmp_path)
    told = []
    for size in ("96x64", "64x64", "64x64"):
        assert export(*arguments, "--size", size) == 0
        told.append("msfnet.onnx is for another size or batch, and is replaced" in capsys.readouterr().err)
    assert told == [False, True, False]


@pytest.mark.usefixtures("quick")
def test_the_command_builds_the_engine_too(checkpoint, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path / "out"
    export_it = ("--model", "msfnet", "--weights", checkpoint, "--fp16", "--engine", "--for", "sm86,sm120", "-o", out)
    assert export(*export_it) == 0
    captured = capsys.readouterr()
    onnx, engine = out / "msfnet.fp16.onnx", out / "msfnet.fp16.engine"
    assert captured.out == f"{onnx}\n{engine}\n"
    assert "builder: TensorRT for RTX" in captured.err.splitlines()[0]
    record = read_record(engine)
    assert (record.compute_capabilities, record.onnx) == (("8.6", "12.0"), onnx.name)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--target", "cpu", "--fp16", "--int8"], 2, "half precision"),
        (["--target", "cpu"], 2, "add --int8"),
        (["--target", "gpu", "--int8"], 2, "tensorrt or cpu"),
        (["--ranges", "x.json"], 2, "add it"),
        (["--ranges", "x.json", "--calib", "x", "--int8"], 2, "not both"),
        (["--calib", "x"], 2, "for --int8; add it"),
        (["--batch", "0"], 2, "--batch"),
        (["--for", "sm86"], 2, "it is for --engine; add it"),
        (["--int8", "--target", "cpu", "--engine"], 2, "TensorRT takes no INT8 made for CPUs"),
        (["--engine", "--for", "sm87"], 1, "builds for sm75"),
        (["--int8"], 1, "weights of your own need ranges of their own"),
        (["--size", "100x64"], 1, "multiples of 16"),
        (["--size", "32x16"], 2, "each side is 32 to 16384, got 32x16"),
        (["--size", "99968x99968"], 2, "each side is 32 to 16384, got 99968x99968"),
        (["--size", "big"], 1, "WIDTHxHEIGHT"),
        (["--int8", "--ranges", "none.json"], 1, "cannot read ranges"),
        (["--int8", "--calib", "none"], 1, "nothing to calibrate on"),
    ],
)
def test_options_that_cannot_be_are_refused(options, code, words, checkpoint, tmp_path, capsys):
    assert export("--model", "msfnet", "--weights", checkpoint, *options, "-o", tmp_path / "out") == code
    captured = capsys.readouterr()
    assert words in " ".join(captured.err.split())
    assert not captured.out


def test_a_checkpoint_of_another_net_is_refused(checkpoint, capsys, tmp_path):
    assert export("--model", "scnet", "--weights", checkpoint, "-o", tmp_path / "out") == 1
    assert "holds msfnet, not scnet" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_file_below_its_bound_never_gets_its_name(checkpoint, ranges, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(REDUCED, "int8", Bound(within=1.0, f1=1.0))
    out = tmp_path / "out"
    assert export("--model", "msfnet", "--weights", checkpoint, "--int8", "--ranges", ranges, "-o", out) == 3
    captured = capsys.readouterr()
    assert "msfnet in int8 does not answer what the net answers" in captured.err
    assert not captured.out
    assert [path.name for path in out.iterdir()] == ["msfnet.onnx"]


@pytest.mark.usefixtures("quick")
def test_shipped_ranges_go_with_shipped_weights(checkpoint, ranges, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(edgecrack.weights, "weights_path", lambda name: checkpoint)
    monkeypatch.setattr(edgecrack.weights, "ranges_path", lambda name: ranges)
    assert export("--model", "msfnet", "--int8", "-o", tmp_path / "out") == 0
    captured = capsys.readouterr().err
    assert f"weights: the shipped ones, {checkpoint}" in captured
    assert "ranges: the shipped ones, measured on 2 frames at 96x64" in captured
