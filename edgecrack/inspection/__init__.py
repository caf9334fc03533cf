"""Inspection of data sets for problems that would ruin training."""

from edgecrack.inspection.findings import KINDS, Inspection, inspect
from edgecrack.inspection.frames import Frame
from edgecrack.inspection.montage import montage

__all__ = ["KINDS", "Frame", "Inspection", "inspect", "montage"]
