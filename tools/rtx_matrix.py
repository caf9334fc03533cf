"""Build every net in every precision and size with TensorRT for RTX, which needs no GPU: `make rtx-matrix`.

It proves that the parser accepts each graph and that types and shapes fit. It does not prove that an engine runs, how
fast, or on a Jetson; the INT8 convolutions of an engine for RTX are built, not shown to run as INT8. The compact nets
are the shipped ones. The nets of the paper's full width have random weights and the ranges of the compact net: such an
engine is a build test only.

Each build is a separate process, whose total time and peak memory are held to the bounds below. The exit status is 1 if
any build fails, exceeds its bounds, or has a node that Polygraphy's capability report calls unsupported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Ranges
from edgecrack.export.graph import onnx_from_model
from edgecrack.export.precision import fp16_from_onnx
from edgecrack.models import MODELS, build_model
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.spec import PRECISIONS, FrameSpec, ModelSpec
from edgecrack.weights import ranges_path, weights_path

CAPABILITIES = ("sm75", "sm86", "sm89", "sm120")
COMPACT = ((FrameSpec(512, 512), 1), (FrameSpec(640, 1024), 1), (FrameSpec(512, 512), 4))
FULL = FrameSpec(256, 256)
SUPPORTED = "Graph is fully supported by TensorRT"
# the command that is measured; it prints the peak memory of its process in kB
BUILD = """
import re, sys
from edgecrack.cli import main
try:
    main(["build", *sys.argv[1:]])
except SystemExit as end:
    if end.code:
        raise
print(*re.findall(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read()))
"""


@dataclass(frozen=True)
class Bound:
    """Upper bounds of one build: seconds from start to end of its process, and peak memory in MB."""

    seconds: float
    memory: int


BOUNDS = {"compact": Bound(5, 700), "full": Bound(15, 1500)}


@dataclass(frozen=True)
class Row:
    """One build and its result; `failure` is "" if it succeeded. Sizes are in MB."""

    net: str
    width: str
    size: str
    batch: int
    precision: str
    seconds: float = 0.0
    onnx: float = 0.0
    plan: float = 0.0
    memory: int = 0
    failure: str = ""

    def __str__(self) -> str:
        return (
            f"{self.net:10} {self.width:8} {self.size:>9} {self.batch:>5} {self.precision:10} {self.seconds:7.2f} "
            f"{self.onnx:7.1f} {self.plan:7.1f} {self.memory:7} {self.failure or 'ok'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table here too")
    parser.add_argument("--nets", default=",".join(MODELS), help="with commas between")
    parser.add_argument("--sample", action="store_true", help="all precisions at 512x512, and INT8 at the others")
    parser.add_argument("--untimed", action="store_true", help="hold no build to its bound in seconds")
    options = parser.parse_args()
    print("net        width         size batch precision        s ONNX MB plan MB peak MB", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for row, onnx in graphs(options.nets.split(","), Path(name)):
            if options.sample and (FrameSpec.parse(row.size), row.batch) != COMPACT[0] and row.precision != "int8":
                continue
            rows.append(built(row, onnx, not options.untimed))
            print(rows[-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    failed = sum(bool(row.failure) for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} build within their bounds")
    sys.exit(failed > 0)


def graphs(nets: list[str], folder: Path) -> Iterator[tuple[Row, Path]]:
    """Each build to make, with its ONNX file, which exists until the next one is asked for."""
    for name in nets:
        net, spec = load_checkpoint(weights_path(name))
        for frame, batch in COMPACT:
            yield from precisions(net, replace(spec, frame=frame, batch=batch), "compact", folder)
        torch.manual_seed(0)
        full = ModelSpec(name, 1.0, frame=FULL)
        yield from precisions(build_model(full).eval(), full, "full", folder)


def precisions(net: torch.nn.Module, spec: ModelSpec, width: str, folder: Path) -> Iterator[tuple[Row, Path]]:
    fp32 = onnx_from_model(net, spec, folder / "fp32.onnx")  # type: ignore[arg-type]
    files = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    fp16_from_onnx(fp32, files["fp16"])
    int8_from_onnx(fp32, Ranges.load(ranges_path(spec.name)), files["int8"])
    fp16_from_onnx(files["int8"], files["int8-fp16"])
    for precision, file in files.items():
        yield Row(spec.name, width, str(spec.frame), spec.batch, precision), file


def built(row: Row, onnx: Path, timed: bool) -> Row:
    engine = onnx.with_suffix(".engine")
    command = [sys.executable, "-c", BUILD, str(onnx), "--for", ",".join(CAPABILITIES)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        return replace(row, seconds=seconds, failure=(done.stderr.strip().splitlines() or ["no word"])[-1])
    memory = int(done.stdout.split()[-1]) // 1000
    found = replace(row, seconds=seconds, onnx=megabytes(onnx), plan=megabytes(engine), memory=memory)
    new = (FrameSpec.parse(row.size), row.batch) in (COMPACT[0], (FULL, 1))  # other sizes have the same operators
    return replace(found, failure=shortfall(found, timed) or (unsupported(onnx) if new else ""))


def shortfall(row: Row, timed: bool) -> str:
    bound = BOUNDS[row.width]
    if timed and row.seconds > bound.seconds:
        return f"slow: wanted at most {bound.seconds:g} s"
    return f"wanted at most {bound.memory} MB" if row.memory > bound.memory else ""


def unsupported(onnx: Path) -> str:
    """The unsupported nodes in Polygraphy's capability report; "" if there are none."""
    command = [str(Path(sys.executable).with_name("polygraphy")), "inspect", "capability", str(onnx)]
    command += ["-o", str(onnx.with_suffix(".capability"))]
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    text = done.stdout + done.stderr
    return "" if SUPPORTED in text else " ".join(text.split())[-300:]


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    main()
