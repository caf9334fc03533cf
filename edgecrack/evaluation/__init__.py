"""Scores of a detector over a data set, and their curves."""

from edgecrack.evaluation.curves import save_precision_recall
from edgecrack.evaluation.scores import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate", "save_precision_recall"]
