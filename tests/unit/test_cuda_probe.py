"""The driver is asked what there is, on a driver of a few lines that answers what the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static int say(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }
int cuDriverGetVersion(int *version) { *version = say("VERSION", 13020); return 0; }
int cuInit(unsigned flags) { return say("INIT", 0); }
int cuDeviceGetCount(int *count) { *count = say("COUNT", 2); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 41 ? "Orin" : "RTX", length); return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 && device == 41 ? 7 : 9; return 0;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == 100 ? "no CUDA-capable device is detected" : 0; return code != 100;
}
"""
CODE = """
import sys
from edgecrack.cuda_probe import probe
from edgecrack.errors import EngineError
try:
    print(probe(int(sys.argv[1])))
except EngineError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fake libcuda.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True)
    return folder


def asked(device: int, folder: Path, **environment: str) -> str:
    """What `probe` answers, in a process of its own: one line."""
    variables = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    command = [sys.executable, "-c", CODE, str(device)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def test_a_gpu_is_described_by_the_driver(driver: Path) -> None:
    assert asked(1, driver) == "Gpu(index=1, name='Orin', compute_capability='8.7', cuda='13.2')"
    assert asked(0, driver, VERSION="12060") == "Gpu(index=0, name='RTX', compute_capability='8.9', cuda='12.6')"


@pytest.mark.parametrize(
    ("device", "environment", "words"),
    [
        (2, {}, "no GPU 2: CUDA shows 2, counted from 0"),
        (-1, {}, "no GPU -1"),
        (0, {"COUNT": "0"}, "no GPU 0: CUDA shows 0"),
        (0, {"VERSION": "11040"}, "too old: it speaks CUDA 11.4, wanted 12.0 or newer"),
        (0, {"INIT": "100"}, "cuInit says no CUDA-capable device is detected (100)"),
        (0, {"INIT": "999"}, "cuInit says unknown error (999)"),
    ],
)
def test_what_cannot_be_used_is_one_line(driver: Path, device: int, environment: dict[str, str], words: str) -> None:
    assert words in asked(device, driver, **environment)


def test_a_broken_library_is_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"junk")
    assert asked(0, tmp_path).startswith("no CUDA driver: ")
