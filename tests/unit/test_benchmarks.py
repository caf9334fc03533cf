"""The benchmarks hold what they measure to its bound."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest


def test_a_number_beyond_its_bound_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    speed = importlib.import_module("speed")
    assert speed.held("msfnet", {"int8_over_fp32": 2.0, "memory_mb": 499.0, "decode_fps": 1.0}) == 0
    assert speed.held("scnet", {"int8_over_fp32": 2.0, "end_to_end_of_limit": 0.95, "memory_growth_mb": 21.0}) == 2
    assert "MISSED scnet int8_over_fp32 2.000, wanted at least 2.5" in capsys.readouterr().out


def test_a_soak_misses_a_number_that_has_no_end_or_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    soak = importlib.import_module("soak")
    frames = [{"index": index, "age": 0.1 * index} for index in (0, 1, 4)]
    drops = {"event": "dropped", "cause": "newer", "first": 2, "last": 3}
    summary = {"event": "summary", "captured": 5, "processed": 3, "dropped": {"newer": 2}, "failed": 0}
    whole = soak.accounted([*frames, drops, summary])
    assert (whole["without_an_end"], whole["with_two_ends"], whole["summary_agrees"]) == (0, 0, True)
    torn = soak.accounted([frames[0], *frames, {**drops, "last": 2}, summary])
    assert (torn["without_an_end"], torn["with_two_ends"], torn["summary_agrees"]) == (1, 1, False)
    samples = [soak.Sample(float(second), 30 * second, 100 + second / 2, 9, 20) for second in range(100)]
    report = {"camera": "a camera", "frames": torn, "age_s": soak.ages(frames), "camera_away_s": [7.8]}
    report |= soak.grown(samples)
    assert soak.told(report) == 4  # and 27 MB in a minute
    said = capsys.readouterr().out
    assert "MISSED memory growth, MB: 26.5, wanted at most 20" in said
    assert "ok     thread growth" in said
    assert "ok     age, s: 0.4" in said


def test_what_was_found_is_counted_by_bands_of_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    ceiling = importlib.import_module("ceiling")
    mask, found = np.zeros((8, 20), np.bool_), np.zeros((8, 20), np.bool_)
    mask[3, 2:8] = True  # in the second of four bands
    found[4, 2:6] = True  # a row below, in the third
    found[0, 15:18] = True  # far from any crack
    assert ceiling.band_counts(found, mask).tolist() == [[3, 0, 0, 0], [0, 0, 6, 5], [4, 4, 0, 0], [0, 0, 0, 0]]
