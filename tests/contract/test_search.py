"""A search: each point once, also after a stop, a net trained for each, and points that diverge."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from command_line import here

from edgecrack.errors import SpecError
from edgecrack.training.search import Search
from edgecrack.training.states import stored_recipe

GRID = {"gamma1": [-0.07, 0.0, 0.07], "gamma2": [-0.03, 0.03]}
SMALL = ["--width", "0.0625", "--set", "batch=1", "--threads", "1", "--device", "cpu"]


def test_a_search_visits_each_point_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    def evaluate(point: dict[str, float]) -> float:
        seen.append(point)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return 1 - (point["gamma1"] - 0.07) ** 2 - (point["gamma2"] - 0.03) ** 2

    with pytest.raises(KeyboardInterrupt):
        Search(tmp_path, GRID, "a run").run(evaluate, lambda _: None)
    assert len(Search(tmp_path, GRID, "a run").scores) == 2
    lines: list[str] = []
    best, score = Search(tmp_path, GRID, "a run").run(evaluate, lines.append)
    assert (best, score) == ({"gamma1": 0.07, "gamma2": 0.03}, 1)
    assert len(seen) == 7  # the third was interrupted and came again
    assert [point for index, point in enumerate(seen) if index != 2] == Search(tmp_path, GRID, "a run").points
    assert [line.split()[0] for line in lines] == ["3/6", "4/6", "5/6", "6/6"]
    picture = cv2.imread(str(tmp_path / "heat_map.png"))
    assert picture is not None
    assert picture.std() > 10
    with pytest.raises(SpecError, match="holds another search"):
        Search(tmp_path, {**GRID, "gamma2": [0.0]}, "a run")
    with pytest.raises(SpecError, match="holds another search"):
        Search(tmp_path, GRID, "another run")


def test_what_a_killed_search_left_in_its_journal_takes_no_score_of_another_point(tmp_path: Path) -> None:
    search = Search(tmp_path, GRID, "a run")
    search.study.enqueue_trial(search.points[0])
    search.run(lambda point: point["gamma1"] + 10 * point["gamma2"], lambda _: None)
    assert [point for point, _ in search.scores] == search.points
    assert all(score == point["gamma1"] + 10 * point["gamma2"] for point, score in search.scores)


def test_the_search_command_trains_a_net_for_each_point(tmp_path: Path, roads: Path) -> None:
    done = here(
        "search",
        "--data",
        roads,
        *SMALL,
        "--steps",
        "1",
        "--set",
        "crop=32",
        "--grid",
        "gamma1=-0.07,0",
        "-o",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("--set gamma1=")
    for point in ("gamma1=-0.07", "gamma1=0.0"):
        recipe = stored_recipe(tmp_path / point / "best.safetensors")
        assert recipe is not None
        assert recipe.loss == {"gamma1": float(point.partition("=")[2]), "gamma2": -0.07}
    wrong = here("search", "--data", roads, *SMALL, "--grid", "colour=1,2", "-o", tmp_path / "x")
    assert wrong.returncode == 1
    assert "aelf-unet has no switch 'colour'" in wrong.stderr


def test_a_point_that_cannot_be_is_told_before_the_first_is_trained(tmp_path: Path, roads: Path) -> None:
    told = ["--data", roads, *SMALL, "--steps", "1", "--set", "crop=32"]
    done = here("search", *told, "--grid", "learning_rate=0.001,-1", "-o", tmp_path)
    assert done.returncode == 1
    assert "learning_rate must be above 0" in done.stderr
    assert not list(tmp_path.glob("learning_rate=*"))


def test_a_point_that_diverges_ends_no_search_and_sizes_can_be_searched(tmp_path: Path, roads: Path) -> None:
    told = ["--data", roads, *SMALL, "--steps", "2"]
    done = here("search", *told, "--grid", "learning_rate=1e30,1e-4", "--set", "crop=32", "-o", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "learning_rate=1e+30 counts as 0: the " in done.stderr
    assert "2/2  learning_rate=0.0001" in done.stderr
    done = here("search", *told, "--grid", "crop=32,64x32", "-o", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "b").glob("crop=*")} == {"crop=32", "crop=64x32"}
