"""What finished rows of the plan left in their folders."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from studies.plan import Row
from studies.runs import ended, failed

NOT_RUN, FAILED = "not run", "failed"


@dataclass(frozen=True)
class Scores:
    """Of one row on one test list: metric -> value, and the interval of draws of frames."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    frames: int

    def cell(self, metric: str, *, interval: bool = False) -> str:
        """As tables have it."""
        text = f"{self.values[metric]:.3f}"
        ends = self.intervals.get(metric) if interval else None
        return f"{text} [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else text


@dataclass(frozen=True)
class Found:
    """The rows of a plan and the folder that they were run in."""

    rows: Sequence[Row]
    out: Path

    @cached_property
    def by_name(self) -> dict[str, Row]:
        """The rows whose training has ended."""
        return {row.name: row for row in self.rows if ended(self.out, row, "train")}

    def scores(self, name: str, test: str, precision: str = "fp32") -> Scores | None:
        """None where the row was not scored so, or not yet."""
        row = self.by_name.get(name)
        command = f"evaluate-{test}" + ("" if precision == "fp32" else f"-{precision}")
        if row is None or not ended(self.out, row, command):
            return None
        told = json.loads((self.out / row.key / test / precision / "scores.json").read_text())[0]
        intervals = {metric: (ends[0], ends[1]) for metric, ends in told["intervals"].items()}
        return Scores(told["scores"], intervals, told["frames"])

    def cell(self, name: str, test: str, metric: str, precision: str = "fp32", *, interval: bool = False) -> str:
        """A score as tables have it."""
        scores = self.scores(name, test, precision)
        if scores:
            return scores.cell(metric, interval=interval)
        return FAILED if any(failed(self.out, row) for row in self.rows if row.name == name) else NOT_RUN

    def several(self, names: Sequence[str], test: str, metric: str) -> list[float | None]:
        """The metric of rows that differ by their seed; None for those without it."""
        every = [self.scores(name, test) for name in names]
        return [scores.values[metric] if scores else None for scores in every]

    def about(self, row: Row) -> dict[str, Any]:
        """What row.json says."""
        found: dict[str, Any] = json.loads((self.out / row.key / "row.json").read_text())
        return found

    def minutes(self, row: Row) -> float:
        """Of training, over all resumes."""
        with (self.out / row.key / "steps.csv").open(newline="") as file:
            return float(list(csv.DictReader(file))[-1]["seconds"]) / 60


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation and of how many, as tables have it."""
    known = [value for value in values if value is not None]
    if not known:
        return NOT_RUN
    deviation = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    short = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{statistics.mean(known):.3f}{deviation}{short}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
