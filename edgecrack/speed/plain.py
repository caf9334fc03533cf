"""The baseline: the script that everybody writes, `plain_script.py` in this folder, which nothing here imports."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path
from time import perf_counter

from edgecrack.errors import EngineError
from edgecrack.runtime.onnx_metadata import read_spec

SCRIPT = Path(__file__).with_name("plain_script.py")


def plain_model(model: Path) -> Path:
    """The net's fp32 ONNX for the script to run: `model` itself, or scnet.onnx beside scnet.int8-cpu.onnx.

    Raises EngineError, saying what was looked for, when there is none that the script can run.
    """
    beside = model.with_name(Path(model.stem).stem + ".onnx")
    for path in (model, beside):
        if path.suffix == ".onnx" and path.is_file():
            spec = read_spec(path)
            if spec.precision == "fp32" and spec.input_shape == (1, spec.frame.height, spec.frame.width, 3):
                return path
    raise EngineError(f"it runs the net's fp32 ONNX for one frame a call, and {beside} is none")


def plain_script_fps(model: Path, video: str, frames: int) -> float:
    """Frames per second of the script over the first `frames` of `video`, without loading and the first frame.

    Raises EngineError with its last line of output when it fails.
    """
    size = read_spec(model).frame
    # unbuffered, so that each line arrives when its frame is done, and a longer video can be cut short
    command = [sys.executable, "-u", str(SCRIPT), str(model), video, str(size.width), str(size.height)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout and script.stderr  # noqa: S101 both are pipes
            done = [perf_counter() for _ in islice(script.stdout, frames)]
            words = [] if len(done) == frames else script.stderr.read().strip().splitlines()
            failed = len(done) < min(2, frames) and script.wait() != 0
        finally:
            script.kill()  # else leaving the block would wait for the rest of the video
    if len(done) < 2:
        why = words[-1] if failed and words else "it found no second frame"
        raise EngineError(f"the plain script failed: {why}")
    return (len(done) - 1) / (done[-1] - done[0])
