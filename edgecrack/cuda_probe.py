"""Queries the CUDA driver about a GPU without any CUDA library: TensorRT may crash if there is no driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgecrack.errors import EngineError

LIBRARY = "libcuda.so.1"
OLDEST = (12, 0)  # the CUDA version that the oldest supported TensorRT is built against
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_INTEGRATED = 18  # CU_DEVICE_ATTRIBUTE_INTEGRATED
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A usable GPU.

    Attributes:
        index: among the GPUs visible to this process, from 0.
        name: such as "Orin".
        compute_capability: such as "8.7".
        cuda: the newest CUDA version that the driver supports, such as "13.0".
        integrated: whether it shares memory with the CPU, as in a Jetson.
        multiprocessors: their number, which distinguishes GPUs of the same name.
    """

    index: int
    name: str
    compute_capability: str
    cuda: str
    integrated: bool
    multiprocessors: int


def probe(device: int = 0) -> Gpu:
    """Query the GPU with index `device`. Raises EngineError if there is no driver, one too old, or no such GPU."""
    driver = _driver()
    cuda = _version(driver)
    if cuda < OLDEST:
        raise EngineError(
            f"the CUDA driver is too old: it speaks CUDA {_dotted(cuda)}, wanted {_dotted(OLDEST)} or newer"
        )
    _call(driver, "cuInit", 0)
    count = _number(driver, "cuDeviceGetCount")
    if not 0 <= device < count:
        raise EngineError(f"no GPU {device}: CUDA shows {count}, counted from 0")
    handle = _number(driver, "cuDeviceGet", device)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, handle)
    major, minor, integrated, multiprocessors = (
        _number(driver, "cuDeviceGetAttribute", attribute, handle)
        for attribute in (_MAJOR, _MINOR, _INTEGRATED, _MULTIPROCESSORS)
    )
    return Gpu(
        index=device,
        name=name.value.decode(errors="replace"),
        compute_capability=_dotted((major, minor)),
        cuda=_dotted(cuda),
        integrated=bool(integrated),
        multiprocessors=multiprocessors,
    )


@contextmanager
def current(gpu: Gpu) -> Iterator[None]:
    """Make `gpu` the current device of this thread for libraries built on the CUDA runtime. Raises EngineError."""
    driver = _driver()
    handle = _number(driver, "cuDeviceGet", gpu.index)
    context = ctypes.c_void_p()
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    try:
        _call(driver, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            _call(driver, "cuCtxPopCurrent_v2", ctypes.byref(context))
    finally:
        _call(driver, "cuDevicePrimaryCtxRelease_v2", handle)


def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineError(
            f"no CUDA driver: {error}; an engine of TensorRT is built and run on an NVIDIA GPU"
        ) from error


def _version(driver: ctypes.CDLL) -> tuple[int, int]:
    major, rest = divmod(_number(driver, "cuDriverGetVersion"), 1000)  # 13020 is 13.2
    return major, rest // 10


def _number(driver: ctypes.CDLL, function: str, *arguments: object) -> int:
    """Call `function` and return the int that it writes to its first argument."""
    value = ctypes.c_int()
    _call(driver, function, ctypes.byref(value), *arguments)
    return value.value


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(driver, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        words = (text.value or b"unknown error").decode(errors="replace")
        raise EngineError(f"the CUDA driver does not work: {function} says {words} ({code})")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
