"""Benchmark of a model on this machine, against the upper limit and the script that everybody writes."""

from edgecrack.speed.measure import Speed, Spread, measure
from edgecrack.speed.report import save_speed, table

__all__ = ["Speed", "Spread", "measure", "save_speed", "table"]
