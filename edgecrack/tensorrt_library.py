"""TensorRT in either of its two flavours, and the one logger that it takes per process.

"tensorrt" builds for the GPU it runs on, Jetsons among them; "tensorrt_rtx" (TensorRT for RTX) builds for named desktop
GPUs, on a machine without one too. Code that uses the API imports its types from `tensorrt`: the names are the same.
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

OLDEST = 10  # of TensorRT: the first that takes types from the graph and can be interrupted while it builds
FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
TOO_OLD = "{} is too old, wanted 10 or newer, as Jetsons have from JetPack 6.1 on"
_EXTRAS = {"tensorrt": "tensorrt-pip", "tensorrt_rtx": "rtx"}

_log = logging.getLogger("edgecrack.tensorrt")
_loggers: dict[str, Any] = {}
_lines: deque[str] = deque(maxlen=8)


def load_tensorrt(flavour: str) -> ModuleType:
    """The Python module of a flavour, a key of `FLAVOURS`. Raises MissingDependency when it is not installed."""
    try:
        module = importlib.import_module(flavour)
        if not hasattr(module, "Builder"):
            reason = "it can only run engines"  # the "lean" package goes by the same name
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
    """Whether a TensorRT of this version, such as "8.6.2", lacks what building and running takes."""
    return int(version.partition(".")[0]) < OLDEST


def rtx_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """`names`, such as "sm86", as members of TensorRT for RTX's ComputeCapability, each once, in order.

    Raises SpecError for one that it does not build for, MissingDependency when it is not installed.
    """
    module = load_tensorrt("tensorrt_rtx")
    known = [member for member in module.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", member)]
    for name in names:
        if name.upper() not in known:
            library = f"{FLAVOURS[module.__name__]} {module.__version__}"
            raise SpecError(f"{library} builds for {', '.join(known).lower()}; got {name!r}")
    return tuple(dict.fromkeys(name.upper() for name in names))


def tensorrt_logger(module: ModuleType) -> Any:
    """The `ILogger` of a flavour: TensorRT keeps the first that it is given and ignores every other."""
    if module.__name__ not in _loggers:
        _loggers[module.__name__] = _logger_class(module)()
    return _loggers[module.__name__]


def forget_lines() -> None:
    """Begin anew: what is done from here on is explained by the lines from here on."""
    _lines.clear()


def with_log(what: str) -> str:
    """`what` went wrong, and in the same line what TensorRT complained of since `forget_lines`."""
    return f"{what}: {' | '.join(_lines)}" if _lines else what


def _logger_class(module: ModuleType) -> Any:
    levels = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.WARNING, "INFO": logging.INFO}

    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = module

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # or the binding aborts

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity.name, logging.DEBUG)
            _log.log(logging.INFO if level == logging.WARNING else min(level, logging.INFO), "%s", message)
            # without a driver each error is followed by one more that says only that
            if level == logging.ERROR and "catchCudaError" not in message:
                _lines.append(" ".join(message.split()))

    return Logger
