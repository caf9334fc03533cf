"""The driver is asked what there is, on a driver of a few lines that answers what the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = r"""
#include <stdio.h>
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
    *value = attribute == 18 ? device == 41 : attribute == 16 ? 8 * device - 312
        : attribute == 75 ? 8 : device == 41 ? 7 : 9; return 0;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    printf("retain %d\n", device); *context = (void *)0x700000000 + device; return 0;
}
int cuCtxPushCurrent_v2(void *context) { printf("push %p\n", context); return say("PUSH", 0); }
int cuCtxPopCurrent_v2(void **context) { printf("pop\n"); return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { printf("release %d\n", device); fflush(stdout); return 0; }
int cuGetErrorString(int code, const char **text) {
    *text = code == 100 ? "no CUDA-capable device is detected" : 0; return code != 100;
}
"""
CODE = """
import sys
from edgecrack.cuda_probe import current, probe
from edgecrack.errors import EngineError
try:
    gpu = probe(int(sys.argv[1]))
    print(gpu, flush=True)
    if "current" in sys.argv:
        with current(gpu):
            raise EngineError("within")
except EngineError as error:
    print(error, flush=True)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fake libcuda.so.1."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(folder / "cuda.c")]
    subprocess.run(command, check=True)
    return folder


def lines(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """What a process of its own prints that asks the driver in `folder`."""
    variables = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def asked(device: int, folder: Path, **environment: str) -> str:
    """What `probe` answers: one line."""
    (line,) = lines(folder, str(device), **environment)
    return line


def test_a_gpu_is_described_by_the_driver(driver: Path) -> None:
    words = "Gpu(index=1, name='Orin', compute_capability='8.7', cuda='13.2', integrated=True, multiprocessors=16)"
    assert asked(1, driver) == words
    words = "Gpu(index=0, name='RTX', compute_capability='8.9', cuda='12.6', integrated=False, multiprocessors=8)"
    assert asked(0, driver, VERSION="12060") == words


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


def test_what_is_made_current_is_given_back(driver: Path) -> None:
    push = "push 0x700000029"  # a pointer keeps its upper half
    assert lines(driver, "1", "current")[1:] == ["retain 41", push, "pop", "release 41", "within"]
    words = "the CUDA driver does not work: cuCtxPushCurrent_v2 says unknown error (201)"
    assert lines(driver, "1", "current", PUSH="201")[1:] == ["retain 41", push, "release 41", words]
