"""Grid search over switches of a recipe, one run per point; a journal keeps the results, so that it can be resumed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from edgecrack.errors import SpecError
from edgecrack.plots import new_figure, save_figure

Point = dict[str, Any]  # one value for each switch
GAMMAS = (-0.07, -0.03, 0.0, 0.03, 0.07)  # of AELF's paper, where 0.03 is printed twice
AELF_GRID: dict[str, Sequence[Any]] = {"gamma1": GAMMAS, "gamma2": GAMMAS}


class Search:
    """A grid search in `folder`, which gets journal.log, kept by Optuna, and heat_map.png.

    Args:
        grid: the values of each switch.
        about: what all points have in common; a search is resumed only if this is the same.

    Raises SpecError when the folder holds a search with another grid or `about`.
    """

    def __init__(self, folder: Path, grid: Mapping[str, Sequence[Any]], about: str) -> None:
        self.folder, self.grid = folder, {name: list(values) for name, values in grid.items()}
        if not self.grid or not all(self.grid.values()):
            raise SpecError("a search needs switches and their values: --grid NAME=VALUE,VALUE")
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
            self.study = optuna.create_study(
                study_name="search", storage=storage, direction="maximize", load_if_exists=True
            )
        wanted = {"grid": self.grid, "about": about}
        known = {name: self.study.user_attrs.get(name) for name in wanted}
        if any(known.values()) and known != wanted:
            raise SpecError(f"{folder} holds another search than this; give the same options or another folder")
        for name, value in wanted.items():
            self.study.set_user_attr(name, value)

    @property
    def points(self) -> list[Point]:
        """Every point of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    @property
    def scores(self) -> list[tuple[Point, float]]:
        """The points evaluated so far, with their scores."""
        trials = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        return [(trial.params, trial.value) for trial in trials if trial.value is not None]

    def run(self, evaluate: Callable[[Point], float], report: Callable[[str], None]) -> tuple[Point, float]:
        """Evaluate the points without a score, redrawing the heat map after each; returns the best point and its score.

        A point that was being evaluated when the search was killed is evaluated again.
        """
        points = self.points
        choices: dict[str, BaseDistribution] = {n: CategoricalDistribution(values) for n, values in self.grid.items()}
        for number, point in enumerate(points, 1):
            if any(found == point for found, _ in self.scores):
                continue
            score = evaluate(point)
            with _quiet():
                self.study.add_trial(create_trial(params=point, distributions=choices, value=score))
            report(f"{number}/{len(points)}  {in_words(point)}  {score:.4f}")
            self.draw()
        return max(self.scores, key=lambda pair: pair[1])

    def draw(self) -> Path | None:
        """Draw heat_map.png of the scores over two switches; None if the grid has another number of switches."""
        if len(self.grid) != 2:
            return None
        (first, rows), (second, columns) = self.grid.items()
        table = np.full((len(rows), len(columns)), np.nan)
        for point, score in self.scores:
            table[rows.index(point[first]), columns.index(point[second])] = score
        return _heat_map(self.folder / "heat_map.png", table, (first, rows), (second, columns))


def in_words(point: Mapping[str, Any]) -> str:
    """A point as text such as `gamma1=0.03,gamma2=-0.07`, which is also the name of its run's folder."""
    return ",".join(f"{name}={value}" for name, value in point.items())


def _heat_map(
    path: Path, table: np.ndarray[Any, Any], rows: tuple[str, list[Any]], columns: tuple[str, list[Any]]
) -> Path:
    with matplotlib.rc_context({"font.size": 10}):
        figure = new_figure(1.6 + len(columns[1]), 1.2 + 0.8 * len(rows[1]))
        axes = figure.subplots()
        image = axes.imshow(np.ma.masked_invalid(table), cmap="viridis")
        figure.colorbar(image, label="2-pixel F1 on the frames held back")
        axes.set(xlabel=columns[0], ylabel=rows[0], xticks=range(len(columns[1])), yticks=range(len(rows[1])))
        axes.set_xticklabels(map(str, columns[1]))
        axes.set_yticklabels(map(str, rows[1]))
        low, high = np.nanmin(table), np.nanmax(table)
        for (y, x), value in np.ndenumerate(table):
            if np.isfinite(value):
                dark = value < (low + high) / 2
                axes.text(x, y, f"{value:.3f}", ha="center", va="center", color="white" if dark else "black")
        save_figure(path, figure)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna, which reports every trial and calls the journal experimental; the search reports by itself."""
    import warnings

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
