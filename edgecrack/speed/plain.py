"""The script that everybody writes, as the baseline; `plain_script.py` beside this is it, and nothing here imports it."""

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
    """The fp32 ONNX of the same net, which the script runs: `model` itself, or scnet.onnx beside scnet.int8-cpu.onnx.

    Raises EngineError, and says what was looked for, when there is none that the script can run.
    """
    beside = model.with_name(Path(model.stem).stem + ".onnx")
    for path in (model, beside):
        if path.suffix == ".onnx" and path.is_file():
            spec = read_spec(path)
            if spec.precision == "fp32" and spec.input_shape == (1, spec.frame.height, spec.frame.width, 3):
                return path
    raise EngineError(f"it runs the net's fp32 ONNX for one frame a call, and {beside} is none")


def plain_script_fps(model: Path, video: str, frames: int) -> float:
    """Frames a second of the script over the first `frames` of `video`; loading and the first frame are left out.

    Raises EngineError with its last words when it fails.
    """
    size = read_spec(model).frame
    # unbuffered, so that each line tells when its frame was done, and a longer video can be left
    command = [sys.executable, "-u", str(SCRIPT), str(model), video, str(size.width), str(size.height)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        try:
            assert script.stdout and script.stderr  # noqa: S101 both are pipes
            done = [perf_counter() for _ in islice(script.stdout, frames)]
            words = [] if len(done) == frames else script.stderr.read().strip().splitlines()
        finally:
            script.kill()  # or leaving the block would wait for the rest of the video
    if len(done) < 2:
        raise EngineError(f"the plain script failed: {(words or ['it found no second frame'])[-1]}")
    return (len(done) - 1) / (done[-1] - done[0])
