import os
import shutil
import subprocess
import sys
from pathlib import Path

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
