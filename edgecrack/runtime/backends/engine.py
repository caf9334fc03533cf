"""Opens an engine file as a backend: whatever could crash TensorRT is checked before TensorRT is used."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from edgecrack.cuda_probe import Gpu, probe
from edgecrack.engine_file import EngineRecord, mismatch, read_plan, read_record
from edgecrack.errors import EngineError, SourceError, SpecError
from edgecrack.files import write_atomic
from edgecrack.runtime.backends.calls import check_io
from edgecrack.runtime.backends.cuda import Cuda, open_cuda
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend
from edgecrack.tensorrt_library import FLAVOURS, clear_errors, load_tensorrt, tensorrt_logger, with_log

if TYPE_CHECKING:
    import tensorrt as trt

ZERO_COPY_VARIABLE = "EDGECRACK_ZERO_COPY"  # environment variable: 1 or 0 overrides the default for the GPU

_log = logging.getLogger("edgecrack.tensorrt")


def open_engine(
    path: str | os.PathLike[str],
    *,
    device: int = 0,
    graphs: bool = True,
    zero_copy: bool | None = None,
) -> TensorRtBackend:
    """Load the engine file at `path` on the GPU with index `device`.

    `graphs` and `zero_copy` are as in `TensorRtBackend`; EDGECRACK_ZERO_COPY=0 or 1 applies where `zero_copy` is None,
    and EDGECRACK_CUDA selects the CUDA library. Raises EngineMismatch, with the command that rebuilds it, for an engine
    built for another GPU or TensorRT, for a driver older than its CUDA version and for a modified file; EngineError
    when it cannot be read, when there is no driver or no such GPU, and when TensorRT cannot load it; MissingDependency
    without TensorRT or a CUDA library; SpecError for an invalid choice.
    """
    try:
        Path(path).stat()  # first, or the missing record would be reported, which is a different error
    except OSError as error:
        raise EngineError(f"cannot read the engine {path}: {error.strerror or error}") from error
    record = read_record(path)
    plan = read_plan(path, record, device)
    _check_gpu(path, record, probe(device))
    _check_version(path, record, device)
    if zero_copy is None:
        zero_copy = _chosen_zero_copy()
    cuda = open_cuda(device)
    engine = _shared_engine(cuda, record, plan, Path(path))
    return TensorRtBackend(engine, graphs=graphs, zero_copy=zero_copy)


def _chosen_zero_copy() -> bool | None:
    """The setting from the environment; None for the default of the GPU. Raises SpecError."""
    chosen = os.environ.get(ZERO_COPY_VARIABLE, "")
    if chosen not in ("", "0", "1"):
        raise SpecError(f"{ZERO_COPY_VARIABLE} is 0 or 1, got {chosen!r}")
    return chosen == "1" if chosen else None


def _check_gpu(path: str | os.PathLike[str], record: EngineRecord, gpu: Gpu) -> None:
    if gpu.compute_capability not in record.compute_capabilities:
        built = " or ".join(record.compute_capabilities) + (f" ({record.gpu})" if record.gpu else "")
        here = f"this GPU has {gpu.compute_capability} ({gpu.name})"
        reason = f"it was built for compute capability {built}, {here}"
        raise mismatch(path, record, reason, gpu.compute_capability, gpu.index)
    if record.flavour == "tensorrt":
        _check_model(path, record, gpu)
    built_cuda, cuda = (int(version.partition(".")[0] or 0) for version in (record.cuda, gpu.cuda))
    if built_cuda > cuda:  # a newer driver runs engines built with an older one
        reason = f"it was built with a driver of CUDA {record.cuda}, this one speaks CUDA {gpu.cuda}"
        raise mismatch(path, record, reason, device=gpu.index)


def _check_model(path: str | os.PathLike[str], record: EngineRecord, gpu: Gpu) -> None:
    """Raise EngineMismatch for another GPU model: only engines of TensorRT for RTX fit a whole compute capability.

    An RTX 3060 and an A10 have the same one.
    """
    if record.gpu and record.gpu != gpu.name:
        reason = f"it was built on another GPU, {record.gpu}, this one is {gpu.name}"
        raise mismatch(path, record, reason, device=gpu.index)
    if record.multiprocessors and record.multiprocessors != gpu.multiprocessors:  # Jetson Orin modules may share a name
        reason = (
            f"it was built on a GPU of {record.multiprocessors} multiprocessors, this one has {gpu.multiprocessors}"
        )
        raise mismatch(path, record, f"{reason} (a Jetson's power mode may switch some off)", device=gpu.index)


def _check_version(path: str | os.PathLike[str], record: EngineRecord, device: int) -> None:
    if record.flavour not in FLAVOURS:
        raise mismatch(
            path,
            record,
            f"it was built by {record.flavour!r}, which this version of edgecrack does not know",
            device=device,
        )
    version = load_tensorrt(record.flavour).__version__
    if version != record.version:
        name = FLAVOURS[record.flavour]
        raise mismatch(path, record, f"it was built by {name} {record.version}, here is {version}", device=device)


def _shared_engine(cuda: Cuda, record: EngineRecord, plan: bytes, path: Path) -> SharedEngine:
    try:
        with cuda.current():
            loaded = _LoadedPlan(record, plan, path)
    except BaseException:
        with suppress(EngineError):  # the first error says more
            cuda.close()
        raise
    return SharedEngine(record.spec, cuda, loaded.context, loaded.release)


class _LoadedPlan:
    """TensorRT's own objects, each of which needs the one before: runtime, engine, configuration."""

    def __init__(self, record: EngineRecord, plan: bytes, path: Path) -> None:
        """Raises EngineError when TensorRT rejects the plan, or it does not match the record."""
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = load_tensorrt(record.flavour)
        clear_errors()
        self._name = f"{FLAVOURS[record.flavour]} {record.version}"
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._configuration: _RuntimeConfiguration | None = None
        try:
            try:
                self._runtime = trt.Runtime(tensorrt_logger(trt))
            except TypeError as error:  # the binding raises this when no runtime was created
                raise self._failed("cannot begin") from error
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._failed(f"cannot load {path}")
            check_io(record.spec, _io_tensors(self._engine))
            if record.flavour == "tensorrt_rtx":
                self._configuration = _RuntimeConfiguration(self._engine, path)
        except BaseException as error:
            clear_frames(error.__traceback__)  # they would keep the objects alive while the caller releases the GPU
            self._free()
            raise

    def context(self) -> trt.IExecutionContext:
        """Make a new execution context. Raises EngineError when there is too little memory for it."""
        clear_errors()
        if self._engine is None:
            raise EngineError("this engine is closed; open it again")
        arguments = self._configuration.arguments if self._configuration else ()
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise self._failed("cannot make an execution context, most often for too little GPU memory")
        return context

    def release(self) -> None:
        """Free the engine, then the runtime; no context may be left by then."""
        try:
            if self._configuration:
                self._configuration.save()
        finally:
            self._free()

    def _free(self) -> None:
        self._configuration = None
        self._engine = None
        self._runtime = None

    def _failed(self, what: str) -> EngineError:
        return EngineError(with_log(f"{self._name} {what}"))


def _io_tensors(engine: trt.ICudaEngine) -> dict[str, tuple[str, tuple[object, ...]]]:
    """The inputs and outputs of an engine: name -> (type, shape)."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {name: (engine.get_tensor_dtype(name).name.lower(), tuple(engine.get_tensor_shape(name))) for name in names}


class _RuntimeConfiguration:
    """The cache, beside the engine, of the kernels that TensorRT for RTX compiles when an engine first runs.

    TensorRT ignores a cache that it cannot use because it is corrupt or from another driver.
    """

    def __init__(self, engine: Any, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.cache")
        self._cache: Any = None
        self.arguments: tuple[Any, ...] = ()  # for `create_execution_context`
        if not hasattr(engine, "create_runtime_config"):
            return
        configuration = engine.create_runtime_config()
        self.arguments = (configuration,)
        if hasattr(configuration, "create_runtime_cache"):
            self._cache = configuration.create_runtime_cache()
            self._stored = self._read()
            if self._stored and not self._cache.deserialize(self._stored):
                _log.info("%s is not used: it is junk, or of another GPU, driver or TensorRT", self._path)
            configuration.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the compiled kernels to the cache file if they changed; an unwritable folder is not an error."""
        serialized = None if self._cache is None else self._cache.serialize()
        content = b"" if serialized is None else bytes(memoryview(serialized))
        if not content or content == self._stored:
            return
        try:
            write_atomic(self._path, content)
        except SourceError as error:
            _log.info("the next start compiles again: %s", error)

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""
