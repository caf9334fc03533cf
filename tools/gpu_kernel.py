"""A kernel in place of a net, for a GPU without TensorRT; loaded as PTX, which the driver compiles for any GPU."""

from __future__ import annotations

import ctypes

import numpy as np

from edgecrack.cuda_probe import LIBRARY
from edgecrack.errors import EngineError

# The mean of a pixel's three bytes, `rounds` times over, so that it takes as long as a net would.
KERNEL = """
.version 6.4
.target sm_70
.address_size 64
.visible .entry mean(.param .u64 answers, .param .u64 frames, .param .u32 pixels, .param .u32 rounds)
{
    .reg .pred %p<3>;
    .reg .b32 %r<11>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [answers];
    ld.param.u64 %rd2, [frames];
    ld.param.u32 %r1, [pixels];
    ld.param.u32 %r2, [rounds];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd1, %rd1;
    cvta.to.global.u64 %rd2, %rd2;
    mul.wide.u32 %rd3, %r6, 3;
    add.u64 %rd4, %rd2, %rd3;
    cvt.u64.u32 %rd5, %r6;
    add.u64 %rd5, %rd1, %rd5;
AGAIN:
    ld.volatile.global.u8 %r7, [%rd4];
    ld.volatile.global.u8 %r8, [%rd4+1];
    ld.volatile.global.u8 %r9, [%rd4+2];
    add.u32 %r10, %r7, %r8;
    add.u32 %r10, %r10, %r9;
    div.u32 %r10, %r10, 3;
    st.volatile.global.u8 [%rd5], %r10;
    sub.u32 %r2, %r2, 1;
    setp.gt.s32 %p2, %r2, 0;
    @%p2 bra AGAIN;
DONE:
    ret;
}
"""
THREADS = 256  # per block


class KernelContext:
    """Stand-in for TensorRT's execution context: launches the kernel through the driver API."""

    def __init__(self, shape: tuple[int, int, int, int], rounds: int = 1) -> None:
        """For frames of `shape`, (N, H, W, 3). The module stays loaded for the life of the GPU's context."""
        self._driver = ctypes.CDLL(LIBRARY)
        self._function, module = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), KERNEL.encode())
        self._call("cuModuleGetFunction", ctypes.byref(self._function), module, b"mean")
        self._module = module
        pixels = int(np.prod(shape[:3]))
        self._places = {"probability": ctypes.c_uint64(), "frames": ctypes.c_uint64()}
        self._values = [*self._places.values(), ctypes.c_uint32(pixels), ctypes.c_uint32(rounds)]
        addresses = [ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in self._values]
        self._arguments = (ctypes.c_void_p * len(addresses))(*addresses)
        self._blocks = -(-pixels // THREADS)

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        self._places[name].value = memory
        return True

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        stream = ctypes.c_void_p(stream_handle)
        sizes = (self._blocks, 1, 1, THREADS, 1, 1, 0)
        self._call("cuLaunchKernel", self._function, *sizes, stream, self._arguments, None)
        return True

    def unload(self) -> None:
        self._call("cuModuleUnload", self._module)

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code:
            raise EngineError(f"{function} answers {code}")
