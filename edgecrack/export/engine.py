"""Build an engine from an ONNX graph: with TensorRT for the local GPU, or with TensorRT for RTX for named GPUs.

Precision is a property of the graph: the network is strongly typed, and the builder gets no precision flags.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from time import perf_counter
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, TypeVar

import onnx
from onnx import ModelProto, TensorProto

from edgecrack.cuda_probe import Gpu, current, probe
from edgecrack.engine_file import EngineRecord, record_path
from edgecrack.errors import BuildError, SpecError
from edgecrack.files import atomic_path
from edgecrack.memory import available_memory
from edgecrack.onnx_graph import constants, convolution_types, read_onnx
from edgecrack.spec import ModelSpec
from edgecrack.tensorrt_library import (
    FLAVOURS,
    clear_errors,
    load_tensorrt,
    rtx_capabilities,
    tensorrt_logger,
    with_log,
)

if TYPE_CHECKING:
    import tensorrt as trt

WORKSPACE = 1024  # MiB
LIBRARIES = 512  # MiB of memory that a build takes besides the weights
COPIES = 4  # of the weights: the file, the network, the plan within TensorRT and outside

Progress = Callable[[float, str], None]
_T = TypeVar("_T")
_log = logging.getLogger("edgecrack")


@dataclass(frozen=True)
class _Target:
    """What to build for, and the resources of the build.

    Attributes:
        flavour: TensorRT flavour, a key of `FLAVOURS`.
        version: TensorRT version.
        capabilities: for TensorRT for RTX, members of its ComputeCapability.
        gpu: for TensorRT, the GPU it builds on.
        workspace: in MiB.
        timing_cache: for TensorRT, the timing cache of an earlier build; None to keep none.
    """

    flavour: str
    version: str
    capabilities: tuple[str, ...]
    gpu: Gpu | None
    workspace: int
    timing_cache: bytes | None


def engine_from_onnx(
    onnx_path: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    capabilities: Sequence[str] = (),
    workspace: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    device: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Build the graph in `onnx_path` into the engine `path`, and write its record beside it.

    `capabilities`, such as "sm86", are the compute capabilities of the desktop GPUs that TensorRT for RTX builds for,
    on any machine; without them TensorRT builds on and for the GPU `device`. `workspace` is the most that a layer may
    use, in MiB: 1024 if None, or less if GPU and CPU share a memory of which little is free. `timing_cache` is a file
    of TensorRT's timings, read if it exists and then rewritten. `progress` is called, from another thread, with the
    fraction done, 0..1, and the current phase.

    Ctrl-C ends the build at its next step and leaves no file. Raises SpecError for an ONNX file that is not ours or an
    invalid option, MissingDependency without TensorRT, EngineError without a driver or that GPU, SourceError when a
    file cannot be read or written, BuildError when TensorRT cannot build the graph or memory is short.
    """
    model, spec = read_onnx(onnx_path)
    data = Path(onnx_path).read_bytes()
    _check_graph(model, data, onnx_path)
    precisions = convolution_types(model)
    del model  # frees its memory for the build
    target = _target(tuple(capabilities), workspace, timing_cache, device, len(data))
    # opened before the build, to find out early whether they can be written
    with nullcontext() if timing_cache is None else atomic_path(timing_cache) as measurements:
        # the plan is renamed first: until the record follows, an older record there has another hash and loads nothing
        with atomic_path(record_path(path)) as record_file, atomic_path(path) as plan_file:
            start = perf_counter()
            plan, measured = _interruptible(lambda cancelled: _build(data, target, _Steps(cancelled, progress)))
            seconds = perf_counter() - start
            onnx_file = _seen_from(Path(path).parent, Path(onnx_path)), hashlib.sha256(data).hexdigest()
            record = _record(spec, target, plan, onnx_file, precisions, seconds)
            plan_file.write_bytes(plan)
            record_file.write_text(record.to_json())
        if measurements:
            measurements.write_bytes(measured)
    return Path(path)


def _seen_from(folder: Path, file: Path) -> str:
    """The path of `file` relative to `folder`, also where one of them is reached through a symbolic link."""
    return os.path.relpath(file.parent.resolve() / file.name, folder.resolve())


def _record(
    spec: ModelSpec,
    target: _Target,
    plan: bytes,
    onnx_file: tuple[str, str],
    precisions: Mapping[str, int],
    seconds: float,
) -> EngineRecord:
    """The record of `plan`; `onnx_file` is the path and the SHA-256 of the ONNX file that it was built from."""
    return EngineRecord(
        spec=spec,
        flavour=target.flavour,
        version=target.version,
        cuda=target.gpu.cuda if target.gpu else "",
        gpu=target.gpu.name if target.gpu else "",
        compute_capabilities=_compute_capabilities(target),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        onnx=onnx_file[0],
        onnx_sha256=onnx_file[1],
        precisions=precisions,
        build_seconds=round(seconds, 3),
        multiprocessors=target.gpu.multiprocessors if target.gpu else 0,
    )


def _check_graph(model: ModelProto, data: bytes, path: str | os.PathLike[str]) -> None:
    """Reject graphs that TensorRT would accept silently or reject with obscure errors. Raises BuildError."""
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"{path} is not valid ONNX: {' '.join(str(error).split())}") from error
    known = constants(model)
    zeros = (node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2)
    if any(name in known and known[name].data_type == TensorProto.UINT8 for name in zeros):
        raise BuildError(
            f"{path} was exported with --target cpu: it has unsigned INT8 activations, and TensorRT takes signed ones; "
            "export it again without --target"
        )


def _target(
    capabilities: tuple[str, ...],
    workspace: int | None,
    timing_cache: str | os.PathLike[str] | None,
    device: int,
    onnx_bytes: int,
) -> _Target:
    if workspace is not None and workspace < 1:
        raise SpecError(f"a workspace is a whole number of MiB from 1, got {workspace}")
    if capabilities and timing_cache is not None:
        raise SpecError("TensorRT for RTX measures nothing when it builds: it takes no timing cache")
    flavour = "tensorrt_rtx" if capabilities else "tensorrt"
    version: str = load_tensorrt(flavour).__version__
    names = rtx_capabilities(capabilities) if capabilities else ()
    gpu = None if capabilities else probe(device)
    return _Target(
        flavour=flavour,
        version=version,
        capabilities=names,
        gpu=gpu,
        workspace=_affordable(workspace, onnx_bytes, shared=gpu is not None and gpu.integrated),
        timing_cache=None if timing_cache is None else _stored(Path(timing_cache)),
    )


def _compute_capabilities(target: _Target) -> tuple[str, ...]:
    """The compute capabilities as "8.7" for "SM87"."""
    if target.gpu:
        return (target.gpu.compute_capability,)
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in target.capabilities)


def _affordable(workspace: int | None, onnx_bytes: int, *, shared: bool) -> int:
    """The workspace in MiB, part of system memory if that is `shared`. Raises BuildError when memory is short."""
    free = available_memory() // 2**20  # 0 if unknown
    chosen = workspace or (min(WORKSPACE, max(1, free // 4)) if shared and free else WORKSPACE)
    wanted = LIBRARIES + COPIES * onnx_bytes // 2**20 + (chosen if shared else 0)
    if 0 < free < wanted:
        advice = "close other programs or give a smaller workspace" if shared else "close other programs"
        raise BuildError(f"too little memory for the build: wanted {wanted} MiB, {free} are free; {advice}")
    return chosen


def _stored(timing_cache: Path) -> bytes:
    """The file's content; empty before the first build."""
    try:
        return timing_cache.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SpecError(f"cannot read the timing cache {timing_cache}: {error.strerror or error}") from error


def _interruptible(work: Callable[[Event], _T]) -> _T:
    """Run `work` in another thread and return its result; on Ctrl-C, set the event it was given and wait for it.

    In this thread, Ctrl-C would be raised inside TensorRT, in a callback to its progress monitor.
    """
    cancelled = Event()
    with ThreadPoolExecutor(1) as pool:
        try:  # Ctrl-C may come after the work has started but before `submit` returns
            return pool.submit(work, cancelled).result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


def _build(data: bytes, target: _Target, steps: _Steps) -> tuple[bytes, bytes]:
    """The plan and the timing cache. Raises BuildError."""
    with current(target.gpu) if target.gpu else nullcontext():
        try:
            return _built(data, target, steps)
        except BaseException as error:
            clear_frames(error.__traceback__)  # else it keeps TensorRT's objects alive beyond the GPU's context
            raise


def _built(data: bytes, target: _Target, steps: _Steps) -> tuple[bytes, bytes]:
    """The result of `_build`; TensorRT's objects are all local here, so that they are gone on return."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = load_tensorrt(target.flavour)
    clear_errors()
    logger = tensorrt_logger(trt)
    builder = _made(target, trt.Builder, logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = _made(target, builder.create_network, typed)
    parser = _made(target, trt.OnnxParser, network, logger)
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse(data):
        raise _failed(target, f"does not take this graph: {_complaints(parser)}")
    if not network.num_outputs:  # an empty file counts as parsed
        raise _failed(target, "finds nothing in this graph")
    config = _made(target, builder.create_builder_config)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # an inspector can then tell which layers are INT8
    config.progress_monitor = _monitor(target.flavour, steps)
    _choose_capabilities(trt, config, target)
    cache = None if target.timing_cache is None else _timing_cache(config, target.timing_cache)
    plan = builder.build_serialized_network(network, config)
    steps.check()
    if plan is None:
        raise _failed(target, "could not build this graph")
    return bytes(memoryview(plan)), _measurements(cache) or target.timing_cache or b""


def _made(target: _Target, make: Callable[..., _T | None], *arguments: object) -> _T:
    """The result of `make`. Raises BuildError if there is none: the bindings return None or raise TypeError."""
    try:
        made = make(*arguments)
    except TypeError as error:
        raise _failed(target, f"cannot begin: {error}{_driver_hint(target.gpu)}") from error
    if made is None:
        raise _failed(target, "cannot begin")
    return made


def _driver_hint(gpu: Gpu | None) -> str:
    """TensorRT does not say when the driver is older than the CUDA version that its package is for."""
    if gpu is None or int(gpu.cuda.partition(".")[0]) >= 13:
        return ""
    return (
        f"; the driver speaks CUDA {gpu.cuda}, and pip's tensorrt is for CUDA 13: "
        "update the driver to r580 or newer, or install tensorrt-cu12"
    )


def _failed(target: _Target, what: str) -> BuildError:
    line = with_log(f"{FLAVOURS[target.flavour]} {target.version} {what}")
    return BuildError(" ".join(line.split()))


def _complaints(parser: trt.OnnxParser) -> str:
    """All errors of the parser, each with its node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" for error in errors)


def _choose_capabilities(module: Any, config: Any, target: _Target) -> None:
    """Set what only TensorRT for RTX has: the compute capabilities to build for, and that CUDA graphs can be captured."""
    if not target.capabilities:
        return
    config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)  # memory that it allocates later ends a capture
    config.num_compute_capabilities = len(target.capabilities)
    for index, name in enumerate(target.capabilities):
        if not config.set_compute_capability(getattr(module.ComputeCapability, name), index):
            raise _failed(target, f"does not take {name.lower()}")


def _timing_cache(config: trt.IBuilderConfig, stored: bytes) -> trt.ITimingCache:
    """Put a timing cache into `config`: `stored` if it is of this GPU and TensorRT, else an empty one."""
    cache = config.create_timing_cache(stored)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        _log.warning("the timing cache is ignored: it is none, or of another GPU or TensorRT")
        clear_errors()
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _measurements(cache: trt.ITimingCache | None) -> bytes:
    """The content of a timing cache; empty if TensorRT cannot serialise it."""
    serialized = None if cache is None else cache.serialize()
    return b"" if serialized is None else bytes(memoryview(serialized))


class _Steps:
    """Progress of a build. TensorRT reports nested phases, each with a number of steps, from any of its threads."""

    def __init__(self, cancelled: Event, progress: Progress | None) -> None:
        self.cancelled, self._progress = cancelled, progress
        self._lock = Lock()
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps done, steps in all
        self._share = 0.0
        self._error: Exception | None = None

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = (parent, 0, steps)

    def done(self, phase: str, step: int) -> bool:
        """Record a finished step; returns whether to go on."""
        try:
            with self._lock:  # held during the callback too, so that reported progress never decreases
                parent, _, steps = self._phases.get(phase, (None, 0, step + 1))
                self._phases[phase] = (parent, step + 1, steps)
                self._share = max(self._share, self._share_of(phase))
                if self._progress:
                    self._progress(self._share, phase)
        except Exception as error:  # must not propagate through TensorRT
            self._error = error
            self.cancelled.set()
        return not self.cancelled.is_set()

    def end(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def check(self) -> None:
        """Raise what `progress` raised."""
        if self._error:
            raise self._error

    def _share_of(self, phase: str | None) -> float:
        """Fraction done, 0..1, of the outermost phase around `phase`."""
        share = 0.0
        for _ in range(len(self._phases)):  # bounded: a phase within one of its own name would loop forever
            if phase not in self._phases:
                break
            phase, done, steps = self._phases[phase]
            share = min(1.0, (done + share) / max(1, steps))
        return share


def _monitor(flavour: str, steps: _Steps) -> trt.IProgressMonitor:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = load_tensorrt(flavour)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # else the binding aborts

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            steps.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return steps.done(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            steps.end(phase_name)

    return Monitor()
