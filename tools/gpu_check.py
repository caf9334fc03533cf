"""What works on this machine's NVIDIA GPU, as one page to paste into a report: `make gpu-check`.

For each CUDA library that is installed: copies, bandwidth, streams, graphs, threads, 10,000 frames without growth, through
edgecrack's own backend with a small kernel in the place of a net. Then TensorRT, if it is installed: a shipped net, or the
ONNX of --onnx where there is no torch to export one, is built and run end to end. Ends with 1 when something failed.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import islice, repeat
from pathlib import Path
from time import perf_counter

import numpy as np
from gpu_kernel import KernelContext
from numpy.typing import NDArray

from edgecrack.cuda_probe import Gpu, probe
from edgecrack.errors import EdgecrackError, EngineError
from edgecrack.runtime import CrackDetector, open_engine
from edgecrack.runtime.backends.cuda import LIBRARIES, Cuda, capture, open_cuda
from edgecrack.runtime.backends.tensorrt import ExecutionContext, SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec

PACKAGES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
NET = "scnet"
BLOCK = 64 << 20  # bytes of a large copy
RATE, JITTER = 0.90, 1.3  # end to end against the bare engine, at least; p99 against p50, at most
LIMIT = 1800  # seconds for one part of the page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, help="the model to build, where there is no torch to export a shipped one")
    parser.add_argument("--iterations", type=int, default=10_000, help="frames after which nothing may have grown")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of the page, for the child that prints it
    options = parser.parse_args()
    if options.part:
        failed = (
            tensorrt_part(options.onnx)
            if options.part == "tensorrt"
            else library_part(options.part, options.iterations)
        )
        sys.exit(int(failed > 0))
    try:
        gpu = probe()
    except EngineError as error:
        print(f"NOT RUN  no GPU: {error}")
        sys.exit(1)
    print_machine(gpu)
    arguments = [f"--iterations={options.iterations}", *([f"--onnx={options.onnx}"] if options.onnx else [])]
    codes = [run_part(part, arguments) for part in (*LIBRARIES, "tensorrt")]
    sys.exit(int(any(codes)))


def run_part(part: str, arguments: list[str]) -> int:
    """In a process of its own, whose crash is a line too."""
    command = [sys.executable, __file__, "--part", part, *arguments]
    try:
        code = subprocess.run(command, timeout=LIMIT).returncode
    except subprocess.TimeoutExpired:
        code = -1
    if code not in (0, 1):
        print(f"FAIL     {part} ended with {code}")
    return code


def print_machine(gpu: Gpu) -> None:
    print(f"edgecrack {version('edgecrack')}, Python {platform.python_version()}, {platform.platform()}")
    kind = "shares its memory with the CPU" if gpu.integrated else "has memory of its own"
    print(f"{gpu.name}, compute capability {gpu.compute_capability}, driver of CUDA {gpu.cuda}, {kind}")
    packages = ("cuda-bindings", "pycuda", "tensorrt", "tensorrt-rtx", "numpy", "torch")
    print(", ".join(f"{package} {version_of(package)}" for package in packages), flush=True)


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


class Page:
    """Lines with a verdict each."""

    def __init__(self, title: str) -> None:
        self.failed = 0
        print(f"\n{title}", flush=True)

    def check(self, name: str, work: Callable[[], str]) -> None:
        """What `work` returns is printed; what it raises is a failure."""
        try:
            verdict, text = "pass", work()
        except Exception as error:  # the page is to come out whole
            verdict, text = "FAIL", f"{type(error).__name__}: {error}"
            self.failed += 1
        self.print(verdict, name, text)

    def print(self, verdict: str, name: str, text: str) -> None:
        print(f"{verdict:<8} {name:<28} {text}", flush=True)


def expect(holds: bool, text: str) -> str:
    """`text`; raises AssertionError with it unless it `holds`."""
    if not holds:
        raise AssertionError(text)
    return text


# --- a CUDA library, with a kernel in the place of a net


def kernel_engine(frame: FrameSpec, rounds: int = 1) -> SharedEngine:
    spec, contexts = ModelSpec(NET, frame=frame), list[KernelContext]()

    def make() -> ExecutionContext:
        contexts.append(KernelContext(spec.input_shape, rounds))
        return contexts[-1]

    def release() -> None:
        for context in contexts:
            context.unload()

    return SharedEngine(spec, open_cuda(), make, release)


@contextmanager
def kernel_backend(rounds: int = 1, **options: bool) -> Iterator[TensorRtBackend]:
    backend = TensorRtBackend(kernel_engine(FrameSpec(512, 512), rounds), **options)
    try:
        yield backend
    finally:
        backend.close()


def library_part(library: str, iterations: int) -> int:
    """How many checks failed."""
    page = Page(library)
    if not find_spec(PACKAGES[library]):
        page.print("not run", "everything", "it is not installed")
        return 0
    os.environ["EDGECRACK_CUDA"] = library
    page.check("copies and bandwidth", check_copies)
    page.check("two streams", check_streams)
    for zero_copy in (False, True):
        way = "zero copy" if zero_copy else "upload and download"
        page.check(f"graph, {way}", lambda way=zero_copy: check_graph(zero_copy=way))  # type: ignore[misc]
    page.check("threads", check_threads)
    page.check(f"{iterations} frames", lambda: check_growth(iterations))
    page.check("end to end, a kernel", check_kernel_rate)
    return page.failed


def check_copies() -> str:
    cuda = open_cuda()
    with cuda.current(), ExitStack() as stack:
        stream = cuda.stream()
        stack.callback(cuda.destroy_stream, stream)
        there = cuda.allocate(BLOCK)
        stack.callback(cuda.free, there)
        sent, received = cuda.pin(BLOCK), cuda.pin(BLOCK)
        for pinned in (sent, received):
            stack.callback(cuda.unpin, pinned)
        sent.array[:] = np.random.default_rng(0).integers(0, 256, BLOCK, np.uint8)
        up = gigabytes_a_second(cuda, stream, lambda: cuda.upload(there, sent, stream))
        down = gigabytes_a_second(cuda, stream, lambda: cuda.download(received, there, stream))
        same = np.array_equal(sent.array, received.array)
    cuda.close()
    return expect(same, f"{'the same' if same else 'not the same'}; pinned: {up:.1f} GB/s up, {down:.1f} GB/s down")


def gigabytes_a_second(cuda: Cuda, stream: int, copy: Callable[[], None]) -> float:
    def copies() -> None:
        for _ in range(10):
            copy()
        cuda.synchronise(stream)

    copies()
    return 10 * BLOCK / seconds(copies) / 1e9


def check_streams() -> str:
    engine = kernel_engine(FrameSpec(512, 512), rounds=64)
    engine.hold()
    one, two = bare_rate(engine, lanes=1), bare_rate(engine, lanes=2)
    engine.let_go()
    return expect(two > 0.9 * one, f"{two / one:.2f} times the rate of one stream")


def check_graph(*, zero_copy: bool) -> str:
    images = [noise(seed) for seed in range(5)]
    times = []
    for graphs in (True, False):
        with kernel_backend(graphs=graphs, zero_copy=zero_copy) as backend:
            expect(backend.captured is graphs, "captured" if backend.captured else "could not be captured")
            detector = CrackDetector(backend)
            right = all(np.array_equal(detector.run(image).probability, mean(image)) for image in images)
            expect(right, f"wrong answers with graphs={graphs}")
            times.append(statistics.median(latencies(detector, images[0], 500)))
    graph, plain = times
    return f"right; {1e6 * graph:.0f} us a frame as a graph, {1e6 * plain:.0f} us launched piece by piece"


def check_threads() -> str:
    wrong: list[int] = []

    def work(detector: CrackDetector, first: int) -> None:
        for seed in range(first, first + 20):
            if not np.array_equal(detector.run(noise(seed)).probability, mean(noise(seed))):
                wrong.append(seed)

    with kernel_backend() as backend:
        detectors = [CrackDetector(backend)]
        detectors += [detectors[0].clone() for _ in range(3)]
        threads = [threading.Thread(target=work, args=(each, 100 * index)) for index, each in enumerate(detectors)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for detector in detectors[1:]:
            detector.close()
    return expect(not wrong, f"4 threads, one engine, {len(wrong)} wrong answers of 80")


def check_growth(iterations: int) -> str:
    with kernel_backend() as backend:
        detector = CrackDetector(backend)
        image = noise(0)
        latencies(detector, image, 1000)
        before = footprint(backend.engine.cuda)
        latencies(detector, image, iterations)
        grown = [after - start for start, after in zip(before, footprint(backend.engine.cuda), strict=True)]
    host, device, objects = grown
    text = f"host {host / 2**20:+.1f} MiB, GPU {device / 2**20:+.1f} MiB, Python objects {objects:+d}"
    return expect(host < 4 << 20 and device <= 0 and objects < 200, text)


def footprint(cuda: Cuda) -> tuple[int, int, int]:
    """Bytes of the host, bytes of the GPU, Python objects."""
    gc.collect()
    with cuda.current():
        free, total = cuda.memory()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resident, total - free, len(gc.get_objects())


def check_kernel_rate() -> str:
    with kernel_backend(rounds=1024) as backend:
        return rates(backend)


# --- TensorRT


def tensorrt_part(onnx: Path | None) -> int:
    """How many checks failed."""
    page = Page("TensorRT")
    flavour = next((name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)), None)
    if not flavour:
        page.print(
            "not run",
            "everything",
            "TensorRT is not installed: pip install 'edgecrack[tensorrt-pip]' or 'edgecrack[rtx]'",
        )
        return 0
    if not onnx and not find_spec("torch"):
        page.print("not run", "everything", "there is no torch to export a shipped net: give --onnx FILE")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "net.engine"
        page.check("build", lambda: build(engine, onnx, flavour))
        if page.failed:
            page.print("not run", "end to end", "there is no engine")
        else:
            page.check("end to end", lambda: check_engine(engine))
    return page.failed


def build(engine: Path, onnx: Path | None, flavour: str) -> str:
    """The engine, for this GPU: the command line does it."""
    if not onnx:
        run_edgecrack("export", "--model", NET, "--int8", "--fp16", "-o", str(engine.parent))
        onnx = engine.with_name(f"{NET}.int8-fp16.onnx")
    capability = probe().compute_capability.replace(".", "")
    for_ = ["--for", f"sm{capability}"] if flavour == "tensorrt_rtx" else []
    start = perf_counter()
    run_edgecrack("build", str(onnx), "-o", str(engine), *for_)
    return f"{onnx.name} by {flavour} {version_of(flavour.replace('_', '-'))} in {perf_counter() - start:.0f} s"


def run_edgecrack(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgecrack", *arguments], capture_output=True, text=True, timeout=LIMIT
    )
    if done.returncode:
        raise EngineError((done.stderr.splitlines() or ["no words"])[-1])


def check_engine(engine: Path) -> str:
    backend = open_engine(engine)
    try:
        return rates(backend)
    finally:
        backend.close()


# --- measures


def rates(backend: TensorRtBackend, frames: int = 500) -> str:
    """Frames a second end to end and bare, and how long one takes."""
    size = backend.spec.input_frame
    image = noise(0, size.height, size.width)
    detector = CrackDetector(backend)
    bare = bare_rate(backend.engine)

    def stream() -> None:
        for _ in detector.stream(islice(repeat(image), frames)):
            pass

    stream()
    rate = frames / seconds(stream)
    times = sorted(latencies(detector, image, frames))
    middle, late = times[len(times) // 2], times[int(0.99 * len(times))]
    text = (
        f"{rate:.0f} frames/s, {rate / bare:.2f} of the captured graph alone ({bare:.0f}); "
        f"p50 {1e3 * middle:.2f} ms, p99 {1e3 * late:.2f} ms, ratio {late / middle:.2f}"
    )
    return expect(rate >= RATE * bare and late <= JITTER * middle, text)


def bare_rate(engine: SharedEngine, lanes: int = 2, frames: int = 500) -> float:
    """Frames a second of upload, net and download alone, as graphs in `lanes` streams that take turns."""
    cuda = engine.cuda
    with cuda.current(), ExitStack() as stack:
        tracks = [lane(stack, engine) for _ in range(lanes)]

        def run() -> None:
            for index in range(frames + lanes):
                stream, executable = tracks[index % lanes]
                cuda.synchronise(stream)
                if index < frames:
                    cuda.launch(executable, stream)

        run()
        return frames / seconds(run)


def lane(stack: ExitStack, engine: SharedEngine) -> tuple[int, int]:
    """A stream, and what launches a frame in it."""
    cuda, context, shape = engine.cuda, engine.context(), engine.spec.input_shape
    stream = cuda.stream()
    stack.callback(cuda.destroy_stream, stream)
    ends = []
    for name, size in (("frames", int(np.prod(shape))), ("probability", int(np.prod(shape[:3])))):
        pinned, there = cuda.pin(size), cuda.allocate(size)
        stack.callback(cuda.unpin, pinned)
        stack.callback(cuda.free, there)
        pinned.array.fill(0)
        context.set_tensor_address(name, there)
        ends.append((pinned, there))
    (frames, frames_there), (answers, answers_there) = ends

    def work() -> None:
        cuda.upload(frames_there, frames, stream)
        if not context.execute_async_v3(stream):
            raise EngineError("TensorRT cannot start on a frame")
        cuda.download(answers, answers_there, stream)

    work()
    cuda.synchronise(stream)
    executable = capture(cuda, stream, work)
    stack.callback(cuda.destroy_executable, executable)
    return stream, executable


def seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def latencies(detector: CrackDetector, image: NDArray[np.uint8], count: int) -> list[float]:
    """Seconds of each `run`."""
    return [seconds(lambda: void(detector.run(image))) for _ in range(count)]


def void(_: object) -> None: ...


def noise(seed: int, height: int = 512, width: int = 512) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mean(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    means: NDArray[np.uint8] = (image.sum(2, dtype=np.uint32) // 3).astype(np.uint8)
    return means


if __name__ == "__main__":
    try:
        main()
    except EdgecrackError as error:
        sys.exit(f"gpu_check: {error}")
