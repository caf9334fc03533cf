"""Speed against accuracy: the time per frame of the nets at each width, and their score on a camera they never saw.

Times the INT8 files of finished rows of benchmarks/experiments.py on OpenVINO, one frame at a time, with nothing else
running, and computes the roofline, the least time that a Jetson Orin Nano could take by its data sheet. For a row that
was run elsewhere the shipped net of the same width stands in, since speed does not depend on the weights. Writes
OUT/frontier.json, from which `experiments.py --table` takes its numbers, and the plot.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from studies.found import Found
from studies.plan import COMPACT, SIZES, plan, rehearsed
from studies.roofline import ORIN_NANO, floor_milliseconds, multiply_adds
from studies.tables import BEST, width_names

from edgecrack.files import atomic_path, write_atomic
from edgecrack.plots import new_figure
from edgecrack.rendering import rendered_frame
from edgecrack.speed.bare import BareNets
from edgecrack.speed.measure import machine

ROUNDS, CALLS = 7, 10
LEFT_OUT = "cfd"
MARKS = {"msfnet": "o", "scnet": "s", "aelf-unet": "^", "cacpnet": "D"}
PANELS = {
    "milliseconds": "ms a frame of 480x320, INT8 on this CPU",
    "roof_milliseconds": "ms, roof of an Orin Nano, on paper",
}


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    new_figure(1, 1)  # without matplotlib, fail now and not after the measurements
    rows = rehearsed(plan(), options.smoke) if options.smoke else plan()
    found = Found.of(rows, options.out, options.kept)
    files = models(found, options.out)
    if not files:
        raise SystemExit(
            f"no row that left {LEFT_OUT} out is finished in {options.out}; run them with benchmarks/experiments.py"
        )
    speeds = measured(files)
    told = {
        "machine": said(machine()),
        "roof": roof(),
        "rows": {found.by_name[name].key: speed for name, speed in speeds.items()},
    }
    write_atomic(options.out / "frontier.json", json.dumps(told, indent=1) + "\n")
    found = Found.of(rows, options.out, options.kept)
    if found.frontier["machine"] != told["machine"]:
        raise SystemExit(
            f"the picture keeps to {found.frontier['machine']}, which timed rows that are not in {options.out}; run them too"
        )
    points = [
        {"net": net, "width": width, "f1": scores.values[BEST], **found.frontier["rows"][found.by_name[name].key]}
        for (net, width), name in width_names().items()
        if (scores := found.scores(name, LEFT_OUT, "int8")) and found.by_name[name].key in found.frontier["rows"]
    ]
    draw(points, options.picture)
    print(options.picture)


def models(found: Found, out: Path) -> dict[str, Path]:
    """Row -> its INT8 file at the frame size of the left-out camera, or that of the shipped net of its width."""
    rows = {name: found.by_name[name] for name in width_names().values() if found.scores(name, LEFT_OUT, "int8")}
    paths = {name: out / row.key / LEFT_OUT / f"{row.net}.int8-cpu.onnx" for name, row in rows.items()}
    for name, row in rows.items():
        if not paths[name].is_file() and row.width == COMPACT[row.net]:
            paths[name] = shipped(row.net, out / "shipped")
    return {name: path for name, path in paths.items() if path.is_file()}


def shipped(net: str, folder: Path) -> Path:
    """The INT8 file of a shipped net at the frame size of the left-out camera."""
    command = [sys.executable, "-m", "edgecrack", "export", "--model", net, "--size", SIZES[LEFT_OUT]]
    done = subprocess.run(
        [*command, "--int8", "--target", "cpu", "-o", str(folder)], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip())


def measured(files: Mapping[str, Path], rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, dict[str, float]]:
    """Row -> median milliseconds of a call, taken in turns, so that a slow moment hits all alike; GMACs; roofline."""
    times: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        nets = {name: stack.enter_context(BareNets(path, "openvino")) for name, path in files.items()}
        for _ in range(rounds):
            for name, net in nets.items():
                frame = rendered_frame(0, net.spec.frame.height, net.spec.frame.width)[0]
                times[name] += net.milliseconds("latency", [frame[np.newaxis]], calls)
    return {
        name: {
            "milliseconds": round(statistics.median(times[name]), 3),
            "gmacs": round(multiply_adds(path) / 1e9, 4),
            "roof_milliseconds": round(floor_milliseconds(path), 4),
        }
        for name, path in files.items()
    }


def roof() -> str:
    """The assumptions of the roofline bound, in words."""
    gpu = ORIN_NANO
    return (
        f"{gpu.name}, by NVIDIA's data sheet {gpu.int8 / 1e12:g} dense INT8 TOPS ({gpu.half / 1e12:g} in half precision) and "
        f"{gpu.memory / 1e9:g} GB/s, every convolution at its arithmetic or its memory, whichever is slower, all else free"
    )


def said(about: Mapping[str, Any]) -> str:
    return f"{about['cpu']}, {about['cores']} cores"


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Plot F1 over milliseconds, one line per net, one point per width: measured on the left, roofline on the right."""
    figure = new_figure(10, 4.2)
    for place, (key, label) in enumerate(PANELS.items(), 1):
        axes = figure.add_subplot(1, 2, place)
        for net, mark in MARKS.items():
            own = sorted((point for point in points if point["net"] == net), key=lambda point: float(point["width"]))
            if not own:
                continue
            axes.plot([point[key] for point in own], [point["f1"] for point in own], marker=mark, label=net)
            for point in own:
                spot = (point[key], point["f1"])
                axes.annotate(f"{point['width']:g}", spot, (4, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        for kind in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            kind("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=7)
        axes.set_xlabel(label)
        axes.set_ylabel(f"2-pixel best F1 on {LEFT_OUT}, never seen")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder of the runs")
    parser.add_argument("--kept", type=Path, default=Path("docs/results.json"), help="what rows came to elsewhere")
    parser.add_argument("--picture", type=Path, default=Path("docs/frontier.png"))
    parser.add_argument("--smoke", type=int, help="of a rehearsal with so many steps")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
