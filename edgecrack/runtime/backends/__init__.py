"""Inference libraries that run a model file, behind one small protocol."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError, MissingDependency, SpecError
from edgecrack.runtime.onnx_metadata import read_spec
from edgecrack.spec import ModelSpec

_log = logging.getLogger("edgecrack")
BACKENDS = ("openvino", "onnxruntime")  # for ONNX, in the order of preference of "auto"
ENGINE_BACKEND = "tensorrt"  # for engines, and only for them
HINTS = ("latency", "throughput")


class Backend(Protocol):
    """A loaded model. Answers come in the order of submission; `close` may be called twice."""

    @property
    def spec(self) -> ModelSpec:
        """The specification of the model."""

    @property
    def name(self) -> str:
        """The library that runs it, for example "openvino"."""

    @property
    def depth(self) -> int:
        """The maximum number of calls in flight."""

    def submit(self, frames: NDArray[np.uint8]) -> None:
        """Start a call on contiguous uint8 (N, H, W, C), shaped as `spec.input_shape`, BGR or BGRx.

        `frames` is not copied and must not be modified until its answer has been collected.
        Raises EngineError when `depth` calls are in flight or the library fails, FrameError for another shape or type.
        """

    def collect(self) -> NDArray[np.uint8]:
        """Wait for the oldest call and return its crack probability, uint8 (N, H, W), 0..255, owned by the caller.

        Raises EngineError when nothing is in flight or the library failed.
        """

    def clone(self) -> Backend:
        """Make a second backend of the model for another thread; each must be closed separately. Raises EngineError."""

    def close(self) -> None:
        """Wait for all calls in flight, including one of another thread, and release the model."""


def open_backend(
    path: str | os.PathLike[str], backend: str = "auto", *, device: int = 0, hint: str = "latency"
) -> Backend:
    """Load the model file at `path` and return the backend that runs it.

    An engine runs on "tensorrt", on the GPU with index `device`; `open_engine` has more options. For ONNX, "auto" uses
    OpenVINO if it is installed, else ONNX Runtime.

    INT8 models for TensorRT (signed activations), with or without FP16, run on ONNX Runtime, the numeric reference;
    OpenVINO is refused, as 2026.4 returns noise for such an aelf-unet.

    `hint` is "latency" for the shortest time per frame, or "throughput" for the most frames per second. Only OpenVINO
    uses it; the answers are the same.

    Raises SpecError for an unknown `backend` or `hint`, MissingDependency when its library is not installed,
    EngineError when the file is missing, damaged or not an edgecrack model, EngineMismatch when an engine was built for
    another machine.
    """
    if backend not in ("auto", *BACKENDS, ENGINE_BACKEND):
        raise SpecError(f"a backend is one of auto, {', '.join(BACKENDS)}, {ENGINE_BACKEND}, got {backend!r}")
    if hint not in HINTS:
        raise SpecError(f"a hint is one of {', '.join(HINTS)}, got {hint!r}")
    path = Path(path)
    if path.suffix == ".engine":
        if backend not in ("auto", ENGINE_BACKEND):
            raise EngineError(
                f"{path} is an engine: it runs on {ENGINE_BACKEND} and not on {backend}, which takes its ONNX"
            )
        from edgecrack.runtime.backends.engine import open_engine

        return open_engine(path, device=device)
    if device:
        raise SpecError(f"a GPU is chosen for an engine, and {path} is none; got device {device}")
    if backend == ENGINE_BACKEND:
        raise EngineError(f"{path} is no engine, which {ENGINE_BACKEND} takes; build one: edgecrack build {path}")
    spec = read_spec(path)
    for_tensorrt = spec.target == "tensorrt" and spec.precision.startswith("int8")
    if backend == "auto":
        backend = "onnxruntime" if for_tensorrt else next((name for name in BACKENDS if find_spec(name)), BACKENDS[0])
        if for_tensorrt:
            _log.warning(
                "%s is INT8 for TensorRT, which ONNX Runtime computes slower than fp32; build an engine of it (edgecrack build), "
                "or for a CPU export it with --target cpu",
                path,
            )
    if backend == "openvino" and for_tensorrt:
        raise EngineError(
            f"{path} is INT8 for TensorRT, which OpenVINO answers wrongly for some nets; take backend onnxruntime, or export it "
            "with --target cpu"
        )
    try:
        if backend == "openvino":
            from edgecrack.runtime.backends.openvino import OpenVinoBackend

            return OpenVinoBackend(path, hint)
        from edgecrack.runtime.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(path)
    except ImportError as error:
        raise MissingDependency(f"{backend} cannot be loaded ({error}); pip install 'edgecrack[cpu]'") from error
