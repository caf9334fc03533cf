"""`edgecrack evaluate` with models side by side on ONNX Runtime or OpenVINO: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecrack.cli import main
from edgecrack.spec import FrameSpec, ModelSpec

HEIGHT, WIDTH, FRAMES = 48, 64, 4


@pytest.fixture
def edgecrack(capsys):
    """The command: (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", *map(str, arguments)])
        return (caught.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def refused(edgecrack):
    """A command that ends with `code`, nothing on stdout and one line, or usage, that has `words`."""

    def call(code, words, *arguments):
        got, out, err = edgecrack(*arguments)
        assert (got, out) == (code, ""), err
        if code == 2:
            assert words in " ".join(err.replace("│", " ").split())
        else:
            (line,) = [line for line in err.splitlines() if not line.startswith("the models take")]
            assert line.startswith("edgecrack: ")
            assert words in line

    return call


def make_set(folder, *, masks=True, crack=True):
    """Frames with a bright line each, which the model takes for a crack, that fades from frame to frame."""
    for index in range(FRAMES):
        line = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.line(line, (5, 10 + 3 * index), (60, 30), 255, 2)
        image = np.random.default_rng(index).integers(0, 60, (HEIGHT, WIDTH), np.uint8)
        image[line > 0] = 250 - 45 * index
        for name, picture in (("images", image), ("masks", line if crack else 0 * line)):
            if masks or name == "images":
                (folder / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name / f"frame{index}.png"), picture)
    return folder


@pytest.fixture
def road(tmp_path):
    return make_set(tmp_path / "road")


@pytest.fixture
def half(tmp_path, write_model):
    """The model at half the size, which sees thin lines fade."""
    return write_model(tmp_path / "half.onnx", ModelSpec("scnet", frame=FrameSpec(32, 32), threshold=0.3))


def test_models_stand_side_by_side_on_each_set(edgecrack, model, half, road, tmp_path):
    quiet = make_set(tmp_path / "quiet", masks=False)
    out = tmp_path / "out"
    code, printed, said = edgecrack(model, half, "--data", f"{road},{quiet}", "--out", out, "--draws", 20)
    assert code == 0, said
    assert said == (
        "the models take different sizes: mean 64x48, half 32x32; what each loses by scaling counts against it\n"
    )
    scored = json.loads((out / "scores.json").read_text())
    assert [(one["model"], one["dataset"], one["size"]) for one in scored] == [
        ("mean", "road", "64x48"),
        ("mean", "quiet", "64x48"),
        ("half", "road", "32x32"),
        ("half", "quiet", "32x32"),
    ]
    mean, half_scores = scored[0]["scores"], scored[2]["scores"]
    assert mean["best_f1"] == 1.0 > half_scores["best_f1"]
    row = next(line for line in printed.splitlines() if line.startswith("  best F1 within 2 px (ODS)"))
    assert row.split("  ")[-1] != row.split()[0]
    for one in (mean, half_scores):
        assert f" {one['best_f1_2px']:.4f} [" in row
    assert "mean, half on road: 4 frames" in printed
    assert "mean, half on quiet: 4 frames, 0.0 million pixels, without masks" in printed
    assert "above mean on the same frames" in printed
    rows = list(csv.DictReader((out / "frames.csv").read_text().splitlines()))
    assert len(rows) == 4 * FRAMES
    assert rows[0]["frame"] == "frame0"
    assert {"report.html", "scores.json", "frames.csv", "precision_recall.png"} == {p.name for p in out.iterdir()}
    report = (out / "report.html").read_text()
    assert all(words in report for words in ("mean", "half", "road", "quiet", "Worst frames"))


def test_the_same_seed_prints_the_same(edgecrack, model, road):
    results = [json.loads(edgecrack(model, "--data", road, "--json", "--seed", seed)[1]) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0][0]["scores"] == results[2][0]["scores"]
    assert results[0][0]["intervals"] != results[2][0]["intervals"]


def test_without_draws_there_are_no_intervals(edgecrack, model, road):
    code, printed, _ = edgecrack(model, "--data", road, "--draws", 0)
    assert code == 0
    assert "[" not in printed


def test_models_and_sets_of_one_name_are_told_apart(edgecrack, model, road, tmp_path):
    import shutil

    other = Path(shutil.copytree(road, tmp_path / "other" / "road"))
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(model, tmp_path / "copy" / "mean.onnx"))
    code, printed, _ = edgecrack(model, copy, "--data", f"{road},{other},{road}", "--json", "--draws", 0)
    assert code == 0
    named = [(one["model"], one["dataset"]) for one in json.loads(printed)]
    assert named == [(str(a), str(b)) for a in (model, copy) for b in (road, other)]


def test_a_set_that_cannot_be_scored_is_one_line(refused, model, road, tmp_path):
    refused(1, "no data set folder", model, "--data", tmp_path / "nowhere")
    refused(2, "names no folder and no clip", model, "--data", " , ")
    cracks = make_set(tmp_path / "blank", crack=False)
    refused(1, "none of the 4 masks of blank has a crack", model, "--data", cracks)
    cv2.imwrite(str(road / "masks" / "frame2.png"), np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    refused(1, "frame2.png is 65x48, its image is 64x48", model, "--data", road)
    (road / "masks" / "frame2.png").unlink()
    refused(1, "frame2.png", model, "--data", road)


def test_a_model_that_cannot_be_is_known_before_any_frame_is_scored(refused, model, road, tmp_path):
    junk, out = tmp_path / "junk.onnx", tmp_path / "out"
    junk.write_bytes(b"hello")
    refused(1, "junk.onnx", model, junk, "--data", road, "--out", out)
    refused(1, "nowhere.onnx", model, tmp_path / "nowhere.onnx", "--data", road, "--out", out)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_one_line(refused, model, road, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused(1, "cannot write", model, "--data", road, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_was_scored_before_a_broken_frame_is_kept(refused, model, road, tmp_path):
    broken = make_set(tmp_path / "broken")
    image = broken / "images" / "frame3.png"
    image.write_bytes(image.read_bytes()[:100])
    out = tmp_path / "out"
    refused(1, "frame3.png", model, "--data", f"{road},{broken}", "--out", out)
    assert [one["dataset"] for one in json.loads((out / "scores.json").read_text())] == ["road"]
