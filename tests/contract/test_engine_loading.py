"""Engines that cannot be run, each in a process of its own: one line, exit code 1 or 4, no crash, nothing left behind.

TensorRT for RTX is real where it is installed; the driver is the one in tests/fake_cuda, so no plan gets as far as a GPU.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgecrack.engine_file import read_record, record_path
from edgecrack.errors import EngineMismatch

FAKE_CUDA = Path(__file__).parents[1] / "fake_cuda"
NO_DRIVER = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    """A folder with an engine for capability 8.6, built by TensorRT for RTX, beside its ONNX."""
    if not find_spec("tensorrt_rtx"):
        pytest.skip("TensorRT for RTX is not installed: pip install 'edgecrack[rtx]'")
    folder = tmp_path_factory.mktemp("built")
    (folder / "net.onnx").write_bytes(model.read_bytes())
    code = (
        "import sys; from edgecrack.export.engine import engine_from_onnx as b; b(*sys.argv[1:], capabilities=['sm86'])"
    )
    subprocess.run([sys.executable, "-c", code, folder / "net.onnx", folder / "net.engine"], check=True)
    return folder


@pytest.fixture
def engine(built, tmp_path):
    """A copy of it to be spoiled; beside it a frame."""
    for path in built.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    cv2.imwrite(str(tmp_path / "frame.png"), np.zeros((48, 64, 3), np.uint8))
    return tmp_path / "net.engine"


def rewrite(engine, *, plan=None, **changes):
    """Change the plan or its record; the hash in the record fits."""
    if plan is not None:
        engine.write_bytes(plan)
        changes["plan_sha256"] = hashlib.sha256(plan).hexdigest()
    record_path(engine).write_text(dataclasses.replace(read_record(engine), **changes).to_json())


def run(engine, environment, *options, **settings):
    command = [sys.executable, "-m", "edgecrack", "run", engine, "--source", engine.with_name("frame.png")]
    command += ["--out", engine.with_name("out"), *options]
    environment = {**environment, "OMP_NUM_THREADS": "1"} | settings
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def assert_one_line(done, engine, code, *words):
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgecrack: ")
    for each in words:
        assert each in line
    assert done.stdout == ""
    assert not engine.with_name("out").exists()


def on_its_gpu(fake_cuda):
    return {**fake_cuda, "FAKE_CUDA_CAPABILITY": "8.6"}


def test_without_a_driver(engine):
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    assert_one_line(run(engine, NO_DRIVER), engine, 1, "no CUDA driver: libcuda.so.1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"FAKE_CUDA_VERSION": "11040"}, "the CUDA driver is too old: it speaks CUDA 11.4"),
        ({"FAKE_CUDA_DEVICES": "0"}, "no CUDA-capable device is detected"),
        ({"FAKE_CUDA_FAIL": "cuInit:1:803"}, "unsupported display driver"),
        ({"FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain:1:2"}, "cuDevicePrimaryCtxRetain says out of memory"),
        (
            {"FAKE_CUDA_FAIL": "cuCtxPushCurrent_v2:1:46:lost"},
            "cuCtxPushCurrent says CUDA-capable device(s) is/are busy",
        ),
    ],
    ids=["too old", "no GPU", "broken", "full", "busy"],
)
def test_with_a_driver_that_does_not_do(engine, fake_cuda, settings, words):
    assert_one_line(run(engine, on_its_gpu(fake_cuda), **settings), engine, 1, words)


def test_for_another_gpu(engine, fake_cuda):
    done = run(engine, fake_cuda, FAKE_CUDA_CAPABILITY="12.0")
    command = f"edgecrack build {engine.with_suffix('.onnx')} -o {engine} --for sm86,sm120"
    assert_one_line(done, engine, 4, "capability 8.6, this GPU has 12.0", command)


def test_another_gpu_of_the_machine_is_chosen(engine, fake_cuda):
    rewrite(engine, flavour="tensorrt", compute_capabilities=("8.6",))
    environment = {**fake_cuda, "FAKE_CUDA_DEVICES": "2", "FAKE_CUDA_CAPABILITY": "12.0"}
    done = run(engine, environment, "--device", "1")
    assert_one_line(done, engine, 4, "this GPU has 12.0 (Fake GPU 1)", f"-o {engine} --device 1")
    assert_one_line(run(engine, environment, "--device", "2"), engine, 1, "no GPU 2: CUDA shows 2")
    done = run(engine.with_suffix(".onnx"), environment, "--device", "1")
    assert_one_line(done, engine, 1, "a GPU is chosen for an engine, and", "net.onnx is none")


def test_of_another_tensorrt_or_cuda(engine, fake_cuda):
    record = read_record(engine)
    rewrite(engine, version="1.2.0.54")
    assert_one_line(
        run(engine, on_its_gpu(fake_cuda)), engine, 4, "built by TensorRT for RTX 1.2.0.54, here is", " --for sm86"
    )
    rewrite(engine, cuda="14.1")
    words = "built with a driver of CUDA 14.1, this one speaks CUDA 13.0"
    assert_one_line(run(engine, on_its_gpu(fake_cuda)), engine, 4, words)
    rewrite(engine, version=record.version, cuda="12.6")  # a newer driver runs what an older one did
    assert "a driver of CUDA" not in run(engine, on_its_gpu(fake_cuda)).stderr


def test_of_a_tensorrt_that_is_not_installed(engine, fake_cuda):
    if find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    rewrite(engine, flavour="tensorrt")
    assert_one_line(
        run(engine, on_its_gpu(fake_cuda)), engine, 1, "TensorRT cannot be loaded", "edgecrack[tensorrt-pip]"
    )


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_that_was_cut_short(engine, fake_cuda, size):
    engine.write_bytes(engine.read_bytes()[:size])
    done = run(engine, on_its_gpu(fake_cuda))
    assert_one_line(done, engine, 4, "its SHA-256 differs", f"edgecrack build {engine.with_suffix('.onnx')}")


def test_with_one_byte_changed(engine, fake_cuda):
    plan = bytearray(engine.read_bytes())
    plan[len(plan) // 2] ^= 1
    engine.write_bytes(plan)
    assert_one_line(run(engine, on_its_gpu(fake_cuda)), engine, 4, "its SHA-256 differs")


@pytest.mark.parametrize("content", [None, "", "junk", "{}", '{"spec": 1}', "\x00\xff"])
def test_without_a_record_or_with_one_that_was_edited(engine, fake_cuda, content):
    record_path(engine).unlink()
    if content is not None:
        record_path(engine).write_text(content)
    onnx = engine.with_suffix(".onnx")
    words = [f"cannot read {record_path(engine)}", f"build the engine again: edgecrack build {onnx} -o {engine}"]
    assert_one_line(run(engine, on_its_gpu(fake_cuda)), engine, 4, *words)
    if content is None:
        onnx.unlink()
        words[1] = f"edgecrack build MODEL.onnx -o {engine}"
        assert_one_line(run(engine, on_its_gpu(fake_cuda)), engine, 4, *words)


def test_with_a_record_of_other_fields(engine, fake_cuda):
    text = record_path(engine).read_text().replace('"gpu"', '"gpus"')
    record_path(engine).write_text(text)
    assert_one_line(run(engine, on_its_gpu(fake_cuda)), engine, 4, "not an engine record of this version")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cuda", 13),
        ("cuda", "newest"),
        ("flavour", []),
        ("onnx", None),
        ("gpu", {}),
        ("compute_capabilities", [8.6]),
        ("compute_capabilities", "8.6"),
        ("compute_capabilities", ["86"]),
        ("precisions", {"fp32": "3"}),
        ("precisions", None),
        ("build_seconds", "long"),
        ("multiprocessors", True),
    ],
)
def test_a_record_with_a_value_of_another_type_is_refused_by_name(engine, name, value):
    values = json.loads(record_path(engine).read_text())
    record_path(engine).write_text(json.dumps(values | {name: value}))
    with pytest.raises(EngineMismatch, match=f": not an engine record: {name} cannot be ") as caught:
        read_record(engine)
    assert json.dumps(value) in str(caught.value)


def test_that_is_not_there_or_cannot_be_read(engine, fake_cuda, tmp_path):
    done = run(tmp_path / "nothing.engine", fake_cuda)
    assert_one_line(done, engine, 1, "nothing.engine: No such file or directory")
    engine.unlink()
    engine.mkdir()
    assert_one_line(run(engine, fake_cuda), engine, 1, "net.engine: Is a directory")


@pytest.mark.parametrize("plan", ["junk", "empty", "short", "foreign"])
def test_whose_record_fits_what_tensorrt_does_not_take(engine, fake_cuda, plan):
    whole = engine.read_bytes()
    plans = {
        "junk": np.random.default_rng(1).bytes(5000),
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "foreign": b"ftrt" + whole[4:],  # how a plan of TensorRT itself begins
    }
    rewrite(engine, plan=plans[plan])
    done = run(engine, on_its_gpu(fake_cuda))
    assert_one_line(done, engine, 1, f"TensorRT for RTX {read_record(engine).version} cannot load {engine}: ")


def test_on_a_driver_that_tensorrt_cannot_use(engine, fake_cuda):
    """The fake driver is too little for it: as far as an engine comes without a GPU."""
    done = run(engine, on_its_gpu(fake_cuda))
    assert_one_line(done, engine, 1, f"cannot load {engine}: ", "(cudaError ")


def test_rebuild_builds_for_this_gpu_too_and_goes_on(engine, fake_cuda):
    done = run(engine, fake_cuda, "--rebuild", FAKE_CUDA_CAPABILITY="8.9")
    record = read_record(engine)
    assert record.compute_capabilities == ("8.6", "8.9")
    assert record.plan_sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert done.stderr.startswith("building again: cannot run ")
    assert done.returncode == 1  # it goes on to load it, for which the fake driver is too little
    assert done.stderr.splitlines()[-1].startswith(
        f"edgecrack: TensorRT for RTX {record.version} cannot load {engine}: "
    )


def test_rebuild_mends_a_plan_that_was_changed_and_leaves_a_good_one_alone(engine, fake_cuda):
    plan = engine.read_bytes()
    stamp = engine.stat().st_mtime_ns
    run(engine, on_its_gpu(fake_cuda), "--rebuild")
    assert engine.stat().st_mtime_ns == stamp
    engine.write_bytes(plan[:1000])
    run(engine, on_its_gpu(fake_cuda), "--rebuild")
    assert hashlib.sha256(engine.read_bytes()).hexdigest() == read_record(engine).plan_sha256
    assert len(engine.read_bytes()) > 1000


def test_rebuild_says_that_the_onnx_has_changed_and_goes_on(engine, fake_cuda, write_model):
    onnx = engine.with_suffix(".onnx")
    words = f"{onnx} has changed since the engine was built"
    done = run(engine, fake_cuda, "--rebuild", FAKE_CUDA_CAPABILITY="8.9")
    assert words not in done.stderr
    spec = dataclasses.replace(read_record(engine).spec, threshold=0.7)
    write_model(onnx, spec)
    done = run(engine, fake_cuda, "--rebuild", FAKE_CUDA_CAPABILITY="12.0")
    assert [line.startswith(words) for line in done.stderr.splitlines()].count(True) == 1
    assert read_record(engine).spec == spec


def test_rebuild_without_the_onnx_says_so(engine, fake_cuda):
    engine.with_suffix(".onnx").unlink()
    done = run(engine, fake_cuda, "--rebuild", FAKE_CUDA_CAPABILITY="8.9")
    assert_one_line(done, engine, 4, f"{engine.with_suffix('.onnx')} is not there")


def test_rebuild_without_a_record_takes_the_onnx_of_its_name_for_this_gpu(engine, fake_cuda):
    if find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")
    record_path(engine).unlink()
    done = run(engine, on_its_gpu(fake_cuda), "--rebuild")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("edgecrack: TensorRT cannot be loaded")
    engine.with_suffix(".onnx").unlink()
    done = run(engine, on_its_gpu(fake_cuda), "--rebuild")
    assert_one_line(done, engine, 4, f"cannot read {record_path(engine)}", "net.onnx is not there")


VANISHING = """
import sys
from pathlib import Path
from cases_engine import TensorRt
from fake_driver import FakeDriver
from edgecrack.cli import main
from edgecrack.engine_file import read_record
from edgecrack.runtime.backends import engine

driver = FakeDriver()
module = TensorRt(driver, read_record(sys.argv[2]).spec)
module.plan, module.__version__ = Path(sys.argv[2]).read_bytes(), read_record(sys.argv[2]).version
engine.load_tensorrt, engine.tensorrt_logger = lambda flavour: module, lambda module: None
driver.fail("cuGraphLaunch", 5, 999, forever=True)
main(sys.argv[1:])
"""


@pytest.mark.parametrize("library", ["cuda-bindings", "pycuda"])
def test_whose_gpu_vanishes_in_mid_stream(engine, fake_cuda, tmp_path, library):
    if not find_spec({"cuda-bindings": "cuda", "pycuda": "pycuda"}[library]):
        pytest.skip(f"{library} is not installed")
    (tmp_path / "photos").mkdir()
    for index in range(9):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), np.full((48, 64, 3), 20 * index, np.uint8))
    command = [
        sys.executable,
        "-c",
        VANISHING,
        "run",
        engine,
        "--source",
        tmp_path / "photos",
        "--out",
        tmp_path / "out",
    ]
    environment = {**on_its_gpu(fake_cuda), "EDGECRACK_CUDA": library, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1, done.stderr
    words = "edgecrack: CUDA failed: cuGraphLaunch says unknown error (CUDA_ERROR_UNKNOWN)"
    lines = done.stderr.splitlines()
    assert words in lines
    assert lines == [words] or library == "pycuda"  # which tells of all that it could not free
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 3  # what was answered before it went
