"""CUDA from Python: the few calls that a frame needs, behind one small protocol, by either of two libraries."""

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

LIBRARIES = {  # in the order that "auto" prefers them -> the class here that speaks through it
    "cuda-bindings": ("edgecrack.runtime.backends.cuda.bindings", "BindingsCuda"),
    "pycuda": ("edgecrack.runtime.backends.cuda.pycuda", "PyCuda"),
}
LIBRARY_VARIABLE = "EDGECRACK_CUDA"  # of the environment: the library for "auto"


@dataclass(frozen=True)
class Pinned:
    """Memory of the host that does not move, so that a copy to or from the GPU need not be waited for.

    Attributes:
        array: uint8 (bytes,); not to be touched once it is unpinned.
        address: of its first byte, for the host.
        mapped: of its first byte, for the GPU, which reads and writes it in place; None unless that was asked for.
    """

    array: NDArray[np.uint8]
    address: int
    mapped: int | None


class Cuda(Protocol):
    """One GPU, in its primary context, which TensorRT, OpenCV and torch share.

    Every call but `current` and `close` is made inside `current`, in any thread. Streams, graphs and device memory are
    the driver's own handles and addresses. All calls raise EngineError, in one line, with CUDA's name for what happened.
    """

    @property
    def name(self) -> str:
        """The library and its version, for example "cuda-bindings 13.5.0"."""

    @property
    def zero_copy(self) -> bool:
        """Whether GPU and host share their memory, so that mapped memory spares the copies at no price."""

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU this thread's for the length of a `with` block."""

    def memory(self) -> tuple[int, int]:
        """The bytes that are free on the GPU, and all of them."""

    def stream(self) -> int:
        """A new stream, which does not wait for the default stream."""

    def synchronise(self, stream: int) -> None:
        """Wait for all work in `stream`; what went wrong in it is raised here."""

    def destroy_stream(self, stream: int) -> None:
        """Let go of `stream`."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU, with anything in them."""

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""

    def pin(self, size: int, *, mapped: bool = False) -> Pinned:
        """`size` bytes of the host, with anything in them, which the GPU too can reach if `mapped`."""

    def unpin(self, pinned: Pinned) -> None:
        """Give back what `pin` gave."""

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """Put a copy of all of `pinned` to the GPU into `stream`."""

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """Put a copy from the GPU that fills `pinned` into `stream`."""

    def begin_capture(self, stream: int) -> None:
        """From here on record what is put into `stream`, by this thread, instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """Record no more, whatever happens; the graph of what was recorded."""

    def destroy_graph(self, graph: int) -> None:
        """Let go of a graph; what was made executable of it stays."""

    def executable(self, graph: int) -> int:
        """What can be launched, as often as wanted, to do a graph's work."""

    def launch(self, executable: int, stream: int) -> None:
        """Put the work of a graph into `stream`."""

    def destroy_executable(self, executable: int) -> None:
        """Let go of what `executable` gave."""

    def close(self) -> None:
        """Let go of the GPU; a second call does nothing."""


def open_cuda(device: int = 0, library: str = "auto") -> Cuda:
    """The GPU with index `device`, through `library`: "cuda-bindings", "pycuda", or "auto" for what EDGECRACK_CUDA names,
    else for the first of the two that is installed.

    Raises SpecError for another name, MissingDependency when it cannot be loaded, EngineError when there is no such GPU.
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
    """What `work` puts into `stream`, recorded and not done, as something to launch.

    Raises EngineError when some of it cannot be recorded; the stream can be used all the same.
    """
    cuda.begin_capture(stream)
    try:
        work()
    except BaseException:
        with suppress(EngineError):  # what went wrong first tells more
            cuda.destroy_graph(cuda.end_capture(stream))
        raise
    graph = cuda.end_capture(stream)
    try:
        return cuda.executable(graph)
    finally:
        cuda.destroy_graph(graph)


@contextmanager
def pushed(push: Callable[[], None], pop: Callable[[], None]) -> Iterator[None]:
    """What `Cuda.current` returns: `pop` after `push` in any case, and of two errors the first."""
    push()
    try:
        yield
    except BaseException:
        with suppress(EngineError):
            pop()
        raise
    pop()


def cuda_error(function: str, meaning: str, name: str) -> EngineError:
    """The error for what `function` of the driver answered, in the driver's words."""
    return EngineError(f"CUDA failed: {function} says {meaning or 'nothing more'} ({name})")
