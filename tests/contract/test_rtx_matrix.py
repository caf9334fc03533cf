"""SCNet, which has the most kinds of operators, builds with TensorRT for RTX in every precision, and Polygraphy finds no node
that it lacks. `make rtx-matrix` builds every net, in every precision at every size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from edgecrack.spec import PRECISIONS

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("polygraphy")
TOOL = Path(__file__).parents[2] / "tools" / "rtx_matrix.py"
NET = "scnet"
# the full width has random weights: a build test only
OTHERS = [("compact", "1024x640", 1), ("compact", "512x512", 4), ("full", "256x256", 1)]
GRAPHS = [*product([("compact", "512x512", 1)], PRECISIONS), *product(OTHERS, ["int8"])]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """(net, width, size, batch, precision) -> what the tool found; the seconds are for an idle machine to judge."""
    path = tmp_path_factory.mktemp("matrix") / "rows.json"
    command = [sys.executable, TOOL, "--nets", NET, "--sample", "--untimed", "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert path.exists(), done.stdout + done.stderr
    keys = ("net", "width", "size", "batch", "precision")
    return {tuple(row[key] for key in keys): row for row in json.loads(path.read_text())}


@pytest.mark.parametrize(("graph", "precision"), GRAPHS, ids=str)
def test_it_builds_within_its_memory_and_has_no_unsupported_node(graph, precision, rows):
    row = rows[(NET, *graph, precision)]
    assert row["failure"] == ""
    assert row["seconds"] > 0
    assert row["plan"] > 0


def test_nothing_else_is_built(rows):
    assert set(rows) == {(NET, *graph, precision) for graph, precision in GRAPHS}


def test_the_plan_has_the_precision_of_the_graph(rows):
    """Weights are most of a full-width plan: in INT8 it is about as large as its ONNX, where they have a byte each too."""
    full = rows[(NET, "full", "256x256", 1, "int8")]
    kernels = 24  # MB at most, for four kinds of GPU
    assert full["onnx"] * 0.9 < full["plan"] < full["onnx"] + kernels
