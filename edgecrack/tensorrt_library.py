"""Loads TensorRT in either of its two flavours, and keeps the single logger that each accepts per process.

"tensorrt" builds for the GPU it runs on, including Jetsons; "tensorrt_rtx" (TensorRT for RTX) builds for named desktop
GPUs, even on a machine without a GPU. Code that uses the API imports types from `tensorrt`: the names are the same.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgecrack.errors import BROUGHT_BY_JETSONS, MissingDependency, SpecError

OLDEST = 10  # oldest major version: the first that takes types from the graph and whose builds can be interrupted
FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
TOO_OLD = "{} is too old, wanted 10 or newer, as Jetsons have from JetPack 6.1 on"
_EXTRAS = {"tensorrt": "tensorrt-pip", "tensorrt_rtx": "rtx"}

_log = logging.getLogger("edgecrack.tensorrt")
_loggers: dict[str, Any] = {}
_lines: deque[str] = deque(maxlen=8)


def load_tensorrt(flavour: str) -> ModuleType:
    """Import the Python module of a flavour, a key of `FLAVOURS`. Raises MissingDependency if it is not installed."""
    try:
        module = importlib.import_module(flavour)
        if not hasattr(module, "Builder"):
            reason = "it can only run engines"  # the "lean" package has the same module name
        elif flavour == "tensorrt" and is_too_old(module.__version__):
            reason = TOO_OLD.format(module.__version__)
        else:
            return module
    except Exception as error:  # the package raises RuntimeError where its libraries are missing
        reason = " ".join(str(error).split()) or type(error).__name__
    raise MissingDependency(
        f"{FLAVOURS[flavour]} cannot be loaded ({reason}); pip install 'edgecrack[{_EXTRAS[flavour]}]'"
        + (BROUGHT_BY_JETSONS if flavour == "tensorrt" else "")
    )


def is_too_old(version: str) -> bool:
    """Whether this TensorRT version, such as "8.6.2", is too old to build and run engines here."""
    return int(version.partition(".")[0]) < OLDEST


def rtx_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """Convert names such as "sm86" to members of TensorRT for RTX's ComputeCapability, without duplicates, in order.

    Raises SpecError for one that it cannot build for, MissingDependency if it is not installed.
    """
    module = load_tensorrt("tensorrt_rtx")
    known = [member for member in module.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", member)]
    for name in names:
        if name.upper() not in known:
            library = f"{FLAVOURS[module.__name__]} {module.__version__}"
            raise SpecError(f"{library} builds for {', '.join(known).lower()}; got {name!r}")
    return tuple(dict.fromkeys(name.upper() for name in names))


def tensorrt_logger(module: ModuleType) -> Any:
    """The `ILogger` of a flavour: TensorRT keeps the first one it receives and ignores all others."""
    if module.__name__ not in _loggers:
        _loggers[module.__name__] = _logger_class(module)()
    return _loggers[module.__name__]


def clear_errors() -> None:
    """Clear the collected log lines, so that `with_log` reports only later ones."""
    _lines.clear()


def with_log(what: str) -> str:
    """Append the errors that TensorRT logged since `clear_errors` to `what`, on the same line."""
    return f"{what}: {' | '.join(_lines)}" if _lines else what


def _logger_class(module: ModuleType) -> Any:
    levels = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING, "INFO": logging.INFO}

    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # required, or the binding aborts

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity.name, logging.DEBUG)
            _log.log(logging.INFO if level == logging.WARNING else min(level, logging.INFO), "%s", message)
            # without a driver each error is followed by another that says only that
            is_error = level == logging.ERROR and "catchCudaError" not in message
            if is_error or "CUDA initialization failure" in message:  # only a warning, of why there is no builder
                _lines.append(" ".join(message.split()))

    return Logger
