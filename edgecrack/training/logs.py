"""Logs of a run: log.jsonl, a line per validation; steps.csv, a line every few steps; TensorBoard if asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecrack.errors import MissingDependency, SourceError
from edgecrack.files import write_atomic

EVERY = 10  # steps
COLUMNS = ("step", "seconds", "loss", "learning_rate", "gradient_norm", "waiting")


class Log:
    """The logs of the run in `folder`; does nothing unless `written`, which only the first process sets."""

    def __init__(self, folder: Path, *, written: bool = True, tensorboard: bool = False) -> None:
        self.folder, self.written = folder, written
        self._rows: list[Mapping[str, float]] = []
        self._board = _board(folder / "tensorboard") if written and tensorboard else None

    def cut(self, step: int) -> None:
        """Drop entries after `step`, since a killed run resumes from its last checkpoint."""
        if not self.written:
            return
        for name, first in (("log.jsonl", 0), ("steps.csv", 1)):
            path = self.folder / name
            if path.exists():
                lines = path.read_text().splitlines(keepends=True)
                kept = [line for line in lines[first:] if line.endswith("\n") and _step_of(line) <= step]
                write_atomic(path, "".join([*lines[:first], *kept]))

    def step(self, row: Mapping[str, float]) -> None:
        """Log a step, with the values of `COLUMNS`; the mean of every few steps is written."""
        if not self.written:
            return
        self._rows.append(row)
        if int(row["step"]) % EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Write the steps since the last line."""
        if not self._rows:
            return
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in COLUMNS}
        means |= {name: self._rows[-1][name] for name in ("step", "seconds", "learning_rate", "waiting")}
        self._rows.clear()
        path = self.folder / "steps.csv"
        fresh = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows([COLUMNS] if fresh else [])
                writer.writerow([int(means["step"]), *(f"{means[name]:.6g}" for name in COLUMNS[1:])])
        except OSError as error:
            raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
        self._draw(means, int(means["step"]))

    def validation(self, record: Mapping[str, Any]) -> None:
        """Log a validation; `record` holds its step."""
        if not self.written:
            return
        self.flush()
        path = self.folder / "log.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise SourceError(f"cannot write {path}: {error.strerror or error}") from error
        self._draw({f"held back/{name}": value for name, value in record["held_back_f1_2px"].items()}, record["step"])

    def close(self) -> None:
        """Write what is left; a resumed run opens the logs again."""
        self.flush()
        if self._board is not None:
            self._board.close()

    def _draw(self, values: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in values.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"] if line.startswith("{") else line.partition(",")[0])


def _board(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise MissingDependency("tensorboardX is not installed; pip install 'edgecrack[train]'") from error
    return SummaryWriter(str(folder), flush_secs=10)
