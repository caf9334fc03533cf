"""Benchmark speed and memory, as ratios measured in one run: `make bench`. Run it with nothing else running.

Prints, and writes to --json: start-up times; for each shipped net at 512x512 the frames per second of INT8 on OpenVINO
against fp32 on ONNX Runtime, what `edgecrack bench` measures on a 1080p H.264 file, and memory while streaming 2,000
frames. Bounds are printed beside the numbers that have one; the exit status is 1 if one is missed. `--islands` shows
instead which parts of the INT8 nets are still float, and what they cost.
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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecrack.runtime import CrackDetector, JsonLines, open_source
from edgecrack.speed import measure
from edgecrack.speed.bare import MODES, BareNets, ready_frames
from edgecrack.speed.measure import machine

NETS = ("aelf-unet", "cacpnet", "msfnet", "scnet")
ROUNDS, CALLS = 7, 6
# lower bounds: ratios of rates
INT8_OVER_FP32 = {"msfnet": 1.9, "aelf-unet": 2.5, "cacpnet": 2.5, "scnet": 2.5}
OVER_PLAIN_SCRIPT = {"msfnet": 2.1, "aelf-unet": 2.1}  # for the others it is only reported
LEAST = {"end_to_end_of_limit": 0.95, "overlay_of_limit": 0.80}
# upper bounds: seconds, milliseconds and MB
MOST = {"import edgecrack": 0.1, "edgecrack --help": 0.3, "host_ms": 1.5, "memory_growth_mb": 20, "memory_mb": 500}
RATES = ("bare_fps", "decode_fps", "limit_fps", "end_to_end_fps", "overlay_fps", "plain_script_fps")
RATIOS = ("end_to_end_of_limit", "overlay_of_limit", "over_plain_script")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--islands", action="store_true", help="what of the INT8 nets is float, and what it costs")
    parser.add_argument("--memory", type=Path, nargs=2, help=argparse.SUPPRESS)  # the child that measures itself
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(*options.memory)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder, nets = Path(name), options.nets.split(",")
        if options.islands:
            for net in nets:
                print(islands(export(net, folder, "--int8", "--target", "cpu")), flush=True)
            return
        found, missed = measured(nets, folder)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(int(missed > 0))


def measured(nets: list[str], folder: Path) -> tuple[dict[str, Any], int]:
    """All numbers, each printed as soon as it is measured, and how many miss their bounds."""
    found: dict[str, Any] = {"machine": machine(), "start_up_s": start_up()}
    print(json.dumps(found, indent=1), flush=True)
    missed = held("start-up", found["start_up_s"])
    clip = folder / "road.mp4"
    edgecrack("sample-clip", str(clip), "--size", "1920x1080", "--seconds", "5")
    for net in nets:
        found[net] = numbers(net, folder, clip)
        print(net, json.dumps(found[net], indent=1), flush=True)
        missed += held(net, found[net])
    return found, missed


def held(what: str, found: dict[str, float]) -> int:
    """Print each number that has a bound, with it; returns how many miss theirs."""
    least = LEAST | {"int8_over_fp32": INT8_OVER_FP32.get(what, 0.0)}
    if what in OVER_PLAIN_SCRIPT:
        least["over_plain_script"] = OVER_PLAIN_SCRIPT[what]
    missed = 0
    for name, value in found.items():
        if name not in least and name not in MOST:
            continue
        kept = value >= least[name] if name in least else value <= MOST[name]
        bound = f"at least {least[name]:g}" if name in least else f"at most {MOST[name]:g}"
        print(f"{'ok    ' if kept else 'MISSED'} {what} {name} {value:.3f}, wanted {bound}", flush=True)
        missed += not kept
    return missed


def numbers(net: str, folder: Path, clip: Path) -> dict[str, Any]:
    """All measurements of one net."""
    int8 = export(net, folder, "--int8", "--target", "cpu")
    row: dict[str, Any] = dict(over_fp32(int8, folder / f"{net}.onnx", clip))
    speed = measure(int8, str(clip)).to_json()
    row |= {name: speed[name] for name in (*RATES, *RATIOS)} | {"host_ms": speed["milliseconds"]["host"]["median"]}
    command = [sys.executable, __file__, "--memory", str(int8), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row |= json.loads(done.stdout)
    return row


def over_fp32(int8: Path, fp32: Path, clip: Path) -> dict[str, float]:
    """Frames per second of both, medians of alternating rounds, so that a slow moment of the machine affects both."""
    rounds: dict[tuple[str, str], list[float]] = {}
    with BareNets(int8, "openvino") as fast, BareNets(fp32, "onnxruntime") as slow:
        frames = ready_frames(str(clip), fast.spec, 8)
        for _ in range(ROUNDS):
            for nets in (fast, slow):
                for mode in MODES:
                    spent = nets.milliseconds(mode, frames, CALLS)
                    rounds.setdefault((nets.name, mode), []).append(1e3 * len(spent) / sum(spent))
    rates = {name: max(statistics.median(rounds[name, mode]) for mode in MODES) for name in ("openvino", "onnxruntime")}
    return {
        "int8_openvino_fps": rates["openvino"],
        "fp32_onnxruntime_fps": rates["onnxruntime"],
        "int8_over_fp32": rates["openvino"] / rates["onnxruntime"],
    }


def islands(model: Path) -> str:
    """Text with a line for each kind of float node that OpenVINO runs per frame, and for the costliest float nodes."""
    kinds, nodes = node_milliseconds(model)
    whole = sum(kinds.values())
    lines = [f"{model.name}: {whole:.1f} ms a frame, of which float"]
    for counted, most in ((kinds, 8), (nodes, 12)):
        for name, spent in counted.most_common():
            if "INT8" not in name and most:
                lines.append(f"  {spent:6.2f} ms  {spent / whole:4.0%}  {name}")
                most -= 1
        lines.append("")
    return "\n".join(lines)


def node_milliseconds(model: Path) -> tuple[Counter[str], Counter[str]]:
    """Milliseconds per frame by kind of node and by node; the names of those that compute in INT8 contain it."""
    from edgecrack.runtime.backends.openvino import compiled

    request = compiled(model, NUM_STREAMS="1", PERF_COUNT="YES").create_infer_request()
    frames = np.random.default_rng(0).integers(0, 256, request.get_input_tensor().shape, np.uint8)
    kinds: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for call in range(2 + CALLS):
        request.infer({0: frames})
        for node in request.get_profiling_info() if call >= 2 else ():
            spent = 1e3 * node.real_time.total_seconds() / CALLS
            number = "INT8" if node.exec_type.lower().endswith("_i8") else "float"
            kinds[f"{number} {node.node_type}"] += spent
            nodes[f"{number} {node.node_type} {node.node_name}"] += spent
    return kinds, nodes


def memory(model: Path, clip: Path) -> dict[str, float]:
    """Resident memory in MB after 2,200 frames of a looped video, and its growth since frame 200."""

    def frames() -> Iterator[NDArray[np.uint8]]:
        while True:
            with open_source(clip) as source:
                yield from (frame.image for frame in source)

    with (
        CrackDetector(model, backend="openvino", hint="throughput") as detector,
        tempfile.TemporaryDirectory() as folder,
        JsonLines(Path(folder) / "log.jsonl") as log,
    ):
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
    """Start-up times in seconds, medians of seven processes; an empty Python process is the lower limit."""
    code = {"python": "", "import edgecrack": "import edgecrack", "edgecrack --help": HELP}
    times: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(7):
        for name, text in code.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", text], stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


HELP = "from edgecrack.cli import main; main(['--help'])"


def export(net: str, folder: Path, *options: str) -> Path:
    return Path(edgecrack("export", "--model", net, "-o", str(folder), *options))


def edgecrack(*arguments: str) -> str:
    """Run an edgecrack command; returns what it prints."""
    command = [sys.executable, "-m", "edgecrack", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
