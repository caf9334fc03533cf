"""What ruins training, found by looking at a data set."""

from edgecrack.inspection.findings import KINDS, Inspection, inspect
from edgecrack.inspection.frames import Frame
from edgecrack.inspection.montage import montage

__all__ = ["KINDS", "Frame", "Inspection", "inspect", "montage"]
