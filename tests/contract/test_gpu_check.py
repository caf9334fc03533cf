"""The page of `make gpu-check` on the driver in tests/fake_cuda: all that is not a measure of speed has to pass there too."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "tools" / "gpu_check.py"
LINES = ("copies and bandwidth", "graph, upload and download", "graph, zero copy", "threads", "500 frames")


def page(environment, *options):
    command = [sys.executable, CHECK, *options]
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize(("library", "package"), [("cuda-bindings", "cuda"), ("pycuda", "pycuda")])
def test_a_cuda_library_passes(fake_cuda, library, package):
    if not find_spec(package):
        pytest.skip(f"{library} is not installed")
    done = page(fake_cuda, "--part", library, "--iterations", "500")
    verdicts = {line[9:37].strip(): line[:8].strip() for line in done.stdout.splitlines()[2:]}
    assert {name: verdicts.get(name) for name in LINES} == dict.fromkeys(LINES, "pass"), done.stdout + done.stderr
    assert {"two streams", "end to end, a kernel"} <= set(verdicts)


def test_what_fails_is_a_line_and_an_exit_code(fake_cuda):
    if not find_spec("cuda"):
        pytest.skip("cuda-bindings are not installed")
    done = page(
        {**fake_cuda, "FAKE_CUDA_FAIL": "cuStreamCreate:1:999:lost"}, "--part", "cuda-bindings", "--iterations", "500"
    )
    lines = done.stdout.splitlines()[2:]
    assert done.returncode == 1
    assert len(lines) == len(LINES) + 2
    assert all(line.startswith("FAIL ") and "CUDA_ERROR_UNKNOWN" in line for line in lines)


def test_without_a_gpu_it_says_so():
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has a driver")
    done = page({})
    assert done.returncode == 1
    assert done.stdout.startswith("NOT RUN  no GPU: no CUDA driver")
