"""The detector on each library: the answers at any size and in order, a stream that is left, a clone, and what closing frees."""

import threading
import weakref

import cv2
import numpy as np
import pytest
from drawings import grey, noise

from edgecrack.errors import EngineError
from edgecrack.runtime import CrackDetector, JsonLines, VideoWriter, open_backend
from edgecrack.runtime.backends import BACKENDS
from edgecrack.spec import FrameSpec, ModelSpec


@pytest.fixture(params=BACKENDS)
def detector(request, model):
    with CrackDetector(model, backend=request.param) as opened:
        yield opened


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


def test_a_stream_gives_every_frame_in_order_with_its_own_answer(detector):
    images = [grey(5 * index, 48 + index % 3, 64) for index in range(20)]
    results = list(detector.stream(iter(images)))
    assert [frame.index for frame, _ in results] == list(range(20))
    for image, (frame, detection) in zip(images, results, strict=True):
        assert frame.image is image
        assert detection.probability.shape == image.shape[:2]
        assert abs(int(detection.probability.max()) - image[0, 0, 0]) <= 1


def test_frames_of_many_sizes_share_a_batch(tmp_path, write_model):
    path = write_model(tmp_path / "a.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64), batch=2))
    images = [grey(40, 300, 200), grey(90, 30, 50), grey(160, 48, 64)]
    with CrackDetector(path) as detector:
        results = [detection.probability for _, detection in detector.stream(images)]
    for image, probability in zip(images, results, strict=True):
        assert probability.shape == image.shape[:2]
        assert np.abs(probability.astype(int) - int(image[0, 0, 0])).max() <= 1


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
