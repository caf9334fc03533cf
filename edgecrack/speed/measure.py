"""All speed measurements of a model on a source, taken in turns, so that a slow moment affects all alike."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from edgecrack import board
from edgecrack.errors import EngineError, SourceError
from edgecrack.runtime.address import redacted, scheme_of, trimmed
from edgecrack.runtime.in_order import VideoSource
from edgecrack.runtime.sources import open_source
from edgecrack.speed.bare import MODES, BareNets, ready_frames
from edgecrack.speed.drive import Order, drive, first_frames
from edgecrack.speed.plain import plain_model, plain_script_fps

_READY = 8  # different frames for the bare net, in rotation


@dataclass(frozen=True)
class Spread:
    """Distribution of a duration in milliseconds: the median, the 95th and the 99th percentile."""

    median: float
    p95: float
    p99: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> Spread:
        """The spread of at least one value."""
        return cls(*(round(float(value), 3) for value in np.percentile(milliseconds, (50, 95, 99))))


@dataclass(frozen=True)
class Speed:
    """The results of `measure`. Rates are frames per second, medians over the rounds.

    Attributes:
        model: file, net, precision, size, backend.
        source: name, size, frames, rounds.
        machine: what it ran on, see `machine`.
        bare: the net alone: "latency", one call at a time, and "throughput", as many as the library likes.
        decode_fps: the decoder alone.
        end_to_end_fps: from the source to lines of JSON.
        overlay_fps: from the source to lines of JSON and a video of the cracks.
        plain_script_fps: the script that everybody writes; None if it was not run.
        plain_script: what it ran, or why it was not run.
        milliseconds: "bare latency" and "bare throughput", from result to result; one frame after another: "decode",
            "preprocess", "net", "postprocess", "log", and "host", all that is neither decoder nor net; streamed: "end
            to end" and "with overlay", from decoded to written.
        cpu_share: share of all cores while streaming to JSON, 0..1.
        peak_memory_mb: peak memory of the process that streamed to JSON.
        power_w: power of the board while streaming to JSON; None if it has no monitors. Not tried on a Jetson.
    """

    model: dict[str, str]
    source: dict[str, str | int]
    machine: dict[str, str | int]
    bare: dict[str, float]
    decode_fps: float
    end_to_end_fps: float
    overlay_fps: float
    plain_script_fps: float | None
    plain_script: str
    milliseconds: dict[str, Spread]
    cpu_share: float
    peak_memory_mb: float
    power_w: float | None

    @property
    def bare_fps(self) -> float:
        """Frames per second of the net alone, in the faster of the two modes."""
        return max(self.bare.values())

    @property
    def limit_fps(self) -> float:
        """Frames per second if decoder and net took turns at no other cost; overlapping them may exceed it."""
        return 1 / (1 / self.bare_fps + 1 / self.decode_fps)

    @property
    def end_to_end_of_limit(self) -> float:
        """End-to-end rate as a fraction of the limit."""
        return self.end_to_end_fps / self.limit_fps

    @property
    def overlay_of_limit(self) -> float:
        """Rate with a video of the cracks as a fraction of the limit."""
        return self.overlay_fps / self.limit_fps

    @property
    def over_plain_script(self) -> float | None:
        """End-to-end rate over that of the plain script; None if that was not run."""
        return None if self.plain_script_fps is None else self.end_to_end_fps / self.plain_script_fps

    @property
    def joules_per_frame(self) -> float | None:
        """Energy of the board per frame; None without `power_w`."""
        return None if self.power_w is None else self.power_w / self.end_to_end_fps

    def to_json(self) -> dict[str, Any]:
        """All fields and derived values, ready for `json.dumps`."""
        derived = (
            "bare_fps",
            "limit_fps",
            "end_to_end_of_limit",
            "overlay_of_limit",
            "over_plain_script",
            "joules_per_frame",
        )
        return asdict(self) | {name: getattr(self, name) for name in derived}


def measure(
    model: Path,
    source: str,
    *,
    frames: int = 150,
    rounds: int = 3,
    backend: str = "auto",
    device: int = 0,
    plain: Path | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Speed:
    """Measure `rounds` times over the first `frames` of `source`, a video or images.

    `plain` is the net's fp32 ONNX for the plain script, by default the one beside `model`; `tell` is called with what
    is being measured. Raises SourceError for a camera, which shows no frame twice, and what opening the model or the
    source raises.
    """
    if scheme_of(trimmed(source)):
        raise SourceError(f"{redacted(source)} shows no frame twice; wanted a video or images")
    order = Order(str(model), source, frames, "log", backend, device)
    taken = _Taken()
    with BareNets(model, backend, device) as nets:
        ready, (script, words) = ready_frames(source, nets.spec, _READY), _plain(plain or model, source)
        for turn in range(rounds):
            tell(f"round {turn + 1} of {rounds}: net and decoder alone")
            for mode in MODES:
                taken.bare(mode, nets.milliseconds(mode, ready, frames), nets.spec.batch)
            taken.rates["decode"].append(_decode_fps(source, frames))
            for way in ("stages", "log", "overlay"):
                tell(f"round {turn + 1} of {rounds}: {way}")
                taken.drive(replace(order, way=way))
            if script:
                tell(f"round {turn + 1} of {rounds}: the plain script")
                try:
                    taken.rates["plain"].append(plain_script_fps(script, source, frames))
                except EngineError as error:  # what edgecrack measured is kept
                    script, words = None, f"not run: {error}"
        spec = nets.spec
    first = next(first_frames(source, 1)).image
    rates = {name: median(values) for name, values in taken.rates.items()}
    return Speed(
        model={
            "file": str(model),
            "net": spec.name,
            "precision": spec.precision,
            "size": str(spec.frame),
            "backend": nets.name,
        },
        source={"name": source, "size": f"{first.shape[1]}x{first.shape[0]}", "frames": taken.frames, "rounds": rounds},
        machine=machine(),
        bare={mode: rates[mode] for mode in MODES},
        decode_fps=rates["decode"],
        end_to_end_fps=rates["log"],
        overlay_fps=rates["overlay"],
        plain_script_fps=rates.get("plain"),
        plain_script=words,
        milliseconds={name: Spread.of(values) for name, values in taken.milliseconds.items()},
        cpu_share=median(taken.cpu_shares),
        peak_memory_mb=max(taken.peaks),
        power_w=median(taken.powers) if taken.powers else None,
    )


class _Taken:
    """The measurements of the rounds so far."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.milliseconds: dict[str, list[float]] = defaultdict(list)
        self.cpu_shares: list[float] = []
        self.peaks: list[float] = []
        self.powers: list[float] = []
        self.frames = 0

    def bare(self, mode: str, milliseconds: list[float], batch: int) -> None:
        self.rates[mode].append(1e3 * batch * len(milliseconds) / sum(milliseconds))
        self.milliseconds[f"bare {mode}"] += milliseconds

    def drive(self, order: Order) -> None:
        drive_ = drive(order)
        self.rates[order.way].append(drive_.fps)
        for stage, milliseconds in drive_.milliseconds.items():
            self.milliseconds["with overlay" if order.way == "overlay" else stage] += milliseconds
        if order.way == "log":
            self.frames = max(map(len, drive_.milliseconds.values()))
            self.cpu_shares.append(drive_.cpu_share)
            self.peaks.append(drive_.peak_memory_mb)
            self.powers += [] if drive_.power_w is None else [drive_.power_w]


def _plain(model: Path, source: str) -> tuple[Path | None, str]:
    """The model that the plain script runs, if any, and a description of it or of why there is none."""
    with open_source(source) as opened:
        if not isinstance(opened, VideoSource):
            return None, "not run: it reads a video file only"
    try:
        script = plain_model(model)
    except EngineError as error:
        return None, f"not run: {error}"
    return script, f"{script.name} on ONNX Runtime"


def _decode_fps(source: str, frames: int) -> float:
    start = perf_counter()
    count = sum(1 for _ in first_frames(source, frames))
    return count / (perf_counter() - start)


def machine() -> dict[str, str | int]:
    """The machine that measured: board, JetPack and power mode of a Jetson, processor, cores; only what is known."""
    told = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    known: dict[str, str | int] = {
        "board": board.model(),
        "jetpack": board.jetpack(),
        "power_mode": board.power_mode(),
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
    }
    return {name: value for name, value in known.items() if value}
