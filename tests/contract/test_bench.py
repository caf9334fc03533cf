"""`edgecrack bench` measures what it says, in real processes; how fast anything is is not tested."""

import importlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edgecrack.cli.bench import bench
from edgecrack.errors import EngineError, SourceError
from edgecrack.runtime import VideoWriter
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.speed.drive import Order, drive
from edgecrack.speed.plain import plain_model, plain_script_fps
from edgecrack.speed.power import MeanPower


@pytest.fixture
def edgecrack():
    """`edgecrack bench ...` with the given options; an EdgecrackError comes out as it is."""
    app = typer.Typer()
    app.command()(bench)

    def call(*options):
        return CliRunner().invoke(app, list(map(str, options)), catch_exceptions=False)

    return call


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "road.mp4"
    with VideoWriter(path, 30) as writer:
        for value in range(16):
            writer.write(np.full((120, 160, 3), 10 * value, np.uint8))
    return path


def test_all_of_it_comes_in_one_run_as_table_plot_and_json(edgecrack, model, video, tmp_path):
    done = edgecrack(
        *(model, "--source", video, "--frames", 12, "--rounds", 2),
        *("--json", tmp_path / "a.json", "--plot", tmp_path / "plot"),
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["bare"].keys() == {"latency", "throughput"}
    assert found["bare_fps"] == max(found["bare"].values()) > 0
    assert found["limit_fps"] == pytest.approx(1 / (1 / found["bare_fps"] + 1 / found["decode_fps"]))
    assert found["end_to_end_of_limit"] == pytest.approx(found["end_to_end_fps"] / found["limit_fps"])
    assert found["overlay_of_limit"] == pytest.approx(found["overlay_fps"] / found["limit_fps"])
    assert found["over_plain_script"] == pytest.approx(found["end_to_end_fps"] / found["plain_script_fps"])
    assert found["source"] == {"name": str(video), "size": "160x120", "frames": 12, "rounds": 2}
    assert (found["model"]["net"], found["model"]["size"]) == ("scnet", "64x48")
    stages = {"decode", "preprocess", "net", "postprocess", "log", "host"}
    assert found["milliseconds"].keys() == stages | {"bare latency", "bare throughput", "end to end", "with overlay"}
    for spread in found["milliseconds"].values():
        assert 0 <= spread["median"] <= spread["p95"] <= spread["p99"]
    assert 0 < found["cpu_share"] <= 1.1  # a clock tick more than there was
    assert 20 < found["peak_memory_mb"] < 5000
    for row in ("net alone, latency mode", "limit", "end to end, to JSON lines", "plain script", "p99"):
        assert row in done.stdout
    assert "round 2 of 2" in done.stderr
    assert cv2.imread(str(tmp_path / "plot")) is not None


def test_images_and_another_backend_are_measured_without_the_plain_script(edgecrack, model, tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((60, 80, 3), 100, np.uint8))
    done = edgecrack(
        *(model, "--source", tmp_path, "--frames", 10, "--rounds", 1),
        *("--backend", "onnxruntime", "--json", tmp_path / "a.json"),
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["source"]["frames"] == 3
    assert found["model"]["backend"] == "onnxruntime"
    assert found["plain_script_fps"] is found["over_plain_script"] is None
    assert "plain script not run: it reads a video file only" in done.stdout


def test_without_a_source_a_road_is_rendered(edgecrack, model):
    done = edgecrack(model, "--frames", 10, "--rounds", 1)
    assert "10 frames of 1920x1080" in done.stdout


def test_a_camera_is_refused_without_its_password(edgecrack, model):
    with pytest.raises(SourceError, match=r"^rtsp://\*\*\*@camera/1 shows no frame twice; wanted a video or images$"):
        edgecrack(model, "--source", "rtsp://admin:secret@camera/1")


def test_what_cannot_be_opened_is_said_before_anything_is_measured(edgecrack, model, tmp_path):
    with pytest.raises(SourceError, match="no file or folder"):
        edgecrack(model, "--source", tmp_path / "none.mp4")
    with pytest.raises(EngineError):
        edgecrack(tmp_path / "none.onnx", "--source", tmp_path / "none.mp4")


def test_the_stages_of_a_drive_are_those_of_its_frames(model, video):
    found = drive(Order(str(model), str(video), 5, "stages"))
    times = found.milliseconds
    assert {len(milliseconds) for milliseconds in times.values()} == {5}
    for frame in range(5):
        parts = sum(times[stage][frame] for stage in ("preprocess", "postprocess", "log"))
        assert times["host"][frame] >= parts - 0.01
        assert times["net"][frame] > 0


def test_a_drive_that_fails_is_one_line(model, tmp_path):
    with pytest.raises(SourceError, match="no file or folder"):
        drive(Order(str(model), str(tmp_path / "none.mp4"), 5, "log"))


def test_the_plain_script_runs_the_fp32_net_beside_an_int8_one(tmp_path, write_model):
    fp32 = write_model(tmp_path / "a.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64)))
    int8 = write_model(
        tmp_path / "a.int8-cpu.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64), precision="int8", target="cpu")
    )
    assert plain_model(fp32) == plain_model(int8) == fp32
    fp32.unlink()
    with pytest.raises(EngineError, match=r"the net's fp32 ONNX .* .*a\.onnx is none$"):
        plain_model(int8)


def test_the_plain_script_is_left_after_the_frames_that_are_wanted(model, video):
    assert plain_script_fps(model, str(video), 4) > 0
    assert plain_script_fps(model, str(video), 1000) > 0


def test_a_plain_script_that_fails_is_one_line(model, tmp_path):
    with pytest.raises(EngineError, match=r"^the plain script failed: [^\n]+$"):
        plain_script_fps(model, str(tmp_path / "none.mp4"), 4)


def test_power_is_what_the_module_draws_on_a_jetson_and_unknown_elsewhere(tmp_path):
    with MeanPower(tmp_path) as power:
        pass
    assert power.watts is None
    folder = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for channel, (label, millivolts, milliamperes) in enumerate([("VDD_IN", 5000, 1400), ("VDD_SOC", 5000, 300)], 1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    with MeanPower(tmp_path) as power:
        pass
    assert power.watts == pytest.approx(7.0)


def test_the_islands_are_what_is_not_int8(model, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    told = importlib.import_module("speed").islands(model)
    assert told.startswith("mean.onnx: ")
    assert "float" in told.splitlines()[1]
    assert "INT8" not in told
