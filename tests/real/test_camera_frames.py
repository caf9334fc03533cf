"""Fitting inside the graph against fitting on the host, on real frames."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Ranges
from edgecrack.dataset import open_dataset
from edgecrack.export.graph import onnx_from_model
from edgecrack.images import read_image
from edgecrack.metrics import counts, f_score, pool
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.runtime import CrackDetector
from edgecrack.spec import FrameSpec
from edgecrack.weights import ranges_path, weights_path

DATA = Path(os.environ.get("EDGECRACK_DATA", Path(__file__).parents[3] / "shared" / "data"))
FRAMES = 8


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no labelled frames in {DATA}; set EDGECRACK_DATA to have them scored")
@pytest.mark.parametrize("target", ["fp32", "int8-cpu"])
@pytest.mark.parametrize("net_name", ["msfnet", "scnet"])
@pytest.mark.parametrize("name", ["road_survey", "cfd"])
def test_masks_are_those_of_host_fitting(name: str, net_name: str, target: str, tmp_path: Path) -> None:
    paths = open_dataset(DATA / name, "test").images
    images = [read_image(path) for path in paths[:: len(paths) // FRAMES]]
    net, spec = load_checkpoint(weights_path(net_name))
    found = {}
    for camera in (None, FrameSpec(*images[0].shape[:2])):
        path = onnx_from_model(net, replace(spec, camera=camera), tmp_path / "net.onnx")
        if target == "int8-cpu":
            path = int8_from_onnx(path, Ranges.load(ranges_path(net_name)), tmp_path / "int8.onnx", target="cpu")
        with CrackDetector(path, backend="openvino") as detector:
            found[camera] = [detector.run(image) for image in images]
    host, graph = found.values()
    pooled = pool(counts(one.mask.view(np.uint8), other.mask) for one, other in zip(graph, host, strict=True))
    assert pooled.truth > 1000
    assert f_score(pooled)[1] >= 0.99
