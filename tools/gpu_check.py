"""Check what works on this machine's NVIDIA GPU, as one page to paste into a report: `make gpu-check`.

For each installed CUDA library: copies, bandwidth, streams, graphs, threads, and 10,000 frames without memory growth,
through edgecrack's own backend with a small kernel in place of a net. Then TensorRT, if installed: a shipped net, or
the ONNX of --onnx if there is no torch to export one, is built and run end to end, and its output compared with ONNX
Runtime's. Then the same graph on this GPU with ONNX Runtime and torch, if installed. What could not be run is marked
"not run" and counted in the last line. The exit status is 1 if something failed.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from gpu_answers import Images, compare, onnxruntime_on_cuda, torch_has_cuda, torch_on_cuda
from gpu_kernel import KernelContext
from gpu_page import VERDICTS, Page, expect
from gpu_rates import bare_rate, latencies, mean, noise, rates, seconds

from edgecrack.cli.checks import version_of
from edgecrack.cuda_probe import Gpu, probe
from edgecrack.errors import EdgecrackError, EngineError
from edgecrack.fitting import with_pixels
from edgecrack.runtime import CrackDetector, open_engine
from edgecrack.runtime.backends.cuda import LIBRARIES, Cuda, open_cuda
from edgecrack.runtime.backends.tensorrt import ExecutionContext, SharedEngine, TensorRtBackend
from edgecrack.spec import FrameSpec, ModelSpec

PACKAGES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
NET = "scnet"
BLOCK = 64 << 20  # bytes of a large copy
LIMIT = 1800  # seconds for one part of the page
NO_NET = "there is no torch to export a shipped net: make gpu-check ONNX=FILE"
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack and NVIDIA's packages install it, not on PATH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, help="the model to build, where there is no torch to export a shipped one")
    parser.add_argument("--iterations", type=int, default=10_000, help="frames after which nothing may have grown")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # of the page, for the child that prints it
    options = parser.parse_args()
    if options.part:
        parts = {"tensorrt": tensorrt_part, "others": others_part}
        make = parts.get(options.part)
        failed = make(options.onnx) if make else library_part(options.part, options.iterations)
        sys.exit(int(failed > 0))
    try:
        gpu = probe()
    except EngineError as error:
        print(f"NOT RUN  no GPU: {error}")
        sys.exit(1)
    print_machine(gpu)
    arguments = [f"--iterations={options.iterations}", *([f"--onnx={options.onnx}"] if options.onnx else [])]
    found = Counter[str]()
    for part in (*LIBRARIES, "tensorrt", "others"):
        found += run_part(part, arguments)
    print("\n" + ", ".join(f"{found[verdict]} {words}" for verdict, words in VERDICTS.items()))
    sys.exit(int(found["FAIL"] > 0))


def run_part(part: str, arguments: list[str]) -> Counter[str]:
    """Print a part of the page, made in a separate process, a crash of which is a line too; returns verdict counts."""
    found = Counter[str]()
    command = [sys.executable, __file__, "--part", part, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        timer = threading.Timer(LIMIT, process.kill)
        timer.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            found[line[:8].strip()] += 1
        timer.cancel()
    if process.returncode not in (0, 1) or (process.returncode and not found["FAIL"]):  # a traceback ends with 1 too
        print(f"FAIL     {part} ended with {process.returncode}")
        found["FAIL"] += 1
    return found


def print_machine(gpu: Gpu) -> None:
    print(f"edgecrack {version('edgecrack')}, Python {platform.python_version()}, {platform.platform()}")
    kind = "shares its memory with the CPU" if gpu.integrated else "has memory of its own"
    print(f"{gpu.name}, compute capability {gpu.compute_capability}, driver of CUDA {gpu.cuda}, {kind}")
    packages = ("cuda-bindings", "pycuda", "tensorrt", "tensorrt-rtx", "numpy", "torch")
    print(", ".join(f"{package} {version_of(package)}" for package in packages), flush=True)


# --- a CUDA library, with a kernel in place of a net


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
    """Check one CUDA library; returns how many checks failed."""
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
    engine.acquire()
    one, two = bare_rate(engine, lanes=1), bare_rate(engine, lanes=2)
    engine.release()
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
    def right(detector: CrackDetector, first: int) -> int:
        seeds = range(first, first + 20)
        return sum(np.array_equal(detector.run(noise(seed)).probability, mean(noise(seed))) for seed in seeds)

    with kernel_backend() as backend:
        detectors = [CrackDetector(backend)]
        detectors += [detectors[0].clone() for _ in range(3)]
        with ThreadPoolExecutor(len(detectors)) as pool:
            count = sum(pool.map(right, detectors, range(0, 400, 100)))  # raises what a thread raised
        for detector in detectors[1:]:
            detector.close()
    return expect(count == 80, f"4 threads, one engine, {count} right answers of 80")


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
    if probe().integrated:
        text, device = f"{text} (a GPU that shares the host's memory: all of the machine's, and no verdict)", 0
    return expect(host < 4 << 20 and device < 4 << 20 and objects < 200, text)


def footprint(cuda: Cuda) -> tuple[int, int, int]:
    """(bytes of host memory, bytes of GPU memory, number of Python objects)."""
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
    """Check TensorRT; returns how many checks failed."""
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
        page.print("not run", "everything", NO_NET)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine, graph = folder / "net.engine", onnx or folder / f"{NET}.int8-fp16.onnx"
        if not onnx:
            page.check("export", lambda: export(folder, "--int8", "--fp16"))
        page.check("build", lambda: build(engine, graph, flavour))
        if page.failed:
            page.print("not run", "answers and end to end", "there is no engine")
            return page.failed
        if find_spec("onnxruntime"):
            page.check("answers", lambda: check_engine_answers(engine, graph))
        else:
            page.print(
                "not run", "answers", "ONNX Runtime is not installed, to compare them with: pip install onnxruntime"
            )
        trtexec = shutil.which("trtexec") or shutil.which(TRTEXEC)
        bare = trtexec if flavour == "tensorrt" else None
        page.check("end to end", lambda: check_engine(engine, bare))
    return page.failed


def export(folder: Path, *options: str) -> str:
    run_edgecrack("export", "--model", NET, *options, "-o", str(folder))
    return f"{NET} {' '.join(options)}"


def build(engine: Path, onnx: Path, flavour: str) -> str:
    """Build the engine for this GPU with the command line."""
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


def check_engine(engine: Path, trtexec: str | None) -> str:
    bare = trtexec_rate(trtexec, engine) if trtexec else None
    backend = open_engine(engine)
    try:
        return rates(backend, bare)
    finally:
        backend.close()


def trtexec_rate(trtexec: str, engine: Path) -> float:
    """Batches per second of the engine by NVIDIA's own tool: with two streams, graphs and copies, as here."""
    command = [trtexec, f"--loadEngine={engine}", "--infStreams=2", "--useCudaGraph"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    found = re.search(r"Throughput: ([\d.]+) qps", done.stdout)
    if done.returncode or not found:
        raise EngineError(f"trtexec ended with {done.returncode} and no throughput")
    return float(found[1])


def check_engine_answers(engine: Path, onnx: Path) -> str:
    backend = open_engine(engine)
    try:
        return check_answers(backend, onnx)
    finally:
        backend.close()


def check_answers(backend: TensorRtBackend, onnx: Path) -> str:
    def answer(frames: Images) -> Images:
        backend.submit(np.ascontiguousarray([with_pixels(image, backend.spec.pixels) for image in frames]))
        return backend.collect()

    return compare(answer, onnx)


# --- other libraries


def others_part(onnx: Path | None) -> int:
    """Check ONNX Runtime and torch on the GPU; returns how many checks failed."""
    page = Page("The graph on this GPU by other libraries")
    if not find_spec("onnxruntime"):
        page.print("not run", "everything", "ONNX Runtime is not installed, to compare with: pip install onnxruntime")
        return 0
    if not onnx and not find_spec("torch"):
        page.print("not run", "everything", NO_NET)
        return 0
    with tempfile.TemporaryDirectory() as name:
        graph = onnx or Path(name) / f"{NET}.onnx"
        if not onnx:
            page.check("export", lambda: export(Path(name)))
        if page.failed:
            page.print("not run", "answers", "there is no graph")
            return page.failed
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            page.check("ONNX Runtime's CUDA", lambda: compare(onnxruntime_on_cuda(graph), graph))
        else:
            page.print("not run", "ONNX Runtime's CUDA", "this ONNX Runtime is without it: pip install onnxruntime-gpu")
        if onnx:
            page.print("not run", "torch's CUDA", "the net of an ONNX file is not known")
        elif not torch_has_cuda():
            page.print("not run", "torch's CUDA", "this torch is without it, or cannot use this GPU")
        else:
            page.check("torch's CUDA", lambda: compare(torch_on_cuda(NET), graph))
    return page.failed


if __name__ == "__main__":
    try:
        main()
    except EdgecrackError as error:
        sys.exit(f"gpu_check: {error}")
