"""What finished rows came to: taken from their folders, and kept in a file beside the page, since folders go with a machine."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgecrack.files import write_atomic
from studies.plan import Row
from studies.runs import ended, failed, finished

NOT_RUN, NOT_KEPT, FAILED = "not run", "not kept", "failed"
KEPT = (
    *("best_f1", "f1", "ois", "average_precision", "iou", "best_f1_2px", "f1_2px", "best_f1_5px", "patch_f1"),
    *("f0.3_frame_mean", "best_f1_2px_frame_mean"),
)
KEPT_INTERVAL = "f1_2px"
Outcome = dict[str, Any]  # of one row, as JSON has it


@dataclass(frozen=True)
class Scores:
    """Of one row on one test list: metric -> value, and the interval of draws of frames."""

    values: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]

    def cell(self, metric: str, *, interval: bool = False) -> str:
        """As tables have it."""
        if metric not in self.values:
            return NOT_KEPT
        text = f"{self.values[metric]:.3f}"
        ends = self.intervals.get(metric) if interval else None
        return f"{text} [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else text


@dataclass(frozen=True)
class Found:
    """The rows of a plan and what came out of those that were run.

    Attributes:
        rows: of the plan.
        outcomes: key of a row -> what came out.
        frontier: what benchmarks/frontier.py measured.
    """

    rows: Sequence[Row]
    outcomes: Mapping[str, Outcome]
    frontier: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Row], out: Path, kept: Path | None = None) -> Found:
        """What is in the folder `out`, and in the file `kept` for rows that are not, or are not finished there."""
        before: dict[str, Any] = {"rows": {}, "frontier": {}}
        if kept and kept.is_file():
            before = json.loads(kept.read_text())
        here = {row.key: told for row in rows if (told := outcome(row, out))}
        done = {key for key, told in before["rows"].items() if told.get("finished")}
        here = {key: told for key, told in here.items() if told.get("finished") or key not in done}
        return cls(rows, {**before["rows"], **here}, _timed(before["frontier"], out / "frontier.json"))

    def keep(self, path: Path) -> None:
        """Write the file that `of` reads: of the rows of the plan alone, in its order."""
        keys = [row.key for row in self.rows if row.key in self.outcomes]
        told = {"frontier": self.frontier, "rows": {key: self.outcomes[key] for key in keys}}
        write_atomic(path, json.dumps(told, indent=1) + "\n")

    @cached_property
    def by_name(self) -> dict[str, Row]:
        """The rows whose training has ended."""
        return {row.name: row for row in self.rows if self.outcomes.get(row.key, {}).get("runs")}

    def scores(self, name: str, test: str, precision: str = "fp32") -> Scores | None:
        """None where the row was not scored so, or not yet."""
        row = self.by_name.get(name)
        told = row and self.outcomes[row.key]["scores"].get(f"{test}/{precision}")
        return Scores(told["values"], told["intervals"]) if told else None

    def cell(self, name: str, test: str, metric: str, precision: str = "fp32", *, interval: bool = False) -> str:
        """A score as tables have it."""
        scores = self.scores(name, test, precision)
        if scores:
            return scores.cell(metric, interval=interval)
        told = (self.outcomes.get(row.key, {}) for row in self.rows if row.name == name)
        return FAILED if any(each.get("failed") for each in told) else NOT_RUN

    def several(self, names: Sequence[str], test: str, metric: str) -> list[float | None]:
        """The metric of rows that differ by their seed; None for those without it."""
        every = [self.scores(name, test) for name in names]
        return [scores.values.get(metric) if scores else None for scores in every]


def _timed(before: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Speeds of one machine: those in the file at `path` with those kept `before`, or the latter where they are another
    machine's and of rows that the file lacks."""
    if not path.is_file():
        return before
    here: dict[str, Any] = json.loads(path.read_text())
    rows = {**before.get("rows", {}), **here["rows"]}
    if before.get("machine", here["machine"]) == here["machine"]:
        return {**here, "rows": rows}
    return here if rows.keys() == here["rows"].keys() else before


def outcome(row: Row, out: Path) -> Outcome | None:
    """What came out of a row in the folder `out`; None where nothing did yet."""
    wrong = failed(out, row)
    if not ended(out, row, "train"):
        return {"name": row.name, "failed": True} if wrong else None
    folder = out / row.key
    with (folder / "steps.csv").open(newline="") as file:
        seconds = float(list(csv.DictReader(file))[-1]["seconds"])
    return {
        "name": row.name,
        "failed": wrong,
        "finished": finished(out, row),
        "minutes": round(seconds / 60, 1),
        "runs": json.loads((folder / "row.json").read_text())["runs"],
        "scores": {f"{test}/{kind}": _scored(folder / test / kind) for test, kind in _scored_so(row, out)},
    }


def _scored_so(row: Row, out: Path) -> list[tuple[str, str]]:
    """The test lists and precisions that the row was scored in."""
    pairs = [(test, "fp32") for test in row.tests] + [(test, "int8") for test in row.int8]
    names = {kind: f"evaluate-{kind[0]}" + ("" if kind[1] == "fp32" else f"-{kind[1]}") for kind in pairs}
    return [kind for kind, name in names.items() if ended(out, row, name)]


def _scored(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "scores.json").read_text())[0]
    values = {metric: round(told["scores"][metric], 5) for metric in KEPT}
    ends = told["intervals"].get(KEPT_INTERVAL)
    return {"values": values, "intervals": {KEPT_INTERVAL: [round(end, 4) for end in ends]} if ends else {}}


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
