"""What needs a real GPU: every line of `make gpu-check`, with the libraries that are installed here."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgecrack.cuda_probe import probe
from edgecrack.errors import EngineError

pytestmark = pytest.mark.gpu
CHECK = Path(__file__).parents[2] / "tools" / "gpu_check.py"
PACKAGES = {"cuda-bindings": ("cuda",), "pycuda": ("pycuda",), "tensorrt": ("tensorrt", "tensorrt_rtx")}


@pytest.fixture(scope="module")
def gpu():
    try:
        return probe()
    except EngineError as error:
        pytest.skip(f"no GPU: {error}")


@pytest.mark.parametrize("part", PACKAGES)
def test_every_line_passes(gpu, part):
    if not any(find_spec(package) for package in PACKAGES[part]):
        pytest.skip(f"{' and '.join(PACKAGES[part])} not installed")
    done = subprocess.run([sys.executable, CHECK, "--part", part], capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
