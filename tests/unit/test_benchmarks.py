"""The benchmarks hold what they measure to its bound."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_a_number_beyond_its_bound_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    speed = importlib.import_module("speed")
    assert speed.held("msfnet", {"int8_over_fp32": 2.0, "memory_mb": 499.0, "decode_fps": 1.0}) == 0
    assert speed.held("scnet", {"int8_over_fp32": 2.0, "end_to_end_of_limit": 0.95, "memory_growth_mb": 21.0}) == 2
    assert "MISSED scnet int8_over_fp32 2.000, wanted at least 2.5" in capsys.readouterr().out
