"""Makes ONNX Runtime sessions on the CPU: the numeric reference."""

from __future__ import annotations

import os

# From 1.29 on it sends telemetry and stores a device id in the home folder; it reads this when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

_ERRORS_ONLY = 3
# It rounds our float biases to int32, in steps of the input's scale times the weights'. In half precision that overflows
# for weak filters, and their channels die.
INEXACT = ("WeightBiasQuantization",)


def session(source: str | os.PathLike[str] | bytes) -> onnxruntime.InferenceSession:
    """Make a session for a file or a serialised graph, without the optimisation that is inexact; it logs errors only."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    graph = source if isinstance(source, bytes) else os.fspath(source)
    return onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"], disabled_optimizers=INEXACT)
