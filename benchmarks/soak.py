"""Soak test, a long run on an RTSP camera: python benchmarks/soak.py [--minutes 10] [--net msfnet | --model FILE].

By default the camera shows a test pattern, faster than the net can process it. With --drive it shows a folder or glob
pattern of images in a loop, as H.264, and with --kill-every it is killed and comes back, as a crew has to expect in a
day. Options after -- go to `edgecrack run`, such as -- --live 8080 --save-when cracks.

Prints, and writes with a plot to --out: what became of every captured frame, the age of frames when written, the course
of memory, threads and file handles, and how long the camera was away. The exit status is 1 if a bound is missed. The
camera is GStreamer's server; see tests/rtsp_server.py for what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from edgecrack.runtime import open_source

SERVER = Path(__file__).parents[1] / "tests" / "rtsp_server.py"
DOWN = 3.0  # seconds for which a killed camera is away
WARM = 20.0  # seconds from the first frame before memory counts
AGE_S, GROWTH_MB, PER_FRAMES = 0.5, 20.0, 20_000
Line = dict[str, Any]


def main() -> None:
    given = parsed()
    results = given.out / "results"
    if results.exists():
        sys.exit(f"{results} is of a soak test before; give another --out")
    given.out.mkdir(parents=True, exist_ok=True)
    model = given.model or exported(given.net, given.out)
    camera = Camera(given)
    camera.start()
    command = [
        sys.executable,
        "-m",
        "edgecrack",
        "run",
        model,
        "--source",
        camera.url,
        "--out",
        results,
        *given.options,
    ]
    try:
        with (given.out / "run.txt").open("w") as said:
            run = subprocess.Popen([str(word) for word in command], stdout=said, stderr=subprocess.STDOUT)
            try:
                samples = watched(run, camera, results / "log.jsonl", 60 * given.minutes, given.kill_every)
                run.send_signal(signal.SIGTERM)
                run.wait(60)
            finally:
                run.kill()
    finally:
        camera.kill()
    lines = [json.loads(line) for line in (results / "log.jsonl").read_text().splitlines()]
    report = {"camera": camera.what, "run": [str(word) for word in command[3:]], "exit_code": run.returncode}
    report |= {"frames": accounted(lines), "age_s": ages(lines), "camera_away_s": away(lines), **grown(samples)}
    report["samples"] = [vars(sample) for sample in samples]
    (given.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(lines, samples, camera.kills, given.out / "soak.png")
    missed = told(report)
    print(f"written: {given.out}/soak.json, soak.png, run.txt, results/")
    sys.exit(int(missed > 0))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--net", default="msfnet", help="is exported to INT8 for the CPU first")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", default="640x480", help="of the pattern")
    parser.add_argument("--drive", help="a folder, quoted pattern or video to show in place of the pattern")
    parser.add_argument("--rate", type=int, help="frames a second; by default 60, and 30 of a drive")
    parser.add_argument("--kill-every", type=float, help=f"seconds; the camera is back after {DOWN:g}")
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of edgecrack run")
    given = parser.parse_args()
    given.rate = given.rate or (30 if given.drive else 60)
    return given


def exported(net: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "edgecrack",
        "export",
        "--model",
        net,
        "--int8",
        "--target",
        "cpu",
        "-o",
        str(folder),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / f"{net}.int8-cpu.onnx"


class Camera:
    """The RTSP server, which keeps its port across kills."""

    def __init__(self, given: argparse.Namespace) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self.kills: list[float] = []  # by time.time()
        self.what = f"pattern {given.size}, {given.rate} a second"
        self._options = ["--size", given.size, "--rate", str(given.rate)]
        if given.drive:
            clip = given.out / "drive.mp4"
            seconds = 15 + (given.kill_every or 60 * given.minutes)
            frames, size = write_loop(clip, given.drive, given.rate, seconds)
            self.what = f"{given.drive}: {frames} frames of {size} in a loop, {given.rate} a second"
            self._options = ["--file", str(clip)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = ["/usr/bin/python3", str(SERVER), self.port, *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if not self._process.stdout or self._process.stdout.readline() != "ready\n":
            sys.exit(f"the camera does not start; {SERVER} says what it needs")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def write_loop(path: Path, drive: str, rate: int, seconds: float) -> tuple[int, str]:
    """Write the frames of `drive` in a loop as H.264 in an MP4; returns their number and size.

    They are encoded once; the same packets are then repeated with later timestamps.
    """
    with open_source(drive) as road, av.open(str(path), "w") as file:
        frames = iter(road)
        first = next(frames).image
        height, width = (side // 2 * 2 for side in first.shape[:2])
        stream = file.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "26", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.time_base = rate, Fraction(1, rate)
        packets, count = [], 0
        for image in (first, *(frame.image for frame in frames)):
            picture = av.VideoFrame.from_ndarray(
                np.asarray(cv2.resize(image, (width, height)), np.uint8), format="bgr24"
            )
            picture.pts, picture.time_base, count = count, Fraction(1, rate), count + 1
            packets += stream.encode(picture)
        packets += stream.encode(None)
        data = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for index in range(round(seconds * rate)):
            packet = av.Packet(data[index % count][0])
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, rate), data[index % count][1]
            packet.pts = packet.dts = index
            file.mux(packet)
    return count, f"{width}x{height}"


@dataclass
class Sample:
    """Resource use of the process at one moment."""

    utc: float
    frames: int
    memory_mb: float
    threads: int
    handles: int


@dataclass
class Log:
    """Counts the frames in a growing log."""

    path: Path
    frames: int = 0
    _read: int = field(default=0, repr=False)

    def look(self) -> int:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole = file.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            self.frames += sum(b'"event"' not in line for line in whole.split(b"\n") if line)
        return self.frames


def watched(
    run: subprocess.Popen[bytes], camera: Camera, path: Path, seconds: float, kill_every: float | None
) -> list[Sample]:
    """Take a sample every second from the first frame on, killing and restarting the camera."""
    log, samples = Log(path), []
    deadline = time.monotonic() + 60
    while not log.look():
        if run.poll() is not None or time.monotonic() > deadline:
            sys.exit("no frame came within a minute; run.txt says why")
        time.sleep(0.1)
    begun, back = time.monotonic(), float("inf")
    kill = begun + kill_every if kill_every else float("inf")
    while (now := time.monotonic()) < begun + seconds and run.poll() is None:
        if now > kill:
            camera.kill()
            camera.kills.append(time.time())
            kill, back = kill + (kill_every or 0), now + DOWN
        if now > back:
            camera.start()
            back = float("inf")
        samples.append(sample(run.pid, log.look()))
        time.sleep(1)
    return samples


def sample(pid: int, frames: int) -> Sample:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Sample(
        time.time(), frames, memory, len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))
    )


def accounted(lines: list[Line]) -> dict[str, Any]:
    """What became of every frame number according to the log lines, compared with the final summary."""
    summary = next((line for line in reversed(lines) if line.get("event") == "summary"), {})
    ends = Counter(line["index"] for line in lines if "event" not in line)
    processed, causes = len(ends), Counter[str]()
    for line in lines:
        if line.get("event") == "dropped":
            ends.update(range(line["first"], line["last"] + 1))
            causes[line["cause"]] += line["last"] - line["first"] + 1
    captured = summary.get("captured", 0)
    return {
        "captured": captured,
        "processed": processed,
        "dropped": dict(causes),
        "failed": summary.get("failed"),
        "without_an_end": len(set(range(captured)) - set(ends)) - (summary.get("failed") or 0),
        "with_two_ends": sum(count > 1 for count in ends.values()),
        "summary_agrees": bool(summary) and summary["processed"] == processed and summary["dropped"] == dict(causes),
    }


def ages(lines: list[Line]) -> dict[str, float]:
    found = sorted(line["age"] for line in lines if "age" in line)
    return {"median": statistics.median(found), "p99": found[round(0.99 * (len(found) - 1))], "max": found[-1]}


def away(lines: list[Line]) -> list[float]:
    """Seconds from each loss of the camera until it was back."""
    found, lost = [], None
    for line in lines:
        if line.get("event") == "lost":
            lost = seconds_of(line)
        elif line.get("event") == "reconnected" and lost is not None:
            found.append(round(seconds_of(line) - lost, 2))
            lost = None
    return found


def seconds_of(line: Line) -> float:
    return datetime.fromisoformat(line["utc"].replace("Z", "+00:00")).timestamp()


def grown(samples: list[Sample]) -> dict[str, Any]:
    """Growth of memory, threads and handles from the first third after warming up to the last."""
    steady = [each for each in samples if each.utc > samples[0].utc + WARM] or samples
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]
    # While the camera is away its threads and handles are gone: the maximum of each third is with the camera.
    return {
        "memory_mb": max(each.memory_mb for each in samples),
        "memory_growth_mb": statistics.median(e.memory_mb for e in last)
        - statistics.median(e.memory_mb for e in first),
        "growth_over_frames": last[len(last) // 2].frames - first[len(first) // 2].frames,
        "thread_growth": max(each.threads for each in last) - max(each.threads for each in first),
        "handle_growth": max(each.handles for each in last) - max(each.handles for each in first),
        "frames_per_second": (samples[-1].frames - samples[0].frames) / max(1e-9, samples[-1].utc - samples[0].utc),
    }


def told(report: dict[str, Any]) -> int:
    """Print the table with its bounds; returns how many are missed."""
    frames, age, lost = report["frames"], report["age_s"], report["camera_away_s"]
    share = report["growth_over_frames"] / PER_FRAMES
    causes = ", ".join(f"{count} {cause}" for cause, count in frames["dropped"].items())
    print(f"camera     {report['camera']}")
    print(f"frames     {frames['captured']} came: {frames['processed']} processed, dropped: {causes or 'none'}")
    print(f"           {report['frames_per_second']:.1f} a second, {frames['failed']} failed")
    print(f"camera     was away {len(lost)} times" + (f", {min(lost):.1f} to {max(lost):.1f} s" if lost else ""))
    print(f"age        median {age['median']:.3f} s, 99th of a hundred {age['p99']:.3f} s")
    print(f"memory     at most {report['memory_mb']:.0f} MB; {share:.2f} of {PER_FRAMES} frames were measured")
    bounds = {
        "numbers without an end": (frames["without_an_end"], 0),
        "numbers with two ends": (frames["with_two_ends"], 0),
        "failed": (frames["failed"] or 0, 0),
        "summary that disagrees": (int(not frames["summary_agrees"]), 0),
        "age, s": (age["max"], AGE_S),
        "memory growth, MB": (report["memory_growth_mb"], GROWTH_MB),
        "thread growth": (report["thread_growth"], 0),
        "handle growth": (report["handle_growth"], 0),
    }
    missed = 0
    for name, (value, most) in bounds.items():
        kept = value <= most
        print(f"{'ok    ' if kept else 'MISSED'} {name}: {value:.3g}, wanted at most {most:g}")
        missed += not kept
    return missed


def draw(lines: list[Line], samples: list[Sample], kills: list[float], path: Path) -> None:
    """Plot memory, age and frames per second over time, with a line wherever the camera was killed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    begun = samples[0].utc
    minutes = [(each.utc - begun) / 60 for each in samples]
    figure, (top, middle, bottom) = pyplot.subplots(3, 1, sharex=True, figsize=(9, 7), layout="constrained")
    top.plot(minutes, [each.memory_mb for each in samples])
    top.set(ylabel="memory, MB", ylim=(0, 1.1 * max(each.memory_mb for each in samples)))
    old = [((seconds_of(line) - begun) / 60, line["age"]) for line in lines if "age" in line]
    middle.plot(*zip(*old, strict=True), ",")
    middle.axhline(AGE_S, color="grey", linestyle=":")
    middle.set(ylabel="age when written, s", ylim=(0, None))
    done = [after.frames - before.frames for before, after in pairwise(samples)]
    bottom.plot(minutes[1:], done)
    bottom.set(ylabel="frames a second", xlabel="minutes", ylim=(0, None))
    for axes in (top, middle, bottom):
        for kill in kills:
            axes.axvline((kill - begun) / 60, color="red", alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
