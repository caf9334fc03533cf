"""`edgecrack build`, each time in a process of its own: what it prints, and one line for all that cannot be built."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgecrack.cli.build import built
from edgecrack.errors import BuildError
from edgecrack.spec import FrameSpec, ModelSpec

SPEC = ModelSpec("scnet", frame=FrameSpec(64, 64))
needs_rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="TensorRT for RTX is not installed")
no_tensorrt = pytest.mark.skipif(bool(find_spec("tensorrt")), reason="TensorRT is installed")
MAIN = "from edgecrack.cli import main; main()"
# a step takes a moment, and the test is told of each, and of those that come after Ctrl-C
SLOW = """
import time
from edgecrack.export import engine
done = engine._Steps.done
def slow(self, phase, step):
    print("ending" if self.cancelled.is_set() else "under way", flush=True)
    time.sleep(0.05)
    return done(self, phase, step)
engine._Steps.done = slow
"""
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Refuse())
"""
# the real builder of TensorRT for RTX by the name of the other flavour: all but what needs a GPU is the same
STAND_IN = "from tensorrt_rtx import *\n__version__ = '10.3.0'\n"
# what the binding of a TensorRT does that is asked to build without a driver, at worst
CRASHES = "import os\n__version__ = '10.3.0'\ndef Builder(logger):\n    os.abort()\n"


def edgecrack(*arguments, prefix="", **environment):
    command = [sys.executable, "-c", prefix + MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})


def refused(folder, code, words, *arguments, **options):
    """The command ends with `code` and one line with `words`, and the files in `folder` are as they were."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = edgecrack("build", *arguments, **options)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    lines = done.stderr.strip().splitlines()
    if code == 2:
        assert words in " ".join(done.stderr.split())
    else:
        assert words in lines[-1]
        assert len([line for line in lines if not line.startswith("builder: ")]) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def net(write_model, tmp_path):
    return write_model(tmp_path / "net.onnx", SPEC)


@pytest.fixture
def stand_in(tmp_path_factory):
    """The environment in which TensorRT is the stand-in."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "tensorrt.py").write_text(STAND_IN)
    return {"PYTHONPATH": str(folder)}


@needs_rtx
def test_it_says_what_builds_and_prints_the_path(net, tmp_path):
    done = edgecrack("build", net, "--for", "sm86, sm120")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'net.engine'}\n"
    first, last = done.stderr.splitlines()  # no bar where there is no terminal
    assert re.fullmatch(r"builder: TensorRT for RTX [\d.]+, for sm86, sm120", first)
    assert re.match(r"net\.engine: 0\.\d MB in \d+\.\d s", last)
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx", "net.engine", "net.engine.json"}


@needs_rtx
def test_info_prints_the_record_and_whether_the_engine_is_the_one_built(net, tmp_path):
    engine = tmp_path / "other" / "net.engine"
    assert edgecrack("build", net, "-o", engine, "--for", "sm86").returncode == 0
    told = json.loads(edgecrack("info", engine).stdout)
    assert (told["kind"], told["flavour"], told["compute_capabilities"]) == ("engine", "tensorrt_rtx", ["8.6"])
    assert told["is_what_was_built"] is True
    record = json.loads(edgecrack("info", f"{engine}.json").stdout)
    assert (record["kind"], record["flavour"]) == ("engine record", "tensorrt_rtx")
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)
    assert json.loads(edgecrack("info", engine).stdout)["is_what_was_built"] is False
    Path(f"{engine}.json").unlink()
    done = edgecrack("info", engine)
    assert (done.returncode, done.stdout) == (4, "")
    assert "which says where" in done.stderr


def determinant(model):
    """Add the determinants of the frame's channels, square here, to the answer: an operator that TensorRT lacks."""
    cast, mean, last = model.graph.node
    nodes = [
        cast,
        mean,
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Det", ["planes"], ["determinants"], name="the_determinant"),
        helper.make_node("ReduceMean", ["determinants"], ["one"], keepdims=0),
        helper.make_node("Add", ["mean", "one"], ["sum"]),
        helper.make_node("Cast", ["sum"], list(last.output), to=onnx.TensorProto.UINT8),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def damaged(source, path, kind):
    """A file of the `kind` named, made of the ONNX file `source`."""
    model, data = onnx.load(source), source.read_bytes()
    if kind == "det":
        determinant(model)
    elif kind == "plugin":
        model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "of.nobody"
        model.opset_import.append(helper.make_opsetid("of.nobody", 1))
    elif kind == "dangling":
        model.graph.node[1].input[0] = "nowhere"
    elif kind == "foreign":
        del model.metadata_props[:]
    content = {"junk": b"hello world", "empty": b"", "cut": data[:-40], "half": data[: len(data) // 2]}
    path.write_bytes(content.get(kind, model.SerializeToString()))
    return path


@needs_rtx
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("junk", "is not an ONNX file, or is truncated"),
        ("empty", "has no edgecrack spec inside"),
        ("cut", "is not an ONNX file, or is truncated"),
        ("half", "is not an ONNX file, or is truncated"),
        ("foreign", "has no edgecrack spec inside"),
        ("dangling", "is not valid ONNX"),
        ("det", "node 'the_determinant' (Det)"),
        ("plugin", "(Unheard)"),
    ],
)
def test_a_file_that_cannot_be_built(kind, words, net, tmp_path):
    bad = damaged(net, tmp_path / "bad.onnx", kind)
    refused(tmp_path, 1, words, bad, "--for", "sm86")


@needs_rtx
def test_arguments_that_cannot_be(net, tmp_path):
    refused(tmp_path, 1, "no ONNX file", tmp_path / "nowhere.onnx", "--for", "sm86")
    refused(tmp_path, 1, "builds for sm75", net, "--for", "sm87")
    refused(tmp_path, 1, "got ''", net, "--for", "sm86,")
    refused(tmp_path, 2, "measures nothing", net, "--for", "sm86", "--timing-cache", tmp_path / "cache")
    for name in ("net.onnx", "weights.safetensors", "net.engine", "net.engine.json"):
        refused(tmp_path, 2, "it is written; give a file of its own", net, "--timing-cache", tmp_path / name)
    refused(tmp_path, 2, "wanted an ONNX file, got the folder .", ".", "--for", "sm86")
    refused(tmp_path, 2, "--workspace", net, "--for", "sm86", "--workspace", "0")
    refused(tmp_path, 2, "--workspace", net, "--for", "sm86", "--workspace", "99999999999999999")
    refused(tmp_path, 2, "--device", net, "--device", "-1")
    refused(tmp_path, 2, "builds for the GPUs named", net, "--for", "sm86", "--device", "1")
    refused(tmp_path, 2, "an engine is named NAME.engine, got 'net.plan'", net, "--for", "sm86", "-o", "net.plan")
    refused(tmp_path, 2, "an engine is named NAME.engine, got 'net.onnx'", net, "--for", "sm86", "-o", net)
    refused(tmp_path, 2, "Missing argument")


@needs_rtx
def test_an_output_that_cannot_be_written(net, tmp_path):
    place = tmp_path / "place"
    place.write_text("a file")
    refused(tmp_path, 1, "cannot write", net, "--for", "sm86", "-o", place / "net.engine")
    (tmp_path / "folder.engine").mkdir()
    refused(tmp_path, 1, "it is there and is not a file", net, "--for", "sm86", "-o", tmp_path / "folder.engine")
    full = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    )
    refused(tmp_path, 1, "net.engine: File too large", net, "--for", "sm86", prefix=full)


def test_without_tensorrt_for_rtx(net, tmp_path):
    words = "pip install 'edgecrack[rtx]'"
    refused(tmp_path, 1, words, net, "--for", "sm86", prefix=WITHOUT.format(refused={"tensorrt_rtx"}))


def test_without_tensorrt(net, tmp_path):
    words = "pip install 'edgecrack[tensorrt-pip]'; on a Jetson it comes with JetPack"
    refused(tmp_path, 1, words, net, prefix=WITHOUT.format(refused={"tensorrt"}))


def test_building_needs_neither_torch_nor_onnx_runtime_nor_opencv(net, tmp_path):
    code = WITHOUT.format(refused={"torch", "onnxruntime", "cv2", "tensorrt", "tensorrt_rtx"})
    refused(tmp_path, 1, "No module named 'tensorrt'", net, prefix=code)
    done = edgecrack(prefix=f"{code}\nimport edgecrack.export.engine\nsys.exit(7)\n")
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (None, "no CUDA driver"),
        ({"FAKE_CUDA_DEVICES": "0"}, "cuInit says"),
        ({"FAKE_CUDA_VERSION": "11040"}, "the CUDA driver is too old: it speaks CUDA 11.4"),
        ({"FAKE_CUDA_DEVICES": "1"}, "no GPU 1: CUDA shows 1"),
    ],
)
def test_the_driver_is_asked_before_tensorrt(driver, words, net, tmp_path, tmp_path_factory, fake_cuda):
    package = tmp_path_factory.mktemp("package")
    (package / "tensorrt.py").write_text(CRASHES)
    # a folder without a library hides no driver of the machine: an empty file in its place does
    (package / "libcuda.so.1").touch()
    libraries = str(package) if driver is None else fake_cuda["LD_LIBRARY_PATH"]
    environment = {"PYTHONPATH": str(package), "LD_LIBRARY_PATH": libraries, **(driver or {})}
    refused(tmp_path, 1, words, net, "--device", "1", **environment)


@needs_rtx
@no_tensorrt
def test_tensorrt_builds_for_the_gpu_of_the_machine(net, tmp_path, stand_in, fake_cuda):
    environment = {**fake_cuda, **stand_in, "FAKE_CUDA_CAPABILITY": "8.7", "FAKE_CUDA_INTEGRATED": "1"}
    cache = tmp_path / "cache"
    for content in (None, b"", b"an old one"):
        if content is not None:
            cache.write_bytes(content)
        done = edgecrack("build", net, "--timing-cache", cache, "--workspace", "64", **environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / 'net.engine'}\n"
        assert cache.stat().st_size > 100
    assert "builder: TensorRT 10.3.0 on Fake GPU 0, compute capability 8.7" in done.stderr
    told = json.loads(edgecrack("info", tmp_path / "net.engine").stdout)
    assert (told["flavour"], told["version"], told["gpu"]) == ("tensorrt", "10.3.0", "Fake GPU 0")
    assert (told["compute_capabilities"], told["cuda"], told["multiprocessors"]) == (["8.7"], "13.0", 8)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "net.onnx", "net.engine", "net.engine.json"}


@needs_rtx
@no_tensorrt
def test_too_little_memory_is_one_line(net, tmp_path, stand_in, fake_cuda):
    environment = {**fake_cuda, **stand_in, "FAKE_CUDA_INTEGRATED": "1"}
    words = "close other programs or give a smaller workspace"
    refused(tmp_path, 1, words, net, "--workspace", "1000000000", **environment)


def test_the_name_of_a_layer_is_no_markup_of_the_bar(net, tmp_path, monkeypatch, capsys):
    def build(*arguments, progress, **options):
        progress(0.5, "Timing {ForeignNode[/encoder/Conv]}")
        raise BuildError("it is enough")

    monkeypatch.setattr("edgecrack.export.engine.engine_from_onnx", build)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(BuildError, match="it is enough"):
        built(net, tmp_path / "net.engine", ())
    assert "Timing {ForeignNode[/encoder/Conv]}" in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)


@needs_rtx
def test_ctrl_c_ends_the_build_and_leaves_nothing(net, tmp_path):
    command = [sys.executable, "-c", SLOW + MAIN, "build", str(net), "--for", "sm86"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "under way\n"
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) <= 2  # who builds, and at most a word on the end
    assert "Traceback" not in errors
    assert output.count("under way") < 40  # of 61
    assert output.count("ending") < 5
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_ways_to_damage_a_file_are_what_they_say(net, tmp_path):
    """The graphs that TensorRT is to refuse are valid ONNX, or it would not be asked."""
    for kind in ("det", "plugin"):
        onnx.checker.check_model(damaged(net, tmp_path / f"{kind}.onnx", kind), full_check=True)
