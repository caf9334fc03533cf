"""The detector on a camera: what it gives out, and that nothing of it is left."""

import code
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from waiting import listened

from edgecrack.errors import SourceError
from edgecrack.runtime import CrackDetector, SourceOptions, open_source
from edgecrack.spec import FrameSpec, ModelSpec

pytestmark = pytest.mark.usefixtures("no_thread_is_left")
QUICK = {"backoff": (0.05, 0.1), "timeout": 0.6}


def opened(source, **options):
    return listened(open_source(source, SourceOptions(**{**QUICK, **options})))


def test_a_detector_streams_a_camera_and_leaves_no_thread_when_broken_off(camera, model):
    before = threading.active_count()
    with CrackDetector(model) as detector:
        for frame, detection in detector.stream(camera.url):
            assert detection.probability.shape == (48, 64)
            assert abs(int(detection.probability[0, 0]) - 50) < 4
            if frame.index > 5:
                break
        assert [t.name for t in threading.enumerate() if t.name.startswith("edgecrack")] == []
        detector.run(np.zeros((48, 64, 3), np.uint8))  # it is free again
    camera.kill()
    assert threading.active_count() <= before


CELLS = {
    "broken off": "for frame, detection in detector.stream(url): break",
    "an error in the cell": "for frame, detection in detector.stream(url): 1 / 0",
    "an interrupted cell": "for frame, detection in detector.stream(url): raise KeyboardInterrupt",
    "forgotten": "stream = detector.stream(url)\nnext(stream)\nstream = None",
    "a closed stream": "stream = detector.stream(url)\nnext(stream)\nstream.close()",
    "a closed detector": "stream = detector.stream(url)\nnext(stream)\ndetector.close()",
    "a with block": "with detector:\n    stream = detector.stream(url)\n    next(stream)",
    "two cameras": "for frame, detection in detector.stream([url, 'rtsp://127.0.0.1:9/a']): break",
    "a callback": "detector.stream_to(url, lambda frame, detection: 1 / 0)",
}


@pytest.fixture
def notebook():
    """What runs cells as a notebook does: their names stay, and so does the last error with all that it holds."""
    names = {}
    interpreter = code.InteractiveInterpreter(names)
    return names, lambda cell: interpreter.runcode(compile(cell, "cell", "exec"))


def cameras_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgecrack")]


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_a_notebook_leaves_no_thread(camera, model, notebook, cell):
    names, run = notebook
    names.update(detector=CrackDetector(model), url=camera.url)
    run(CELLS[cell])
    assert cameras_threads() == []
    if cell not in ("a closed detector", "a with block"):
        run("detector.run(frame.image)" if "frame" in names else "next(detector.stream(url))")  # it is free again
    assert "busy" not in str(getattr(sys, "last_value", ""))
    names["detector"].close()


def test_ctrl_c_ends_a_cell_that_waits_for_a_silent_camera(camera, model, notebook):
    names, run = notebook
    camera.silent = True
    source = opened(camera.url)
    names.update(detector=CrackDetector(model), source=source)
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    run("for frame, detection in detector.stream(source): pass")
    assert sys.last_type is KeyboardInterrupt
    assert cameras_threads() == []
    names["detector"].close()


def test_a_sink_that_raises_ends_the_stream_and_the_thread(camera, model):
    def consume(detector):
        for _, _ in detector.stream(camera.url):
            raise SourceError("the disk is full")

    with CrackDetector(model) as detector, pytest.raises(SourceError, match="the disk is full"):
        consume(detector)


def test_a_detection_is_given_out_before_the_camera_comes_back(camera, model):
    """What is at the backend must not wait for a frame that may never come."""
    camera.rate = 4
    with CrackDetector(model, backend="onnxruntime") as detector, opened(camera.url, timeout=2.0) as source:
        stream = detector.stream(source)
        ages = []
        for frame, _ in stream:
            ages.append(time.monotonic() - frame.monotonic)
            if len(ages) == 4:
                break
        stream.close()
    assert max(ages) < 0.2  # less than the interval of the camera


def test_a_model_of_batches_takes_what_is_there(camera, tmp_path, write_model):
    path = write_model(tmp_path / "a.onnx", ModelSpec("scnet", frame=FrameSpec(48, 64), batch=3))
    camera.rate = 5
    with CrackDetector(path) as detector, opened(camera.url, timeout=2.0) as source:
        ages = []
        for frame, detection in detector.stream(source):
            assert abs(int(detection.probability[0, 0]) - 50) < 4
            ages.append(time.monotonic() - frame.monotonic)
            if len(ages) == 4:
                source.stop()
    assert source.parts[0].room == 3
    assert max(ages) < 0.2  # a batch that waited to be full would make them older
    assert source.read == len(ages) + sum(source.dropped.values())
