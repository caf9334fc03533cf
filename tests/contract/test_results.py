"""`benchmarks/results.py` on a small data set: a run that ended early goes on, and what changed is scored anew."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the nets are exported")

OPTIONS = ("--models", "msfnet", "--flavours", "fp32,int8-cpu", "--draws", "20")


@pytest.fixture
def results(monkeypatch, tmp_path):
    """The script, with the data sets `a` and `b` of two frames each; `results.main(arguments)` runs it."""
    for name in ("a", "b"):
        for index in range(2):
            line = np.zeros((48, 64), np.uint8)
            cv2.line(line, (5, 10 + 9 * index), (60, 30), 255, 2)
            for folder, image in (("images", 160 - line // 2), ("masks", line)):
                (tmp_path / "data" / name / folder).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / "data" / name / folder / f"{index}.png"), image)
    monkeypatch.setenv("EDGECRACK_DATA", str(tmp_path / "data"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("results")


@pytest.fixture
def run(results, tmp_path, capsys):
    """Run it; the lines that say what was scored and not taken from the shelf."""

    def call(*arguments):
        results.main([*OPTIONS, "--out", str(tmp_path / "out"), *arguments])
        return [line.rpartition(":")[0] for line in capsys.readouterr().err.splitlines() if line.endswith(" s")]

    return call


def test_a_run_that_ended_early_goes_on(run, tmp_path, capsys):
    image = tmp_path / "data" / "b" / "images" / "1.png"
    whole = image.read_bytes()
    mask = tmp_path / "data" / "b" / "masks" / "1.png"
    mask.rename(tmp_path / "away.png")
    with pytest.raises(SystemExit, match=r"1\.png"):
        run("--sets", "a,b")
    (tmp_path / "away.png").rename(mask)
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"1\.png.*the same command goes on"):
        run("--sets", "a,b")
    assert not (tmp_path / "out" / "results.json").exists()
    capsys.readouterr()
    image.write_bytes(whole)
    assert run("--sets", "a,b") == ["msfnet fp32 b", "msfnet int8-cpu b"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["dataset"], row["flavour"]) for row in rows] == [
        ("a", "fp32"),
        ("a", "int8-cpu"),
        ("b", "fp32"),
        ("b", "int8-cpu"),
    ]
    assert run("--sets", "a,b") == []
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == rows
    table = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1
    assert f"| {rows[0]['report']['scores']['best_f1_2px']:.4f} |" in table[2]


def test_what_changed_is_scored_anew(run, tmp_path):
    fp32 = ("--sets", "a", "--flavours", "fp32")
    assert run(*fp32) == ["msfnet fp32 a"]
    assert run("--sets", "a") == ["msfnet int8-cpu a"]
    assert run(*fp32, "--every", "2") == ["msfnet fp32 a"]
    assert run(*fp32, "--every", "2") == []
    assert run(*fp32, "--every", "2", "--fresh") == ["msfnet fp32 a"]
    (tmp_path / "out" / "scores" / "msfnet.fp32.a.json").write_text("{")
    assert run(*fp32, "--every", "2") == ["msfnet fp32 a"]


def test_a_checkpoint_of_ones_own_is_scored_and_without_ranges_in_fp32(run, tmp_path):
    from edgecrack.weights import weights_path

    own = tmp_path / "runs" / "best.safetensors"
    own.parent.mkdir()
    shutil.copy(weights_path("msfnet"), own)
    name = str(own.with_suffix(""))
    assert run("--sets", "a", "--models", str(own)) == [f"{name} fp32 a"]
    with pytest.raises(SystemExit, match="no checkpoint, and the nets are aelf-unet"):
        run("--models", "unet", "--sets", "a")


def test_cards_keep_what_other_lists_scored(results, run, tmp_path, monkeypatch):
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"scores": {"b": {"fp32": {"frames": 1}}, "a": {"int8": {"frames": 3}}}}))
    monkeypatch.setattr(results, "card_path", lambda name: card)
    run("--sets", "a", "--cards", "--flavours", "fp32")
    scores = json.loads(card.read_text())["scores"]
    assert scores["b"] == {"fp32": {"frames": 1}}
    assert scores["a"]["int8"] == {"frames": 3}
    assert scores["a"]["fp32"]["frames"] == 2
    assert 0 <= scores["a"]["fp32"]["best_f1_2px"] <= 1


def test_the_card_of_a_net_that_has_just_been_shipped_gets_its_first_scores(results, run, tmp_path, monkeypatch):
    card = tmp_path / "card.json"
    card.write_text("{}")
    monkeypatch.setattr(results, "card_path", lambda name: card)
    run("--sets", "a", "--cards", "--flavours", "fp32")
    assert list(json.loads(card.read_text())["scores"]) == ["a"]


def test_without_data_it_says_where_they_are_sought(results, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGECRACK_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"no labelled data in .*nowhere; set EDGECRACK_DATA"):
        results.main([])
    with pytest.raises(SystemExit):
        results.main(["--flavours", "int4"])
