"""The TensorRT backend from end to end, on the fake driver, with a stand-in for TensorRT's execution context."""

import faulthandler
import gc
import logging
import resource
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fake_driver import StandIn

from edgecrack.errors import EngineError
from edgecrack.runtime import CrackDetector
from edgecrack.runtime.backends.cuda import open_cuda
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec

WAYS = [{"graphs": graphs, "zero_copy": zero_copy} for graphs in (True, False) for zero_copy in (False, True)]


@pytest.fixture(params=WAYS, ids=lambda way: f"graphs={way['graphs']},zero_copy={way['zero_copy']}")
def backend(request, open_stand_in):
    return open_stand_in(**request.param)


def noise(seed, batch=1, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), np.uint8)


def mean(frames):
    return (frames.sum(3, dtype=int) // 3).astype(np.uint8)


def assert_answer(answer, frames):
    assert answer.dtype == np.uint8
    np.testing.assert_array_equal(answer, mean(frames))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_it_is_what_its_spec_says(backend):
    assert (backend.name, backend.depth) == ("tensorrt", 2)
    assert backend.spec.threshold == 0.4


def test_work_is_launched_as_it_was_asked(open_stand_in):
    assert open_stand_in(graphs=True).captured
    assert not open_stand_in(graphs=False).captured


def test_answers_come_in_the_order_of_the_calls_and_are_the_callers_own(backend):
    frames = [noise(seed) for seed in range(12)]
    answers = []
    for index, each in enumerate(frames):
        if index >= backend.depth:
            answers.append(backend.collect())
        given = each.copy()
        backend.submit(given)
        given[:] = 0  # it was copied
    answers += [backend.collect() for _ in range(backend.depth)]
    for answer, each in zip(answers, frames, strict=True):
        assert_answer(answer, each)


def test_a_batch_is_answered_frame_by_frame(open_stand_in):
    backend = open_stand_in(batch=3)
    backend.submit(noise(0, 3))
    assert_answer(backend.collect(), noise(0, 3))


def test_a_detector_runs_and_streams(backend):
    images = [noise(seed, height=48 + seed % 3)[0] for seed in range(9)]
    images[0] = noise(0)[0]
    with CrackDetector(backend) as detector:
        np.testing.assert_array_equal(detector.run(images[0]).probability, mean(images[0][np.newaxis])[0])
        whole = [detector.run(image).probability for image in images]
        streamed = list(detector.stream(iter(images)))
    assert [frame.index for frame, _ in streamed] == list(range(9))
    for probability, (_, detection) in zip(whole, streamed, strict=True):
        np.testing.assert_array_equal(detection.probability, probability)


def test_clones_share_the_engine_and_work_in_threads_of_their_own(backend):
    failed = []

    def work(detector, first):
        try:
            for seed in range(first, first + 50):
                image = noise(seed)[0]
                np.testing.assert_array_equal(detector.run(image).probability, mean(image[np.newaxis])[0])
        except Exception as error:
            failed.append(error)

    detector = CrackDetector(backend)
    clones = [detector.clone() for _ in range(3)]
    threads = [
        threading.Thread(target=work, args=(each, 100 * index)) for index, each in enumerate([detector, *clones])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in clones:
        each.close()
    assert not failed
    detector.run(noise(0)[0])


@pytest.mark.parametrize("first", [0, 1])
def test_the_last_of_the_clones_frees_the_engine(open_stand_in, first, driver):
    events = []

    class Watched(StandIn):
        def __del__(self):
            events.append("context")

    backends = [open_stand_in(context=Watched, released=events)]
    backends.append(backends[0].clone())
    for backend in (backends[first], backends[first]):
        backend.close()
        assert events == ["context"] * 2
    assert driver.live()["contexts"] == 1
    backends[1 - first].submit(noise(1))
    assert_answer(backends[1 - first].collect(), noise(1))
    backends[1 - first].close()
    assert events == ["context"] * 4 + ["engine"]
    assert driver.live() == {}


def test_a_forgotten_clone_is_closed_while_another_is_made(open_stand_in):
    """TensorRT logs from inside, the logger allocates, and then rubbish may be collected in the same thread."""

    class Collecting(StandIn):
        def __init__(self, *arguments):
            gc.collect()
            super().__init__(*arguments)

    backend = open_stand_in(context=Collecting)
    forgotten = backend.clone()
    forgotten.submit(noise(0))  # its answer, and so it itself, is held in a circle
    del forgotten
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        clone = backend.clone()
    finally:
        faulthandler.cancel_dump_traceback_later()
    clone.submit(noise(1))
    assert_answer(clone.collect(), noise(1))
    clone.close()


def test_one_that_nobody_closed_is_closed_when_it_is_forgotten(cuda, driver):
    spec = ModelSpec("scnet", frame=FrameSpec(48, 64))
    backend = TensorRtBackend(SharedEngine(spec, open_cuda(), lambda: StandIn(driver, spec.input_shape)))
    backend.submit(noise(0))
    del backend
    gc.collect()
    assert driver.live() == {"contexts": 1}


def test_it_may_be_closed_with_calls_in_flight_and_in_another_thread(backend, driver):
    for seed in range(backend.depth):
        backend.submit(noise(seed))
    thread = threading.Thread(target=backend.close)
    thread.start()
    thread.join()
    assert driver.live() == {}
    for call in (lambda: backend.submit(noise(0)), backend.collect, backend.clone):
        with pytest.raises(EngineError, match="closed; open it again"):
            call()


def test_closing_waits_for_the_frame_that_another_thread_waits_for(backend, driver, monkeypatch):
    """It would free the memory that the answer is copied from."""
    cuda, detector, answers = backend._cuda, CrackDetector(backend), []
    synchronise, waiting, go_on = cuda.synchronise, threading.Event(), threading.Event()

    def slow(stream):
        synchronise(stream)
        waiting.set()
        assert go_on.wait(30)

    monkeypatch.setattr(cuda, "synchronise", slow)
    running = threading.Thread(target=lambda: answers.append(detector.run(noise(3)[0]).probability))
    closing = threading.Thread(target=detector.close)
    running.start()
    assert waiting.wait(30)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive()
    go_on.set()
    for thread in (running, closing):
        thread.join()
    np.testing.assert_array_equal(answers[0], mean(noise(3))[0])
    assert driver.live() == {}


def test_a_suspended_stream_does_not_keep_another_thread_from_closing(backend):
    detector = CrackDetector(backend)
    stream = detector.stream([noise(seed)[0] for seed in range(9)])
    next(stream)
    thread = threading.Thread(target=detector.close)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(EngineError, match="closed; open it again"):
        next(stream)


@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "execute_async_v3"]
)
def test_what_cannot_be_captured_is_launched_piece_by_piece(open_stand_in, driver, caplog, function, zero_copy):
    caplog.set_level(logging.INFO)
    driver.fail(function, 1, 900)

    class Stubborn(StandIn):
        runs = 0

        def execute_async_v3(self, stream_handle, /):
            self.runs += 1
            return (function != "execute_async_v3" or self.runs != 2) and super().execute_async_v3(stream_handle)

    backend = open_stand_in(context=Stubborn, zero_copy=zero_copy)
    assert not backend.captured
    assert "launched without a CUDA graph: " in caplog.text
    for seed in range(5):
        backend.submit(noise(seed))
        assert_answer(backend.collect(), noise(seed))


def test_allocating_while_it_is_captured_spoils_the_graph_and_not_the_answers(open_stand_in, cuda):
    class Allocating(StandIn):
        def execute_async_v3(self, stream_handle, /):
            try:
                cuda.free(cuda.allocate(1))
            except EngineError:
                return False
            return super().execute_async_v3(stream_handle)

    backend = open_stand_in(context=Allocating)
    assert not backend.captured
    backend.submit(noise(1))
    assert_answer(backend.collect(), noise(1))


@pytest.mark.parametrize("integrated", ["0", "1"])
def test_the_gpu_works_on_the_hosts_memory_where_they_share_it(open_stand_in, monkeypatch, driver, integrated):
    monkeypatch.setenv("FAKE_CUDA_INTEGRATED", integrated)
    backend = open_stand_in()
    assert backend.zero_copy is (integrated == "1")
    assert driver.live().get("device memory", 0) == (0 if backend.zero_copy else 4)
    assert not open_stand_in(zero_copy=False).zero_copy


@pytest.mark.parametrize("allocations", range(1, 9))
def test_too_little_memory_is_one_line_and_leaves_nothing(open_stand_in, driver, allocations):
    released = []
    driver.fail("cuMemAlloc_v2" if allocations % 2 else "cuMemHostAlloc", (allocations + 1) // 2, 719)
    with pytest.raises(EngineError, match=r"^CUDA failed: cuMem(Alloc|HostAlloc) says [^\n]*$"):
        open_stand_in(released=released)
    assert released == ["engine"]
    assert driver.live() == {}


def test_memory_that_ends_is_one_line(open_stand_in, driver, monkeypatch):
    monkeypatch.setenv("FAKE_CUDA_MEMORY", "20000")
    with pytest.raises(EngineError, match=r"^CUDA failed: cuMemAlloc says out of memory \(CUDA_ERROR_OUT_OF_MEMORY\)$"):
        open_stand_in()
    assert driver.live() == {}


@pytest.mark.parametrize("refuses", ["set_tensor_address", "execute_async_v3"])
def test_what_tensorrt_does_not_do_is_one_line(open_stand_in, refuses):
    context = type("Refusing", (StandIn,), {refuses: lambda *_: False})
    with pytest.raises(EngineError, match=r"^TensorRT (does not take memory for frames|cannot start on a frame)$"):
        open_stand_in(context=context)


@pytest.mark.parametrize(
    "function", ["cuStreamSynchronize", "cuGraphLaunch", "cuMemcpyHtoDAsync_v2", "cuCtxPushCurrent_v2"]
)
def test_a_gpu_that_vanishes_is_one_line_and_close_still_works(open_stand_in, driver, function):
    released = []
    backend = open_stand_in(graphs=function == "cuGraphLaunch", released=released)
    detector = CrackDetector(backend)
    stream = detector.stream([noise(seed)[0] for seed in range(9)])
    next(stream)
    driver.fail(function, 1, 999, forever=True)
    with pytest.raises(
        EngineError, match=rf"^CUDA failed: {function.partition('_')[0]} says unknown error \(CUDA_ERROR_UNKNOWN\)$"
    ):
        list(stream)
    with pytest.raises(EngineError, match="CUDA_ERROR_UNKNOWN"):
        detector.run(noise(0)[0])
    detector.close()
    detector.close()
    gc.collect()
    driver.forget()


def test_a_frame_that_fails_once_does_no_harm_to_the_next(backend, driver):
    backend.submit(noise(1))
    driver.fail("cuStreamSynchronize", 1, 719)
    with pytest.raises(EngineError, match="CUDA_ERROR_LAUNCH_FAILED"):
        backend.collect()
    for seed in range(2):
        backend.submit(noise(seed))
    for seed in range(2):
        assert_answer(backend.collect(), noise(seed))


def test_ten_thousand_frames_make_nothing_grow(backend, driver):
    frames, answers = [noise(seed) for seed in range(4)], [mean(noise(seed)) for seed in range(4)]

    def run(count):
        backend.submit(frames[0])
        for index in range(1, count + 1):
            backend.submit(frames[index % 4])
            assert backend.collect()[0, 5, 5] == answers[(index - 1) % 4][0, 5, 5]
        backend.collect()

    run(500)
    gc.collect()
    live, allocations, memory, objects = driver.live(), driver.allocations, resident(), len(gc.get_objects())
    run(10_000)
    gc.collect()
    assert driver.live() == live
    assert driver.allocations == allocations
    assert len(gc.get_objects()) - objects < 100
    assert resident() - memory < 2**20


def test_a_frame_allocates_its_answer_and_no_other_array(backend):
    for seed in range(3):
        backend.submit(noise(seed))
        backend.collect()
    frames = noise(0)
    tracemalloc.start()
    backend.submit(frames)
    answer = backend.collect()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.nbytes <= peak < answer.nbytes + 3072  # a frame alone has 9216
