"""A drive, one measured pass through a source, in a separate process, so that memory and CPU share are its own.

`python -m edgecrack.speed.drive ORDER` is that process: ORDER is an `Order` as JSON, its output a `Drive` as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import cv2

from edgecrack.errors import SourceError
from edgecrack.runtime import CrackDetector, Frame, JsonLines, OverlayVideo, Sink, open_source
from edgecrack.speed.power import MeanPower

STAGES = ("decode", "preprocess", "net", "postprocess", "log")
_AHEAD = 4  # frames decoded before they are processed: decoder threads go on working after a frame is out


@dataclass(frozen=True)
class Order:
    """What to measure in a drive.

    Attributes:
        model: the model file.
        source: a video or images.
        frames: maximum number of frames.
        way: "stages" processes one frame after another and times each stage; "log" streams frames to lines of JSON;
            "overlay" also writes a video.
        backend: as `CrackDetector` takes it.
        device: as `CrackDetector` takes it.
    """

    model: str
    source: str
    frames: int
    way: str
    backend: str = "auto"
    device: int = 0


@dataclass(frozen=True)
class Drive:
    """The measurements of a drive.

    Attributes:
        fps: frames per second, from opening the source to the last line, without loading the model and a first frame.
        milliseconds: per frame, by stage, where "host" is all that is neither decoder nor net; for a stream "end to
            end", from leaving the decoder to being written.
        cpu_share: share of all cores, 0..1.
        peak_memory_mb: peak resident memory of the process.
        power_w: mean power by a Jetson's monitors; None if there are none.
    """

    fps: float
    milliseconds: dict[str, list[float]]
    cpu_share: float
    peak_memory_mb: float
    power_w: float | None


def drive(order: Order) -> Drive:
    """Run a drive in a separate process. Raises SourceError with its last line of output when it fails."""
    command = [sys.executable, "-m", "edgecrack.speed.drive", json.dumps(asdict(order))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SourceError((done.stderr.strip().splitlines() or ["the process that measures failed"])[-1])
    return Drive(**json.loads(done.stdout.splitlines()[-1]))


def driven(order: Order) -> Drive:
    """Run a drive in this process. Raises EngineError, FrameError, SourceError and MissingDependency."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        alone = order.way == "stages"
        hint = "latency" if alone else "throughput"  # as `edgecrack run` takes files
        detector = stack.enter_context(
            CrackDetector(order.model, backend=order.backend, device=order.device, hint=hint)
        )
        for frame in first_frames(order.source, 1):  # the slowest
            _ = detector.run(frame.image).crack_pixels
        sinks: list[Sink] = []
        if order.way == "overlay":
            sinks.append(stack.enter_context(OverlayVideo(folder / "overlay.mp4", 30)))
        sinks.append(stack.enter_context(JsonLines(folder / "log.jsonl")))
        if not alone and detector.backend.name != "tensorrt":
            cv2.setNumThreads(1)  # as `edgecrack run` does
        take = _one_by_one if alone else _streamed
        with MeanPower() as power:
            start, cpu = perf_counter(), process_time()
            milliseconds = take(detector, first_frames(order.source, order.frames), sinks)
            seconds, cpu = perf_counter() - start, process_time() - cpu
    return Drive(
        fps=max(map(len, milliseconds.values())) / seconds,
        milliseconds=milliseconds,
        cpu_share=cpu / seconds / len(os.sched_getaffinity(0)),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        power_w=power.watts,
    )


def first_frames(source: str, count: int) -> Iterator[Frame]:
    """The first `count` frames of a video or of images. Raises SourceError."""
    with open_source(source) as opened:
        yield from islice(opened, count)


def _streamed(detector: CrackDetector, frames: Iterator[Frame], sinks: list[Sink]) -> dict[str, list[float]]:
    came: dict[int, float] = {}

    def noted() -> Iterator[Frame]:
        for frame in frames:
            came[frame.index] = perf_counter()
            yield frame

    ages = []
    with closing(detector.stream(noted())) as stream:
        for frame, detection in stream:
            for sink in sinks:
                sink.write(frame, detection)
            ages.append(1e3 * (perf_counter() - came.pop(frame.index)))
    return {"end to end": ages}


def _one_by_one(detector: CrackDetector, frames: Iterator[Frame], sinks: list[Sink]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "host")}
    while ahead := list(_decoded(islice(frames, _AHEAD))):
        for decode, frame in ahead:
            came = perf_counter()
            detection = detector.run(frame.image)
            answered = perf_counter()
            for sink in sinks:
                sink.write(frame, detection)
            written, speed = perf_counter(), detection.speed
            log, host = 1e3 * (written - answered) - speed["postprocess"], 1e3 * (written - came) - speed["inference"]
            spent = (decode, speed["preprocess"], speed["inference"], speed["postprocess"], log, host)
            for milliseconds, value in zip(found.values(), spent, strict=True):
                milliseconds.append(value)
    return found


def _decoded(frames: Iterable[Frame]) -> Iterator[tuple[float, Frame]]:
    """Each frame with its decoding time in milliseconds."""
    asked = perf_counter()
    for frame in frames:
        yield 1e3 * (perf_counter() - asked), frame
        asked = perf_counter()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(driven(Order(**json.loads(sys.argv[1]))))) + "\n")
