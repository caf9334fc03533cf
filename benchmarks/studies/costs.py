"""What the rows of the plan will take."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable
from pathlib import Path

from studies.plan import COMPACT, Row

# Seconds of one core for a step of 8 crops of 256x256 of the compact net, drawing them included.
# Measured as processor time on one core of an AMD EPYC with AVX-512.
STEP = {"msfnet": 0.75, "scnet": 1.1, "aelf-unet": 0.8, "cacpnet": 1.25}
WIDER, NARROWER = 1.55, 1.1  # powers of the width over the compact one; the work grows by 2, thin layers waste some
SCORING = {"road_survey": 150.0, "uav": 40.0, "cfd": 30.0}  # seconds to export at that size and to score the list
UNLABELLED = 4  # frames a step, two views each


def step_seconds(row: Row) -> float:
    """One step of the row."""
    crops = row.batch + (2 * UNLABELLED if row.unlabelled else 0)
    size = crops / 8 * (row.crop / 256) ** 2
    width = row.width / COMPACT[row.net]
    return float(STEP[row.net] * size * width ** (WIDER if width > 1 else NARROWER))


def training_hours(row: Row) -> float:
    return row.steps * step_seconds(row) / 3600


def scoring_hours(row: Row) -> float:
    return sum(SCORING[name] for name in (*row.tests, *row.int8)) / 3600


def pace(rows: Iterable[Row], out: Path) -> float | None:
    """How many times as long as `step_seconds` says a step took here, the median of the rows in `out`; None without any."""
    found = []
    for row in rows:
        path = out / row.key / "steps.csv"
        if path.is_file():
            with path.open(newline="") as file:
                lines = list(csv.DictReader(file))
            if lines:
                found.append(float(lines[-1]["seconds"]) / int(lines[-1]["step"]) / step_seconds(row))
    return statistics.median(found) if found else None
