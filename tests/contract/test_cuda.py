"""The cases of tests/fake_cuda, each file in a process of its own: with the driver in the place of NVIDIA's, real
cuda-bindings and real pycuda; and how one of the two is chosen."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgecrack.errors import SpecError
from edgecrack.runtime.backends.cuda import LIBRARIES, open_cuda

FAKE_CUDA = Path(__file__).parents[1] / "fake_cuda"
PACKAGES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}


def needs(library):
    if not find_spec(PACKAGES[library]):
        recipe = "tools/install_pycuda.sh" if library == "pycuda" else "pip install cuda-bindings"
        pytest.skip(f"{library} is not installed: {recipe}")


def run(code, environment, **settings):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**environment, **settings})


@pytest.mark.parametrize("cases", ["cases_cuda.py", "cases_backend.py", "cases_engine.py"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_cases(fake_cuda, library, cases):
    needs(library)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FAKE_CUDA / cases]
    environment = {**fake_cuda, "EDGECRACK_CUDA": library}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=FAKE_CUDA.parents[1]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout


LEFT_OPEN = """
import sys, threading
import numpy as np
from fake_driver import FakeDriver, StandIn
from edgecrack.errors import EngineError
from edgecrack.runtime.backends.cuda import open_cuda
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec

driver, spec = FakeDriver(), ModelSpec("scnet", frame=FrameSpec(48, 64))

def use():
    global backend
    backend = TensorRtBackend(SharedEngine(spec, open_cuda(), lambda: StandIn(driver, spec.input_shape)))
    backend.submit(np.zeros(spec.input_shape, np.uint8))
    if sys.argv[1:] == ["lost"]:
        driver.fail("cuStreamSynchronize", 1, 999, forever=True)
        try:
            backend.collect()
        except EngineError as error:
            print(error)

thread = threading.Thread(target=use)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("lost", [[], ["lost"]], ids=["", "lost"])
def test_a_process_ends_well_with_a_model_left_open_and_with_a_gpu_that_was_lost(fake_cuda, library, lost):
    needs(library)
    command = [sys.executable, "-c", LEFT_OPEN, *lost]
    environment = {**fake_cuda, "EDGECRACK_CUDA": library}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    words = "CUDA failed: cuStreamSynchronize says unknown error (CUDA_ERROR_UNKNOWN)\n" if lost else ""
    assert done.stdout == words
    assert not done.stderr or (library == "pycuda" and lost)  # pycuda says what it could not free


CHOOSE = """
import sys
from edgecrack.runtime.backends.cuda import open_cuda
for name in sys.argv[1:]:
    sys.modules[name] = None
cuda = open_cuda()
print(cuda.name)
cuda.close()
"""


def test_cuda_bindings_are_taken_where_both_are_installed_and_pycuda_where_it_is_alone(fake_cuda):
    for library in LIBRARIES:
        needs(library)
    environment = {key: value for key, value in fake_cuda.items() if key != "EDGECRACK_CUDA"}
    for missing, library in (([], "cuda-bindings"), (["cuda"], "pycuda")):
        done = subprocess.run(
            [sys.executable, "-c", CHOOSE, *missing], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.stdout.startswith(f"{library} "), done.stderr


@pytest.mark.parametrize(
    ("wanted", "extra"), [("auto", "tensorrt"), ("cuda-bindings", "tensorrt"), ("pycuda", "pycuda")]
)
def test_without_a_library_the_extra_is_named(wanted, extra):
    command = [sys.executable, "-c", CHOOSE.replace("open_cuda()", f"open_cuda(0, {wanted!r})"), "cuda", "pycuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgecrack.errors.MissingDependency: ")
    assert last.endswith(f"; pip install 'edgecrack[{extra}]'")


@pytest.mark.parametrize("library", LIBRARIES)
def test_without_a_driver_it_is_one_line(library):
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    needs(library)
    done = run(CHOOSE.replace("open_cuda()", f"open_cuda(0, {library!r})"), {})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        ("edgecrack.errors.EngineError: ", "edgecrack.errors.MissingDependency: ")
    )


def test_another_library_is_refused_by_name(monkeypatch):
    with pytest.raises(SpecError, match="CUDA is used through cuda-bindings or pycuda, got 'cupy'"):
        open_cuda(0, "cupy")
    monkeypatch.setenv("EDGECRACK_CUDA", "numba")
    with pytest.raises(SpecError, match="got 'numba'"):
        open_cuda()
