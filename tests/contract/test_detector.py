import threading
import time
import weakref
from collections import deque

import cv2
import numpy as np
import pytest

from edgecrack.errors import EngineError, FrameError, SourceError, SpecError
from edgecrack.runtime import CrackDetector, JsonLines, VideoWriter, open_backend, open_source
from edgecrack.runtime.backends import BACKENDS
from edgecrack.spec import FrameSpec, ModelSpec


def noise(seed=0, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


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


@pytest.fixture(params=BACKENDS)
def detector(request, model):
    with CrackDetector(model, backend=request.param) as opened:
        yield opened


@pytest.fixture
def recorder():
    return Recorder()


@pytest.mark.parametrize(("height", "width"), [(48, 64), (96, 128), (50, 64), (480, 640), (201, 77), (1, 1), (7, 900)])
def test_a_frame_of_any_size_is_answered_at_its_own_size(detector, height, width):
    frame = grey(30, height, width)
    frame[: height // 2] = 220
    detection = detector.run(frame)
    assert detection.probability.shape == detection.mask.shape == (height, width)
    if height > 40:
        edge = height // 2
        assert detection.mask[: edge - height // 16].all()
        assert not detection.mask[edge + height // 16 :].any()
    assert detection.probability[-1, -1] <= 31 or height < 8


def test_a_frame_of_the_nets_size_is_answered_pixel_by_pixel(detector):
    detection = detector.run(noise())
    assert np.abs(detection.probability.astype(float) - noise().mean(2)).max() <= 1.01
    np.testing.assert_array_equal(detection.mask, detection.probability >= 102)  # 0.4, the model's own
    assert all(spent > 0 for spent in detection.speed.values())


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


def test_a_stream_gives_every_frame_in_order_with_its_own_answer(detector):
    images = [grey(5 * index, 48 + index % 3, 64) for index in range(20)]
    results = list(detector.stream(iter(images)))
    assert [frame.index for frame, _ in results] == list(range(20))
    for image, (frame, detection) in zip(images, results, strict=True):
        assert frame.image is image
        assert detection.probability.shape == image.shape[:2]
        assert abs(int(detection.probability.max()) - image[0, 0, 0]) <= 1


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


def test_frames_of_many_sizes_share_a_batch(tmp_path, write_model):
    path = write_model(tmp_path / "a.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64), batch=2))
    images = [grey(40, 300, 200), grey(90, 30, 50), grey(160, 48, 64)]
    with CrackDetector(path) as detector:
        results = [detection.probability for _, detection in detector.stream(images)]
    for image, probability in zip(images, results, strict=True):
        assert probability.shape == image.shape[:2]
        assert np.abs(probability.astype(int) - int(image[0, 0, 0])).max() <= 1


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


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_interrupt_that_is_survived_gives_no_frame_the_answer_of_another(model, name, monkeypatch):
    """Ctrl-C in a notebook, at the worst moment: the call is started, and nobody knows of it yet."""
    with CrackDetector(model, backend=name) as detector:
        start = detector.backend.submit

        def submit(frames):
            start(frames)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(detector.backend, "submit", submit)
            detector.run(grey(10))
        for value in (50, 200):
            assert abs(int(detector.run(grey(value)).probability[0, 0]) - value) <= 1


def test_an_unreadable_source_is_told_when_the_stream_begins(recorder, tmp_path):
    with pytest.raises(SourceError, match="no file or folder"):
        next(CrackDetector(recorder).stream(tmp_path / "nothing.mp4"))


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_stream_may_be_left_at_any_time(detector, taken):
    detector.run(grey(1))  # the backend has its worker now
    before = threading.active_count()
    stream = detector.stream(grey(10 + index) for index in range(50))
    for _ in range(taken):
        next(stream)
    stream.close()
    assert threading.active_count() == before
    assert abs(int(detector.run(grey(200)).probability[0, 0]) - 200) <= 1  # not the answer to an abandoned frame


def test_leaving_a_stream_closes_its_source(recorder, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for value in range(10):
            video.write(grey(20 * value))
    source = open_source(tmp_path / "a.mp4")
    stream = CrackDetector(recorder).stream(source)
    next(stream)
    stream.close()
    assert list(source) == []


def test_no_thread_outlives_the_detector(model):
    before = threading.active_count()
    for name in BACKENDS:
        with CrackDetector(model, backend=name) as detector:
            next(detector.stream([grey(1)] * 9))
    assert threading.active_count() == before


def test_a_video_is_streamed_to_a_log(detector, tmp_path):
    with VideoWriter(tmp_path / "road.mp4", 25) as video:
        for value in range(25):
            video.write(grey(10 * value, 120, 160))
    with JsonLines(tmp_path / "log.jsonl") as log:
        results = list(detector.stream(tmp_path / "road.mp4"))
        for frame, detection in results:
            log.write(frame, detection)
    bright = [detection.crack_share > 0.99 for _, detection in results]
    assert bright == [10 * value > 102 for value in range(25)]
    np.testing.assert_allclose([frame.captured_at for frame, _ in results], np.arange(25) / 25, atol=1e-3)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 25


def test_a_folder_of_images_is_streamed(detector, tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), grey(100 * index, 60 + index, 90))
    results = list(detector.stream(tmp_path))
    assert [detection.mask.shape for _, detection in results] == [(60, 90), (61, 90), (62, 90)]
    assert [detection.mask.all() for _, detection in results] == [False, False, True]


def test_the_threshold_is_the_models_own_unless_it_is_set(model, spec):
    with CrackDetector(model) as detector:
        assert detector.spec == spec
        assert detector.threshold == detector.run(grey(1)).threshold == 0.4
    with CrackDetector(model, threshold=0.9) as detector:
        assert detector.run(grey(200)).crack_share == 0
        detector.threshold = 0.1
        assert detector.run(grey(200)).crack_share == 1


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


def test_a_clone_works_for_a_second_thread_with_the_threshold_of_then(detector):
    detector.threshold = 0.7
    stream = detector.stream([grey(10 * index) for index in range(9)])
    next(stream)
    found = []
    with detector.clone() as clone:
        detector.threshold = 0.2
        thread = threading.Thread(target=lambda: found.append(clone.run(grey(200))))
        thread.start()
        thread.join()
    assert abs(int(found[0].probability[0, 0]) - 200) <= 1
    assert found[0].threshold == 0.7
    assert len(list(stream)) == 8


def test_a_run_is_refused_while_a_stream_is_not_finished(recorder):
    detector = CrackDetector(recorder)
    stream = detector.stream([grey(1)] * 5)
    next(stream)
    for call in (lambda: detector.run(grey(2)), lambda: next(detector.stream([grey(2)]))):
        with pytest.raises(EngineError, match="unfinished stream"):
            call()
    assert len(list(stream)) == 4
    assert detector.run(grey(2)).probability[0, 0] == 2


def test_a_closed_detector_refuses_work(detector):
    stream = detector.stream([grey(1)] * 9)
    next(stream)
    detector.close()
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)
    for call in (lambda: detector.run(grey(1)), lambda: next(detector.stream([grey(1)]))):
        with pytest.raises(EngineError, match="this detector is closed"):
            call()


def test_an_open_backend_is_taken_over(model):
    backend = open_backend(model, "onnxruntime")
    with CrackDetector(backend) as detector:
        assert detector.backend is backend
        assert detector.run(grey(80)).probability[0, 0] in (79, 80)
    with pytest.raises(EngineError, match="closed"):
        backend.submit(grey(1)[np.newaxis])


def test_detections_outlive_later_frames(detector):
    kept = [detector.run(grey(60 * index)) for index in range(5)]
    assert [round(int(detection.probability[0, 0]) / 60) for detection in kept] == list(range(5))


def test_the_libraries_agree(model):
    frame = noise(3, 300, 500)
    answers = []
    for name in BACKENDS:
        with CrackDetector(model, backend=name) as detector:
            answers.append(detector.run(frame).probability.astype(int))
    assert np.abs(answers[0] - answers[1]).max() <= 1


def test_closing_lets_go_of_frames_when_the_call_that_reads_them_is_over(model, monkeypatch):
    backend, frames, there = open_backend(model, "openvino"), noise()[np.newaxis].copy(), []
    release, held = backend._release, weakref.ref(frames)
    monkeypatch.setattr(backend, "_release", lambda: (there.append(held() is not None), release()))
    backend.submit(frames)
    del frames
    backend.close()
    assert there == [True]
    assert held() is None
