"""benchmarks/overlap.py on frames that are known to share a place, or not."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecrack.dataset import open_dataset

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from overlap import is_one_photograph, seen, tie


@pytest.fixture
def frames(tmp_path):
    """Two walls; of the first two tiles that overlap, and another shot in other light, nearer and turned."""
    (tmp_path / "images").mkdir()
    walls = [
        cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (400, 400, 3), np.uint8), (0, 0), 3)
        for seed in (0, 1)
    ]
    walls = [cv2.normalize(wall, None, 0, 255, cv2.NORM_MINMAX) for wall in walls]
    nearer = cv2.getRotationMatrix2D((200, 200), 10, 1.3)
    pictures = {
        "tile": walls[0][:256, :256],
        "neighbour": walls[0][100:356, 100:356],
        "shot": cv2.warpAffine(walls[0] // 2 + 20, nearer, (400, 400))[72:328, 72:328],
        "elsewhere": walls[1][:256, :256],
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture)
    return {frame.name: frame for frame in seen(open_dataset(tmp_path))}


@pytest.mark.parametrize(("name", "photograph"), [("neighbour", True), ("shot", False)])
def test_frames_of_one_place_are_tied(frames, name, photograph):
    points, matrix = tie(frames["tile"], frames[name])
    assert points >= 10
    if photograph:
        np.testing.assert_allclose(matrix, [[1, 0, -100], [0, 1, -100]], atol=0.5)
    assert is_one_photograph(frames["tile"], frames[name], matrix) is photograph


def test_frames_of_two_places_are_not(frames):
    assert tie(frames["tile"], frames["elsewhere"]) is None
