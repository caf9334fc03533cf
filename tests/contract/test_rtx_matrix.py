"""Every net in every precision and size builds with TensorRT for RTX, and Polygraphy finds no node that it lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from edgecrack.models import MODELS
from edgecrack.spec import PRECISIONS

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("polygraphy")
TOOL = Path(__file__).parents[2] / "tools" / "rtx_matrix.py"
# the full width has random weights: a build test only
GRAPHS = [
    ("compact", "512x512", 1),
    ("compact", "1024x640", 1),
    ("compact", "512x512", 4),
    ("full", "256x256", 1),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """(net, width, size, batch, precision) -> what `make rtx-matrix` found; the seconds are for an idle machine to judge."""
    path = tmp_path_factory.mktemp("matrix") / "rows.json"
    done = subprocess.run(
        [sys.executable, TOOL, "--untimed", "--json", path], capture_output=True, text=True, timeout=1800
    )
    assert path.exists(), done.stdout + done.stderr
    keys = ("net", "width", "size", "batch", "precision")
    return {tuple(row[key] for key in keys): row for row in json.loads(path.read_text())}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: "-".join(map(str, graph)))
@pytest.mark.parametrize("net", MODELS)
def test_it_builds_within_its_memory_and_has_no_unsupported_node(net, graph, precision, rows):
    row = rows[(net, *graph, precision)]
    assert row["failure"] == ""
    assert row["seconds"] > 0
    assert row["plan"] > 0


def test_nothing_else_is_built(rows):
    assert set(rows) == {(net, *graph, precision) for net, graph, precision in product(MODELS, GRAPHS, PRECISIONS)}


@pytest.mark.parametrize("net", ["aelf-unet", "cacpnet", "scnet"])  # MSF-Net has few weights
def test_the_plan_has_the_precision_of_the_graph(net, rows):
    """Weights are most of a full-width plan: in half precision it is about half as large, in INT8 a quarter."""
    full = {precision: rows[(net, "full", "256x256", 1, precision)] for precision in PRECISIONS}
    kernels = 24  # MB at most, for four kinds of GPU
    for precision, share in (("fp32", 1), ("fp16", 1 / 2), ("int8", 1 / 4), ("int8-fp16", 1 / 4)):
        weights = full["fp32"]["onnx"] * share
        assert weights * 0.9 < full[precision]["plan"] < weights + kernels, precision
