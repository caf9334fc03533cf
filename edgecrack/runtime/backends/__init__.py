"""Libraries that run a model file, behind one small protocol."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError, MissingDependency, SpecError
from edgecrack.runtime.onnx_metadata import read_spec
from edgecrack.spec import ModelSpec

BACKENDS = ("openvino", "onnxruntime")  # for ONNX, in the order that "auto" prefers them
ENGINE_BACKEND = "tensorrt"  # for engines, and nothing else is
HINTS = ("latency", "throughput")


class Backend(Protocol):
    """One loaded model. Calls are answered in the order of submission; `close` may be called twice."""

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""

    @property
    def name(self) -> str:
        """Which library runs it, for example "openvino"."""

    @property
    def depth(self) -> int:
        """How many calls may be in flight."""

    def submit(self, frames: NDArray[np.uint8]) -> None:
        """Start on contiguous uint8 (N, H, W, C), shaped as `spec.input_shape`, BGR or BGRx; `frames` is not copied and
        not to be written to before its answer was collected.

        Raises EngineError when `depth` calls are in flight or the library fails, FrameError for another shape or type.
        """

    def collect(self) -> NDArray[np.uint8]:
        """Wait for the oldest call: its crack probability, uint8 (N, H, W), 0..255, the caller's own.

        Raises EngineError when nothing is in flight or the library failed.
        """

    def clone(self) -> Backend:
        """The same model for another thread, with calls of its own; each is closed by itself. Raises EngineError."""

    def close(self) -> None:
        """Wait for what is in flight, a call of another thread too, and let go of the model."""


def open_backend(
    path: str | os.PathLike[str], backend: str = "auto", *, device: int = 0, hint: str = "latency"
) -> Backend:
    """Load the model file at `path`: an engine goes to "tensorrt", of which `open_engine` has the finer choices; for ONNX
    "auto" takes OpenVINO where it is installed, else ONNX Runtime. `device` is the GPU that an engine runs on.

    INT8 for TensorRT (signed activations), mixed with FP16 or not, goes to ONNX Runtime, the numeric reference: OpenVINO
    2026.4 answers with noise for such an aelf-unet, and is refused.

    `hint` is "latency" for the least time a frame, or "throughput" for the most frames a second. Only OpenVINO uses it; the
    answers are the same.

    Raises SpecError for an unknown `backend` or `hint`, MissingDependency when its library is not installed, EngineError when the
    file is missing, damaged or not an edgecrack model, EngineMismatch when an engine is of another machine.
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
