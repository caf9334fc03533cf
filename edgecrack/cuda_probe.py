"""What CUDA's driver says of a GPU, asked without any CUDA library: TensorRT may crash where there is no driver."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from edgecrack.errors import EngineError

LIBRARY = "libcuda.so.1"
OLDEST = (12, 0)  # of CUDA: what the oldest TensorRT that edgecrack takes is built against
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """A GPU that can be used.

    Attributes:
        index: among the GPUs that CUDA shows to this process, from 0.
        name: such as "Orin".
        compute_capability: such as "8.7".
        cuda: the newest version of CUDA that the driver speaks, such as "13.0".
    """

    index: int
    name: str
    compute_capability: str
    cuda: str


def probe(device: int = 0) -> Gpu:
    """The GPU with index `device`. Raises EngineError when there is no driver, one too old or no such GPU."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise EngineError(
            f"no CUDA driver: {error}; an engine of TensorRT is built and run on an NVIDIA GPU"
        ) from error
    cuda = divmod(_number(driver, "cuDriverGetVersion"), 1000)
    cuda = (cuda[0], cuda[1] // 10)
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
    capability = tuple(_number(driver, "cuDeviceGetAttribute", attribute, handle) for attribute in (_MAJOR, _MINOR))
    return Gpu(device, name.value.decode(errors="replace"), _dotted(capability), _dotted(cuda))


def _number(driver: ctypes.CDLL, function: str, *arguments: object) -> int:
    """The int that `function` writes to its first argument."""
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
