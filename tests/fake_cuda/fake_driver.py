"""The driver in fake_cuda.c, built and loaded, and a net that runs on it."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path

LIBRARY = "libcuda.so.1"
KINDS = ("streams", "device memory", "pinned memory", "graphs", "executables", "contexts", "modules")
_NOT_SUPPORTED = 801


def build(folder: Path) -> Path:
    """Compile the driver into `folder`. Raises OSError without a C compiler."""
    stubs, library = folder / "stubs.c", folder / LIBRARY
    # pycuda is linked against more of the driver than is here: the linker wants all of it, and nothing calls it
    stubs.write_text(
        "".join(
            f"__attribute__((weak)) int {name}(void) {{ return {_NOT_SUPPORTED}; }}\n" for name in _linked_by_pycuda()
        )
    )
    source = Path(__file__).with_name("fake_cuda.c")
    command = ["cc", "-O2", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", str(library), str(source), str(stubs)]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return library


def _linked_by_pycuda() -> list[str]:
    """The driver's functions that the pycuda here is linked against; none without pycuda."""
    pycuda = find_spec("pycuda")
    files = [
        file
        for place in (pycuda and pycuda.submodule_search_locations) or ()
        for file in Path(place).glob("_driver*.so")
    ]
    names = [
        line.split()[-1].partition("@")[0]
        for file in files
        for line in subprocess.run(
            ["nm", "-D", "--undefined-only", str(file)], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    ]
    return [name for name in names if name.startswith("cu")]


class FakeDriver:
    """What a test may ask of the driver besides what CUDA offers.

    Once this has loaded it, every library of the process that asks for `LIBRARY` gets this one.
    """

    def __init__(self, library: str | Path = LIBRARY) -> None:
        self._library = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        self._library.fake_nanoseconds.restype = ctypes.c_uint64
        self._library.fake_allocations.restype = ctypes.c_long

    def fail(self, function: str, call: int, code: int, *, forever: bool = False) -> None:
        """Let the `call`-th call of `function` from now on answer `code`; if `forever`, and every call of all after it."""
        self._library.fake_fail(function.encode(), call, code, int(forever))

    def heal(self) -> None:
        """Fail no more."""
        self.fail("", 0, 0)

    def forget(self) -> None:
        """Count nothing of what was made before: it was lost with its GPU."""
        self._library.fake_forget()

    def live(self) -> dict[str, int]:
        """What was made and not destroyed, by kind; none of what there is none of."""
        counts = {kind: self._library.fake_live(index) for index, kind in enumerate(KINDS)}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def depth(self) -> int:
        """How many contexts this thread has pushed and not popped."""
        return int(self._library.fake_depth())

    @property
    def unbalanced(self) -> int:
        """How many more contexts all threads have pushed than popped."""
        return int(self._library.fake_unbalanced())

    @property
    def allocations(self) -> int:
        """How often memory was allocated, on the GPU or pinned, since the start."""
        return int(self._library.fake_allocations())

    @property
    def nanoseconds(self) -> int:
        """The time spent inside the driver since the start."""
        return int(self._library.fake_nanoseconds())

    def kernel(self, stream: int, to: int, source: int, pixels: int, channels: int) -> int:
        """Put the net into a stream: `pixels` bytes at `to`, each the mean of a pixel's first three. Answers a code."""
        arguments = (ctypes.c_void_p(stream), ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(pixels))
        return int(self._library.fake_kernel(*arguments, ctypes.c_int(channels)))


class StandIn:
    """In the place of TensorRT's execution context: the mean of B, G and R."""

    def __init__(self, driver: FakeDriver, shape: tuple[int, int, int, int]) -> None:
        """`shape`: (N, H, W, C) of the frames."""
        batch, height, width, self._channels = shape
        self._driver, self._pixels = driver, batch * height * width
        self._places: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        self._places[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        places = self._places["probability"], self._places["frames"]
        return self._driver.kernel(stream_handle, *places, self._pixels, self._channels) == 0
