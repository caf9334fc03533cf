"""Either CUDA library behind the protocol, on the fake driver."""

import gc
import os
import threading

import numpy as np
import pytest
from fake_driver import FakeDriver

from edgecrack.errors import EngineError
from edgecrack.runtime.backends.cuda import capture, open_cuda

LIBRARY = os.environ["EDGECRACK_CUDA"]


@pytest.fixture
def ends(cuda):
    """A stream, memory on the GPU, and pinned memory to send and to receive; 12 bytes each."""
    with cuda.current():
        stream, there, sent, received = cuda.stream(), cuda.allocate(12), cuda.pin(12), cuda.pin(12)
    yield stream, there, sent, received
    with cuda.current():
        for pinned in (sent, received):
            cuda.unpin(pinned)
        cuda.free(there)
        cuda.destroy_stream(stream)


def test_it_says_which_library_it_is(cuda):
    assert cuda.name.startswith(f"{LIBRARY} ")
    assert not cuda.zero_copy


def test_copies_are_done_in_their_order_and_seen_after_synchronising(cuda, ends):
    stream, there, sent, received = ends
    sent.array[:], received.array[:] = np.arange(12), 99
    with cuda.current():
        cuda.upload(there, sent, stream)
        cuda.download(received, there, stream)
        assert (received.array == 99).all()  # the fake does nothing before
        cuda.synchronise(stream)
    np.testing.assert_array_equal(received.array, np.arange(12))


def test_streams_do_not_wait_for_each_other(cuda, ends):
    stream, there, sent, received = ends
    sent.array[:], received.array[:] = 7, 0
    with cuda.current():
        other = cuda.stream()
        cuda.upload(there, sent, stream)
        cuda.synchronise(stream)
        cuda.download(received, there, stream)
        cuda.synchronise(other)
        assert not received.array.any()
        cuda.synchronise(stream)
        cuda.destroy_stream(other)
    assert (received.array == 7).all()


def test_a_graph_is_not_done_when_it_is_recorded_and_done_at_every_launch(cuda, ends):
    stream, there, sent, received = ends

    def work():
        cuda.upload(there, sent, stream)
        cuda.download(received, there, stream)

    sent.array[:], received.array[:] = 1, 0
    with cuda.current():
        executable = capture(cuda, stream, work)
        cuda.synchronise(stream)
        assert not received.array.any()
        for value in (5, 6, 7):
            sent.array[:] = value
            cuda.launch(executable, stream)
            cuda.synchronise(stream)
            assert (received.array == value).all()
        cuda.destroy_executable(executable)


def test_what_cannot_be_recorded_is_an_error_and_the_stream_works_on(cuda, ends):
    stream, there, sent, received = ends
    with cuda.current():
        with pytest.raises(EngineError, match=r"cuMemAlloc says .*CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\)"):
            capture(cuda, stream, lambda: cuda.allocate(5))
        with pytest.raises(KeyboardInterrupt):
            capture(cuda, stream, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        sent.array[:] = 3
        cuda.upload(there, sent, stream)
        cuda.download(received, there, stream)
        cuda.synchronise(stream)
    assert (received.array == 3).all()


def test_mapped_memory_is_worked_on_in_place(cuda, driver):
    with cuda.current():
        stream, frames, answers = cuda.stream(), cuda.pin(12, mapped=True), cuda.pin(4, mapped=True)
        frames.array[:] = np.repeat([10, 20, 30, 40], 3)
        assert frames.mapped not in (None, frames.address)
        assert driver.kernel(stream, answers.mapped, frames.mapped, 4, 3) == 0
        cuda.synchronise(stream)
        np.testing.assert_array_equal(answers.array, [10, 20, 30, 40])
        for pinned in (frames, answers):
            cuda.unpin(pinned)
        cuda.destroy_stream(stream)


def test_memory_is_counted_and_its_end_is_an_error(cuda, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(1 << 20))
    with cuda.current():
        assert cuda.memory() == (1 << 20, 1 << 20)
        address = cuda.allocate(1000)
        assert cuda.memory() == ((1 << 20) - 1000, 1 << 20)
        with pytest.raises(
            EngineError, match=r"^CUDA failed: cuMemAlloc says out of memory \(CUDA_ERROR_OUT_OF_MEMORY\)$"
        ):
            cuda.allocate(1 << 20)
        cuda.free(address)


def test_any_thread_may_work_and_free_what_another_made(cuda, driver):
    made = []

    def make():
        with cuda.current():
            made.extend([cuda.stream(), cuda.allocate(12), cuda.pin(12), cuda.pin(12)])

    def work():
        stream, there, sent, received = made
        with cuda.current():
            sent.array[:] = 9
            cuda.upload(there, sent, stream)
            cuda.download(received, there, stream)
            cuda.synchronise(stream)
            made.append(int(received.array[0]))
            assert driver.depth == 1
            cuda.unpin(sent)
            cuda.unpin(received)
            cuda.free(there)
            cuda.destroy_stream(stream)
        assert driver.depth == 0

    for step in (make, work):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert made[-1] == 9


def test_the_gpu_is_given_back_once_by_any_thread(driver):
    cuda, second = open_cuda(), open_cuda()
    assert driver.live() == {"contexts": 2}
    thread = threading.Thread(target=cuda.close)
    thread.start()
    thread.join()
    cuda.close()
    assert driver.live() == {"contexts": 1}
    with second.current():
        assert driver.depth == 1
    second.close()
    del cuda, second
    gc.collect()
    assert driver.live() == {}


def test_contexts_nest(cuda, driver):
    second = open_cuda()
    with cuda.current():
        with second.current():
            stream = second.stream()
            second.destroy_stream(stream)
        stream = cuda.stream()
        cuda.destroy_stream(stream)
    second.close()


def test_without_a_current_context_the_driver_is_heard(cuda):
    with pytest.raises(EngineError, match="CUDA failed: "):
        cuda.allocate(5)


# every call of the protocol -> the function of the driver that may fail in it
FUNCTIONS = {
    "current": "cuCtxPushCurrent_v2",
    "memory": "cuMemGetInfo_v2",
    "stream": "cuStreamCreate",
    "synchronise": "cuStreamSynchronize",
    "allocate": "cuMemAlloc_v2",
    "pin": "cuMemHostAlloc",
    "map": "cuMemHostGetDevicePointer_v2",
    "upload": "cuMemcpyHtoDAsync_v2",
    "download": "cuMemcpyDtoHAsync_v2",
    "begin": "cuStreamBeginCapture_v2",
    "end": "cuStreamEndCapture",
    "executable": "cuGraphInstantiateWithFlags",
    "launch": "cuGraphLaunch",
}
CODES = {
    1: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    2: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    46: ("CUDA_ERROR_DEVICE_UNAVAILABLE", "busy or unavailable"),
    214: ("CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error"),
    700: ("CUDA_ERROR_ILLEGAL_ADDRESS", "illegal memory access"),
    702: ("CUDA_ERROR_LAUNCH_TIMEOUT", "timed out"),
    719: ("CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    999: ("CUDA_ERROR_UNKNOWN", "unknown error"),
}


def do_everything(cuda):
    with cuda.current():
        cuda.memory()
        stream = cuda.stream()
        made = []
        try:
            there = cuda.allocate(12)
            made.append((cuda.free, there))
            for mapped in (False, True):
                pinned = cuda.pin(12, mapped=mapped)
                made.append((cuda.unpin, pinned))
            executable = capture(cuda, stream, lambda: cuda.upload(there, pinned, stream))
            made.append((cuda.destroy_executable, executable))
            cuda.launch(executable, stream)
            cuda.download(pinned, there, stream)
            cuda.synchronise(stream)
        finally:
            for free, what in reversed(made):
                free(what)
            cuda.destroy_stream(stream)


def test_nothing_fails_by_itself(cuda):
    do_everything(cuda)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_every_code_of_every_call_is_one_line_with_cudas_name_and_meaning(cuda, driver, function, code):
    if LIBRARY == "pycuda" and code == 2 and function in ("cuMemAlloc_v2", "cuMemHostAlloc"):
        return  # it collects garbage and asks again, so failing once is no failure; memory that ends is tested above
    name, meaning = CODES[code]
    driver.fail(function, 1, code)
    with pytest.raises(EngineError) as caught:
        do_everything(cuda)
    message = str(caught.value)
    assert message.startswith(f"CUDA failed: {function.partition('_')[0].removesuffix('WithFlags')}")
    assert message.endswith(f"({name})")
    assert meaning in message
    assert "\n" not in message
    do_everything(cuda)


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"])
def test_a_gpu_that_cannot_be_had_is_one_line(driver, function):
    driver.fail(function, 1, 46)
    with pytest.raises(
        EngineError, match=rf"^CUDA failed: {function} says CUDA-cap.* \(CUDA_ERROR_DEVICE_UNAVAILABLE\)$"
    ):
        open_cuda()


def test_no_such_device_is_one_line():
    with pytest.raises(EngineError, match="cuDeviceGet says invalid device ordinal"):
        open_cuda(3)


def test_an_integrated_gpu_is_known(monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_INTEGRATED", "1")
    cuda = open_cuda()
    assert cuda.zero_copy
    cuda.close()


def test_the_fake_refuses_what_a_gpu_would_do_slowly_or_wrongly(cuda, ends):
    stream, there, sent, _ = ends
    with cuda.current():
        with pytest.raises(EngineError, match=r"cuMemcpyHtoD.* says invalid argument"):
            cuda.upload(there + 4, sent, stream)  # beyond its end
        with pytest.raises(EngineError, match=r"cuMemcpyHtoD.* says invalid argument"):
            cuda.upload(sent.address, sent, stream)  # not on the GPU


def test_the_driver_is_the_fake():
    assert FakeDriver().live() == {}
