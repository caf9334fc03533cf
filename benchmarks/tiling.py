"""Compare fitting with tiling on frames larger than the net's input: `python benchmarks/tiling.py`. Prints a table.

A larger sensor gives one of two things: the same scene with more pixels on each crack ("enlarged": test frames scaled
up, and rendered 4K roads seen from above), or more of the scene with as many pixels on each crack as before ("joined":
N x N frames side by side). F1 is within 2 pixels of the large frame, at the shipped threshold.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray

from edgecrack.dataset import LabelledFrame, LabelledFrames, open_dataset
from edgecrack.evaluation import evaluate
from edgecrack.export.graph import onnx_from_model
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.rendering import DEMO_SEEDS, RenderedRoad
from edgecrack.runtime import CrackDetector, Detection
from edgecrack.runtime.tiling import Tiling, place
from edgecrack.spec import FrameSpec
from edgecrack.weights import weights_path

TIMES = (1, 2, 4)
HEAD = (
    "| frames | size | number | F1 fit | F1 tile | auto takes | tiles | s a frame, fit | tile |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Given:
    """A data set of frames in memory."""

    name: str
    frames: Sequence[LabelledFrame]
    has_masks: bool = True

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[LabelledFrame]:
        return iter(self.frames)

    def every(self, step: int) -> Given:
        return Given(self.name, self.frames[::step])


def enlarged(frames: LabelledFrames, times: int) -> Given:
    """Each frame enlarged `times` per side: the image bicubically, the mask by repetition."""
    return Given(f"{frames.name} enlarged {times}x", [_enlarged(frame, times) for frame in frames])


def _enlarged(frame: LabelledFrame, times: int) -> LabelledFrame:
    image = np.asarray(cv2.resize(frame.image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), np.uint8)
    return LabelledFrame(frame.name, image, np.asarray(frame.mask).repeat(times, 0).repeat(times, 1))


def joined(frames: LabelledFrames, times: int) -> Given:
    """Frames joined from `times` x `times` consecutive ones of the list; an incomplete rest is left out."""
    each, group = list(frames), times * times
    whole = [_joined(each[start : start + group], times) for start in range(0, len(each) - group + 1, group)]
    return Given(f"{frames.name} joined {times}x{times}", whole)


def _joined(frames: list[LabelledFrame], times: int) -> LabelledFrame:
    rows = [frames[start : start + times] for start in range(0, len(frames), times)]
    image = np.vstack([np.hstack([frame.image for frame in row]) for row in rows])
    mask = np.vstack([np.hstack([np.asarray(frame.mask) for frame in row]) for row in rows])
    return LabelledFrame(frames[0].name, image, mask)


def rendered(height: int, width: int, seeds: range) -> Given:
    """Rendered roads seen from above, with seeds that no net was trained on."""
    frames = [RenderedRoad(seed, height, width, view="down").frame(0) for seed in seeds]
    return Given("rendered", [LabelledFrame(f"{seed}", *frame) for seed, frame in zip(seeds, frames, strict=True)])


def large_frames(dataset: str, every: int, count: int) -> Iterator[Given]:
    """All lists of large frames; those of real frames only if they are available."""
    folder = Path(os.environ.get("EDGECRACK_DATA", "../shared/data")) / dataset
    if folder.is_dir():
        frames = open_dataset(folder, "test")
        yield from (enlarged(frames.every(every), times) for times in TIMES)
        yield from (joined(frames, times) for times in TIMES[1:])
    else:
        print(f"no labelled frames in {folder}; set EDGECRACK_DATA to have real ones too", flush=True)
    yield rendered(2160, 3840, DEMO_SEEDS[:count])
    yield joined(rendered(540, 960, DEMO_SEEDS[: 16 * count]), 4)


class Timed:
    """A detector that accumulates its time in seconds, from frame to probability."""

    def __init__(self, detector: CrackDetector) -> None:
        self.detector, self.spec, self.threshold = detector, detector.spec, detector.threshold
        self.seconds = 0.0

    def run(self, frame: NDArray[np.uint8]) -> Detection:
        start = perf_counter()
        detection = self.detector.run(frame)
        _ = detection.probability
        self.seconds += perf_counter() - start
        return detection


def row(model: Path, frames: Given) -> str:
    """The line of the table for these frames."""
    height, width = frames.frames[0].image.shape[:2]
    scores, seconds = [], []
    for tile in ("fit", "tile"):
        with CrackDetector(model, tile=tile) as detector:
            detector.run(frames.frames[0].image)  # the first is the slowest
            timed = Timed(detector)
            scores.append(evaluate(timed, frames).scores["f1_2px"])
            seconds.append(timed.seconds / len(frames))
    auto, tiled = (place(height, width, timed.spec, tile, None) for tile in ("auto", "tile"))
    takes = "tile" if isinstance(auto, Tiling) else "fit"
    measured = f"{scores[0]:.3f} | {scores[1]:.3f} | {takes} | {tiled.count} | {seconds[0]:.2f} | {seconds[1]:.2f}"
    return f"| {frames.name} | {width}x{height} | {len(frames)} | {measured} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="msfnet")
    parser.add_argument("--size", default="512x512", help="of the net")
    parser.add_argument("--data", default="uav", help="the folder of real frames")
    parser.add_argument("--every", type=int, default=8, help="enlarge every N-th frame of the test list only")
    parser.add_argument("--rendered", type=int, default=3, help="how many frames of each rendered kind")
    options = parser.parse_args()
    net, spec = load_checkpoint(weights_path(options.model))
    with tempfile.TemporaryDirectory() as folder:
        spec = replace(spec, frame=FrameSpec.parse(options.size))
        model = onnx_from_model(net, spec, Path(folder) / "model.onnx")
        print(f"{options.model} at {spec.frame}, threshold {spec.threshold:.3f}\n{HEAD}", flush=True)
        for frames in large_frames(options.data, options.every, options.rendered):
            print(row(model, frames), flush=True)


if __name__ == "__main__":
    main()
