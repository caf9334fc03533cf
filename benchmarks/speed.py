"""Speed and memory, as ratios measured in one run: `make bench`. Run it with nothing else running.

Prints, and writes to --json: the start-up times; for each shipped net at 512x512 the frames per second of INT8 on OpenVINO
against fp32 on ONNX Runtime; the end-to-end rate over a video against 1 / (bare backend time + decode-alone time); memory while
streaming 2,000 frames. Beside each number that has a bound is the bound; ends with 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.fitting import Fit
from edgecrack.rendering import RenderedRoad
from edgecrack.runtime import CrackDetector, JsonLines, open_source
from edgecrack.runtime.backends import Backend, open_backend
from edgecrack.runtime.video import VideoWriter
from edgecrack.spec import FrameSpec

NETS = ("aelf-unet", "cacpnet", "msfnet", "scnet")
ROUNDS, CALLS = 7, 6
# the rates, at least
INT8_OVER_FP32 = {"msfnet": 1.9, "aelf-unet": 2.5, "cacpnet": 2.5, "scnet": 2.5}
END_TO_END = 0.90
# seconds and MB, at most
MOST = {"import edgecrack": 0.1, "edgecrack --help": 0.3, "memory_growth_mb": 20, "memory_mb": 500}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--memory", type=Path, nargs=2, help=argparse.SUPPRESS)  # the child that measures itself
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(*options.memory)))
        return
    found: dict[str, Any] = {"machine": machine(), "start_up_s": start_up()}
    print(json.dumps(found, indent=1), flush=True)
    missed = held("start-up", found["start_up_s"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_clip(folder / "road.mp4", 300)
        for net in options.nets.split(","):
            found[net] = measure(net, folder, clip)
            print(net, json.dumps(found[net], indent=1), flush=True)
            missed += held(net, found[net])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(int(missed > 0))


def held(what: str, numbers: dict[str, float]) -> int:
    """Print each number that has a bound, and the bound; how many miss theirs."""
    least = {"int8_over_fp32": INT8_OVER_FP32.get(what, 0.0), "end_to_end_of_limit": END_TO_END}
    missed = 0
    for name, value in numbers.items():
        if name not in least and name not in MOST:
            continue
        kept = value >= least[name] if name in least else value <= MOST[name]
        bound = f"at least {least[name]:g}" if name in least else f"at most {MOST[name]:g}"
        print(f"{'ok    ' if kept else 'MISSED'} {what} {name} {value:.3f}, wanted {bound}", flush=True)
        missed += not kept
    return missed


def measure(net: str, folder: Path, clip: Path) -> dict[str, Any]:
    """Everything about one net."""
    int8 = export(net, folder, "--int8", "--target", "cpu")
    frames = [np.ascontiguousarray(frame) for frame in fitted(clip, 12)]
    row: dict[str, Any] = {}
    with (
        closing(open_backend(int8, "openvino")) as fast,
        closing(open_backend(folder / f"{net}.onnx", "onnxruntime")) as slow,
    ):
        rates = interleaved({"int8_openvino_fps": fast, "fp32_onnxruntime_fps": slow}, frames)
        row |= rates | {"int8_over_fp32": rates["int8_openvino_fps"] / rates["fp32_onnxruntime_fps"]}
        row |= end_to_end(int8, fast, clip, frames, folder)
    command = [sys.executable, __file__, "--memory", str(int8), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row |= json.loads(done.stdout)
    return row


def interleaved(backends: dict[str, Backend], frames: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Frames per second of each backend, medians of rounds in turn, so that a slow moment of the machine hits all alike."""
    rounds: dict[str, list[float]] = {name: [] for name in backends}
    for backend in backends.values():
        rate(backend, frames)
    for _ in range(ROUNDS):
        for name, backend in backends.items():
            rounds[name].append(rate(backend, frames))
    return {name: statistics.median(values) for name, values in rounds.items()}


def rate(backend: Backend, frames: list[NDArray[np.uint8]]) -> float:
    """Frames per second with `depth` calls in flight."""
    start = time.perf_counter()
    for call in range(CALLS + backend.depth):
        if call >= backend.depth:
            backend.collect()
        if call < CALLS:
            backend.submit(frames[call % len(frames)][None])
    return CALLS / (time.perf_counter() - start)


def end_to_end(
    model: Path, bare: Backend, clip: Path, frames: list[NDArray[np.uint8]], folder: Path
) -> dict[str, float]:
    """Decode to JSON line against the sum of its parts."""
    decodes, bares, whole = [], [], []
    for _ in range(3):
        decodes.append(seconds_a_frame(lambda: sum(1 for _ in open_source(clip))))
        bares.append(1 / statistics.median(rate(bare, frames) for _ in range(3)))
        with CrackDetector(model, backend="openvino") as detector, JsonLines(folder / "log.jsonl") as log:
            whole.append(seconds_a_frame(partial(stream, detector, clip, log)))
    decode, net, all_ = (statistics.median(values) for values in (decodes, bares, whole))
    return {
        "decode_fps": 1 / decode,
        "bare_fps": 1 / net,
        "limit_fps": 1 / (net + decode),
        "end_to_end_fps": 1 / all_,
        "end_to_end_of_limit": (net + decode) / all_,
    }


def stream(detector: CrackDetector, clip: Path, log: JsonLines) -> int:
    count = 0
    for frame, detection in detector.stream(clip):
        log.write(frame, detection)
        count += 1
    return count


def seconds_a_frame(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    count = work()
    return (time.perf_counter() - start) / count


def memory(model: Path, clip: Path) -> dict[str, float]:
    """Resident memory in MB after 200 and after 2,200 frames of a video that is played over and over."""

    def frames() -> Iterator[NDArray[np.uint8]]:
        while True:
            with open_source(clip) as source:
                yield from (frame.image for frame in source)

    with CrackDetector(model, backend="openvino") as detector, tempfile.TemporaryDirectory() as folder:
        with JsonLines(Path(folder) / "log.jsonl") as log:
            for frame, detection in detector.stream(frames()):
                log.write(frame, detection)
                if frame.index == 200:
                    warm = resident()
                if frame.index == 2200:
                    break
        return {"memory_mb": resident(), "memory_growth_mb": resident() - warm}


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def start_up() -> dict[str, float]:
    """Seconds, the median of seven processes; an empty Python process is the floor."""
    code = {"python": "", "import edgecrack": "import edgecrack", "edgecrack --help": HELP}
    times: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(7):
        for name, text in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", text], stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


HELP = "from edgecrack.cli import main; main(['--help'])"


def machine() -> dict[str, str | int]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {"cpu": cpu[0].partition(":")[2].strip() if cpu else "unknown", "cores": len(os.sched_getaffinity(0))}


def export(net: str, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "edgecrack", "export", "--model", net, "-o", str(folder), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return Path(done.stdout.strip())


def write_clip(path: Path, count: int) -> Path:
    road = RenderedRoad(13, 720, 1280, view="forward")
    with VideoWriter(path, 30.0) as writer:
        for index in range(count):
            writer.write(road.frame(index)[0])
    return path


def fitted(clip: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    for frame in open_source(clip):
        if frame.index == count:
            return
        height, width = frame.image.shape[:2]
        yield Fit.of(height, width, FrameSpec(512, 512)).apply(frame.image)


if __name__ == "__main__":
    main()
