"""Measure the host's cost of a frame in the TensorRT backend: `python benchmarks/host_cost.py`.

Needs a C compiler, but no GPU: the driver is the one in tests/fake_cuda, whose own time is subtracted, and a kernel of
it stands in for TensorRT. So this is the cost of the Python code and the two copies, into pinned memory and out of it,
without that of a driver or a GPU. The exit status is 1 if a frame costs more than the bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from time import perf_counter_ns

import numpy as np

from edgecrack.runtime.backends.cuda import LIBRARIES, LIBRARY_VARIABLE, open_cuda
from edgecrack.runtime.backends.tensorrt import SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec

FAKE_CUDA = Path(__file__).parents[1] / "tests" / "fake_cuda"
sys.path.insert(0, str(FAKE_CUDA))
from fake_driver import FakeDriver, StandIn, build  # noqa: E402

PACKAGES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
WARM_UP, FRAMES = 200, 2000
BOUND = 150  # microseconds per frame of 512x512, for the median including the copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--driver", type=Path, help=argparse.SUPPRESS)  # of the child that measures itself
    options = parser.parse_args()
    frame = FrameSpec.parse(options.size)
    if options.driver:
        sys.exit(int(not measure_all(FakeDriver(options.driver), frame)))
    print(f"host cost of a frame of {frame}, the driver's time subtracted; {FRAMES} frames after {WARM_UP}")
    print(f"the two copies alone: {copies_alone(frame):.0f} us")
    codes = []
    with tempfile.TemporaryDirectory() as name:
        driver = build(Path(name))
        for library in LIBRARIES:
            if not find_spec(PACKAGES[library]):
                print(f"{library}: not installed")
                continue
            command = [sys.executable, __file__, "--size", options.size, "--driver", str(driver)]
            environment = {**os.environ, LIBRARY_VARIABLE: library, "OMP_NUM_THREADS": "1"}
            environment["LD_LIBRARY_PATH"] = str(driver.parent)
            codes.append(subprocess.run(command, env=environment).returncode)
    sys.exit(int(any(codes)))


def measure_all(driver: FakeDriver, frame: FrameSpec) -> bool:
    """Print a line for each way to launch, with this process's library; returns whether all are within the bound."""
    within, bound = True, BOUND * frame.height * frame.width / (512 * 512)
    spec = ModelSpec("scnet", frame=frame)
    for graphs, zero_copy in product((True, False), (False, True)):
        cuda = open_cuda()
        engine = SharedEngine(spec, cuda, lambda: StandIn(driver, spec.input_shape))
        backend = TensorRtBackend(engine, graphs=graphs, zero_copy=zero_copy)
        ways = f"{'graph' if backend.captured else 'plain launches'}, {'zero copy' if zero_copy else 'upload and download'}"
        median, text = measure(backend, driver)
        print(f"{cuda.name}, {ways}: {text}; {'within' if median <= bound else 'OVER'} the bound of {bound:.0f} us")
        within = within and median <= bound
        backend.close()
    return within


def measure(backend: TensorRtBackend, driver: FakeDriver) -> tuple[float, str]:
    """Median microseconds per frame, two frames in flight; and text with that, the 99th percentile and allocations."""
    frames = np.random.default_rng(0).integers(0, 256, backend.spec.input_shape, np.uint8)
    costs: list[float] = []
    allocations = 0
    backend.submit(frames)
    for index in range(WARM_UP + FRAMES):
        if index == WARM_UP:
            allocations = driver.allocations
        start, inside = perf_counter_ns(), driver.nanoseconds
        backend.submit(frames)
        answer = backend.collect()
        costs.append((perf_counter_ns() - start - (driver.nanoseconds - inside)) / 1e3)
    allocations = driver.allocations - allocations
    tracemalloc.start()
    backend.submit(frames)
    backend.collect()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    backend.collect()
    costs = costs[WARM_UP:]
    median = statistics.median(costs)
    return median, (
        f"{median:.0f} us, p99 {statistics.quantiles(costs, n=100)[98]:.0f} us; {allocations} allocations "
        f"by the driver; {peak - answer.nbytes} bytes at most besides the answer"
    )


def copies_alone(frame: FrameSpec) -> float:
    """Median microseconds to copy a frame in and its result out, with numpy."""
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (frame.height, frame.width, 3), np.uint8)
    pinned, answer = np.empty_like(given), given[..., 0].copy()
    costs = []
    for _ in range(FRAMES):
        start = perf_counter_ns()
        np.copyto(pinned, given)
        answer.copy()
        costs.append((perf_counter_ns() - start) / 1e3)
    return statistics.median(costs)


if __name__ == "__main__":
    main()
