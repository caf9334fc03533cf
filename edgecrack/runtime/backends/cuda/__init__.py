"""CUDA from Python: the few calls needed for inference, behind one small protocol, through either of two libraries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgecrack.errors import EngineError, MissingDependency, SpecError

LIBRARIES = {  # in the order of preference of "auto" -> the class that wraps it
    "cuda-bindings": ("edgecrack.runtime.backends.cuda.bindings", "BindingsCuda"),
    "pycuda": ("edgecrack.runtime.backends.cuda.pycuda", "PyCuda"),
}
LIBRARY_VARIABLE = "EDGECRACK_CUDA"  # environment variable: the library for "auto"


@dataclass(frozen=True)
class Pinned:
    """Page-locked (pinned) host memory, so that copies to and from the GPU can be asynchronous.

    Attributes:
        array: uint8 (bytes,); must not be accessed once it is unpinned.
        address: host address of its first byte.
        mapped: GPU address of its first byte, for access in place; None unless mapping was requested.
    """

    array: NDArray[np.uint8]
    address: int
    mapped: int | None


class Cuda(Protocol):
    """One GPU, in its primary context, which TensorRT, OpenCV and torch share.

    Every method except `current` and `close` must be called inside `current`, in any thread. Streams, graphs and device
    memory are the driver's own handles and addresses. All methods raise EngineError, in one line, with CUDA's error
    name.
    """

    @property
    def name(self) -> str:
        """The library and its version, for example "cuda-bindings 13.5.0"."""

    @property
    def zero_copy(self) -> bool:
        """Whether GPU and host share their memory, so that mapped memory avoids the copies at no cost."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU's context current in this thread for the duration of a `with` block."""

    def memory(self) -> tuple[int, int]:
        """Free and total GPU memory in bytes."""

    def stream(self) -> int:
        """Create a stream that does not synchronise with the default stream."""

    def synchronise(self, stream: int) -> None:
        """Wait for all work in `stream`; its errors are raised here."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy `stream`."""

    def allocate(self, size: int) -> int:
        """Allocate `size` uninitialised bytes on the GPU and return their address."""

    def free(self, address: int) -> None:
        """Free memory from `allocate`."""

    def pin(self, size: int, *, mapped: bool = False) -> Pinned:
        """Allocate `size` uninitialised bytes of pinned host memory, also accessible to the GPU if `mapped`."""

    def unpin(self, pinned: Pinned) -> None:
        """Free memory from `pin`."""

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """Enqueue on `stream` a copy of all of `pinned` to the GPU."""

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """Enqueue on `stream` a copy from the GPU that fills `pinned`."""

    def begin_capture(self, stream: int) -> None:
        """Start to capture what this thread enqueues on `stream` instead of executing it."""

    def end_capture(self, stream: int) -> int:
        """End the capture, even on an error, and return the captured graph."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph; executables made from it remain valid."""

    def executable(self, graph: int) -> int:
        """Instantiate a graph: returns an executable that can be launched any number of times."""

    def launch(self, executable: int, stream: int) -> None:
        """Launch an executable graph on `stream`."""

    def destroy_executable(self, executable: int) -> None:
        """Destroy what `executable` returned."""

    def close(self) -> None:
        """Release the GPU; a second call does nothing."""


def open_cuda(device: int = 0, library: str = "auto") -> Cuda:
    """Open the GPU with index `device` through `library`: "cuda-bindings", "pycuda", or "auto".

    "auto" uses the library that EDGECRACK_CUDA names, else the first of the two that is installed. Raises SpecError for
    another name, MissingDependency when it cannot be loaded, EngineError when there is no such GPU.
    """
    if library == "auto":
        library = os.environ.get(LIBRARY_VARIABLE, "auto")
    if library not in ("auto", *LIBRARIES):
        raise SpecError(f"CUDA is used through {' or '.join(LIBRARIES)}, got {library!r}")
    wanted = list(LIBRARIES) if library == "auto" else [library]
    missing = []
    for name in wanted:
        module, made = LIBRARIES[name]
        try:
            cuda: Cuda = getattr(import_module(module), made)(device)
        except ImportError as error:
            missing.append(f"{name} cannot be loaded: {' '.join(str(error).split())}")
        else:
            return cuda
    extra = "pycuda" if library == "pycuda" else "tensorrt"
    raise MissingDependency(f"{'; '.join(missing)}; pip install 'edgecrack[{extra}]'")


def capture(cuda: Cuda, stream: int, work: Callable[[], None]) -> int:
    """Capture what `work` enqueues on `stream`, without executing it, as an executable graph.

    Raises EngineError if some of it cannot be captured; the stream stays usable.
    """
    cuda.begin_capture(stream)
    try:
        work()
    except BaseException:
        with suppress(EngineError):  # the first error says more
            cuda.destroy_graph(cuda.end_capture(stream))
        raise
    graph = cuda.end_capture(stream)
    try:
        return cuda.executable(graph)
    finally:
        cuda.destroy_graph(graph)


@contextmanager
def pushed(push: Callable[[], None], pop: Callable[[], None]) -> Iterator[None]:
    """Implement `Cuda.current`: call `push`, and `pop` in any case; of two errors, raise the first."""
    push()
    try:
        yield
    except BaseException:
        with suppress(EngineError):
            pop()
        raise
    pop()


def cuda_error(function: str, meaning: str, name: str) -> EngineError:
    """Make the EngineError for a failed driver `function`, with the driver's own description."""
    return EngineError(f"CUDA failed: {function} says {meaning or 'nothing more'} ({name})")
