"""Evaluation of detectors on data sets: scores side by side, precision-recall curves and a report."""

from edgecrack.evaluation.curves import save_precision_recall
from edgecrack.evaluation.gallery import Gallery
from edgecrack.evaluation.report import report_html
from edgecrack.evaluation.scores import Evaluation, evaluate

__all__ = ["Evaluation", "Gallery", "evaluate", "report_html", "save_precision_recall"]
