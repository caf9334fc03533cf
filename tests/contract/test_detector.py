"""The detector on a backend that records what it is asked: what a frame is, batches, errors, thresholds and threads."""

import threading
import time
from collections import deque

import numpy as np
import pytest
from drawings import grey, noise

from edgecrack.errors import EngineError, FrameError, SourceError, SpecError
from edgecrack.runtime import CrackDetector, VideoWriter, open_source
from edgecrack.spec import FrameSpec, ModelSpec


class Recorder:
    """A backend that answers with the blue channel and keeps what it was asked; `gate` holds its answers back."""

    name = "recorder"

    def __init__(self, batch=1, depth=2):
        self.spec = ModelSpec("scnet", frame=FrameSpec(48, 64), batch=batch)
        self.depth = depth
        self.calls, self.events, self.waiting = [], [], deque()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = 0

    def submit(self, frames):
        assert len(self.waiting) < self.depth
        assert frames.shape == (self.spec.batch, 48, 64, 3)
        assert frames.flags.c_contiguous
        self.calls.append(frames)
        self.events.append("submit")
        self.waiting.append(frames[..., 0].copy())

    def collect(self):
        self.gate.wait(10)
        if not self.waiting:
            raise EngineError("nothing is in flight")
        self.events.append("collect")
        return self.waiting.popleft()

    def close(self):
        self.closed += 1


@pytest.fixture
def recorder():
    return Recorder()


def test_the_frame_goes_in_without_a_copy_when_it_fits(recorder):
    frame = noise()
    CrackDetector(recorder).run(frame)
    assert np.shares_memory(recorder.calls[0], frame)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1],
        lambda a: a[..., ::-1],
        lambda a: a[::2, ::2],
        lambda a: a.transpose(1, 0, 2),
        lambda a: a[5:, 9:],
    ],
)
@pytest.mark.parametrize("size", [(48, 64), (96, 128), (200, 300)])
def test_a_frame_that_is_not_contiguous_is_the_same_frame(recorder, view, size):
    frame = view(noise(1, *size))
    detector = CrackDetector(recorder)
    np.testing.assert_array_equal(
        detector.run(frame).probability, detector.run(np.ascontiguousarray(frame)).probability
    )


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (grey(1)[..., 0], "a grey image.*COLOR_GRAY2BGR"),
        (grey(1)[..., :1], "a grey image"),
        (grey(1).astype(np.float32) / 255, "float32.*astype"),
        (grey(1).astype(np.uint16), "uint16"),
        (np.dstack([grey(1), grey(1)[..., :1]]), "alpha.*image\\[:, :, :3\\]"),
        (np.zeros((0, 64, 3), np.uint8), "empty"),
        (noise()[np.newaxis].copy(), r"\(1, 48, 64, 3\)"),
        (grey(1).tolist(), "wanted a numpy array.*list"),
        (None, "NoneType"),
    ],
    ids=["grey", "one channel", "float", "16 bits", "alpha", "empty", "batch", "list", "None"],
)
def test_what_is_no_frame_is_refused_in_words(recorder, frame, words):
    detector = CrackDetector(recorder)
    with pytest.raises(FrameError, match=words):
        detector.run(frame)
    with pytest.raises(FrameError, match=words):
        list(detector.stream([grey(1), frame]))
    assert detector.run(grey(7)).probability[0, 0] == 7  # and nothing was left at the backend


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_stream_keeps_the_backend_busy(depth):
    recorder = Recorder(depth=depth)
    assert len(list(CrackDetector(recorder).stream([grey(1)] * 8))) == 8
    in_flight = np.cumsum([1 if event == "submit" else -1 for event in recorder.events])
    assert in_flight.max() == depth
    assert in_flight[-1] == 0
    assert recorder.events[:depth] == ["submit"] * depth


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8, 9])
def test_a_short_batch_is_padded_with_its_last_frame_and_those_answers_are_dropped(count):
    recorder = Recorder(batch=4)
    results = list(CrackDetector(recorder).stream([grey(index + 1) for index in range(count)]))
    assert [detection.probability[0, 0] for _, detection in results] == list(range(1, count + 1))
    assert len(recorder.calls) == -(-count // 4)
    submitted = np.concatenate(recorder.calls)[:, 0, 0, 0].tolist()
    assert submitted == [*range(1, count + 1), *[count] * (len(submitted) - count)]


def test_one_frame_fills_a_batch_too(recorder):
    recorder = Recorder(batch=3)
    assert CrackDetector(recorder).run(grey(9)).probability[0, 0] == 9
    assert recorder.calls[0].shape[0] == 3


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("good", [0, 1, 2, 5])
def test_an_error_of_the_source_comes_after_the_frames_before_it(batch, good):
    def source():
        for index in range(good):
            yield grey(index)
        raise SourceError("the camera is gone")

    detector = CrackDetector(Recorder(batch))
    seen = []
    with pytest.raises(SourceError, match="the camera is gone"):
        for frame, detection in detector.stream(source()):
            seen.append((frame.index, detection.probability[0, 0]))
    assert seen == [(index, index) for index in range(good)]
    assert detector.run(grey(77)).probability[0, 0] == 77


def test_an_error_of_the_backend_ends_the_stream_and_frees_the_detector(recorder):
    detector = CrackDetector(recorder)
    stream = detector.stream([grey(index) for index in range(9)])
    next(stream)
    collect = recorder.collect

    def fail():
        if recorder.waiting:
            recorder.waiting.popleft()
        raise EngineError("the library failed")

    recorder.collect = fail
    with pytest.raises(EngineError, match="the library failed"):
        list(stream)
    recorder.collect = collect
    assert detector.run(grey(50)).probability[0, 0] == 50


def test_an_unreadable_source_is_told_when_the_stream_begins(recorder, tmp_path):
    with pytest.raises(SourceError, match="no file or folder"):
        next(CrackDetector(recorder).stream(tmp_path / "nothing.mp4"))


def test_leaving_a_stream_closes_its_source(recorder, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for value in range(10):
            video.write(grey(20 * value))
    source = open_source(tmp_path / "a.mp4")
    stream = CrackDetector(recorder).stream(source)
    next(stream)
    stream.close()
    with pytest.raises(SourceError, match="is closed; open it again"):
        list(source)


def test_setting_the_threshold_in_a_stream_holds_for_later_detections(recorder):
    detector = CrackDetector(recorder, threshold=0.5)
    thresholds = []
    for frame, detection in detector.stream([grey(1)] * 6):
        thresholds.append(detection.threshold)
        if frame.index == 2:
            detector.threshold = 0.7
    assert thresholds == [0.5] * 3 + [0.7] * 3


@pytest.mark.parametrize("threshold", [0, 1.5, float("nan"), "high"])
def test_a_threshold_that_cannot_be_is_refused(recorder, threshold):
    with pytest.raises(SpecError):
        CrackDetector(recorder, threshold=threshold)
    detector = CrackDetector(recorder)
    with pytest.raises(SpecError):
        detector.threshold = threshold
    assert detector.threshold == 0.5


def test_a_second_thread_is_refused_while_the_first_runs(recorder):
    detector = CrackDetector(recorder)
    recorder.gate.clear()
    first = []
    thread = threading.Thread(target=lambda: first.append(detector.run(grey(3))))
    thread.start()
    while not recorder.waiting:
        time.sleep(0.001)
    with pytest.raises(EngineError, match=r"busy.*give each thread its own CrackDetector: clone\(\)"):
        detector.run(grey(4))
    recorder.gate.set()
    thread.join()
    assert first[0].probability[0, 0] == 3
    assert detector.run(grey(4)).probability[0, 0] == 4


def test_a_run_is_refused_while_a_stream_is_not_finished(recorder):
    detector = CrackDetector(recorder)
    stream = detector.stream([grey(1)] * 5)
    next(stream)
    for call in (lambda: detector.run(grey(2)), lambda: next(detector.stream([grey(2)]))):
        with pytest.raises(EngineError, match="unfinished stream"):
            call()
    assert len(list(stream)) == 4
    assert detector.run(grey(2)).probability[0, 0] == 2
