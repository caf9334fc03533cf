import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecrack.spec import METADATA_KEY, FrameSpec, ModelSpec


def write_mean_model(path, spec, graph_frame=None, metadata=True):
    """An ONNX that calls a pixel crack as probably as it is bright: the mean of B, G and R, rounded down."""
    frame = graph_frame or spec.frame
    shape = [spec.batch, frame.height, frame.width]
    nodes = [
        helper.make_node("Cast", ["frames"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "channels"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["probability"], to=TensorProto.UINT8),
    ]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, [*shape, 3])
    probability = helper.make_tensor_value_info("probability", TensorProto.UINT8, shape)
    channels = helper.make_tensor("channels", TensorProto.INT64, [1], [3])
    graph = helper.make_graph(nodes, "mean", [frames], [probability], [channels])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata:
        helper.set_model_props(model, {"author": "a test", METADATA_KEY: spec.to_json()})
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def write_model():
    """The function that writes the model that all these tests run: `write_model(path, spec)`."""
    return write_mean_model


@pytest.fixture(scope="session")
def spec():
    return ModelSpec("scnet", frame=FrameSpec(48, 64), threshold=0.4, trained_on=("roads",))


@pytest.fixture(scope="session")
def model(tmp_path_factory, spec):
    """The path of such a model for frames of 64x48."""
    return write_mean_model(tmp_path_factory.mktemp("model") / "mean.onnx", spec)


FAKE_CUDA = Path(__file__).parents[1] / "fake_cuda"


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory):
    """The environment of a process in which NVIDIA's driver is the one in tests/fake_cuda."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler for the stand-in of NVIDIA's driver")
    folder = tmp_path_factory.mktemp("fake_cuda")
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, pathlib, fake_driver; fake_driver.build(pathlib.Path(sys.argv[1]))",
            folder,
        ],
        check=True,
        cwd=FAKE_CUDA,
    )
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(FAKE_CUDA)}


class Camera:
    """An MJPEG server: `value` and `size` say what it shows, `silent` that it sends nothing; it can be killed and restarted."""

    def __init__(self, rate=100):
        self.rate, self.value, self.size, self.silent = rate, 50, (48, 64), False
        self.port = 0
        self.start()

    def start(self):
        self.killed = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def kill(self):
        self.killed.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self):
        return f"http://admin:secret@127.0.0.1:{self.port}/video?token=secret"

    def _handler(camera):  # noqa: N805
        killed = camera.killed

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while not killed.wait(1 / camera.rate):
                        if not camera.silent:
                            data = camera.picture()
                            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                            self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    pass

        return Handler

    def picture(self):
        return cv2.imencode(".jpg", np.full((*self.size, 3), self.value, np.uint8))[1].tobytes()


@pytest.fixture
def camera():
    opened = Camera()
    yield opened
    if not opened.killed.is_set():
        opened.kill()


@pytest.fixture
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while left := [t for t in set(threading.enumerate()) - before if t.name.startswith("edgecrack")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def start_page(model, tmp_path):
    """Start `edgecrack run MODEL --out OUT --live 0 ...` as a process; the address of its page comes back too."""
    started = []

    def call(*options, live="0"):
        command = [sys.executable, "-m", "edgecrack", "run", model, "--out", tmp_path / "out", "--live", live]
        errors = (tmp_path / "stderr").open("wb")
        process = subprocess.Popen([*command, *map(str, options)], stdout=subprocess.PIPE, stderr=errors, text=True)
        errors.close()
        started.append(process)

        deadline = time.monotonic() + 60
        while not (printed := re.search(r"^watch at (.*)\n", (tmp_path / "stderr").read_text(), re.MULTILINE)):
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process, printed[1]

    yield call
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def roads(tmp_path_factory):
    """A folder of eight small labelled frames."""
    folder = tmp_path_factory.mktemp("data") / "roads"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(8):
        rng = np.random.default_rng(index)
        mask = np.zeros((64, 96), np.uint8)
        cv2.polylines(mask, [rng.integers(0, 64, (3, 2)).astype(np.int32)], False, 255, 3)
        image = (rng.normal(150, 10, (64, 96, 3)) - 0.4 * mask[:, :, None]).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{index}.png"), mask)
    return folder
