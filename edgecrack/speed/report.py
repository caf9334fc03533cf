"""Speed measurements as a text table and as a plot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgecrack.plots import new_figure, save_figure
from edgecrack.speed.measure import Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = {
    "decode": "decode",
    "preprocess": "preprocess",
    "net": "net",
    "postprocess": "postprocess",
    "log": "log",
    "host": "all but decode and net",
}
_HEAD = ("", "frames/s", "median ms", "p95", "p99")


def table(speed: Speed) -> str:
    """The measurements as text: what ran where, a row for each part, and a summary."""
    rows = [_HEAD, *(_row(label, fps, speed, stage) for label, fps, stage in _rates(speed))]
    rows.append(("one frame after another:", "", "", "", ""))
    rows += [_row(f"  {label}", None, speed, stage) for stage, label in STAGES.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    return "\n".join([_title(speed), *(line.rstrip() for line in lines), *_verdict(speed)])


def save_speed(path: str | os.PathLike[str], speed: Speed) -> None:
    """Plot the rates, with the limit, and the time of each stage up to its 99th percentile.

    The suffix of `path` chooses the format (PNG, SVG, PDF); without one it is PNG. Raises MissingDependency without
    matplotlib, SourceError when the file cannot be written.
    """
    figure = new_figure(9, 6)
    figure.suptitle(_title(speed), fontsize="small")
    _draw_rates(figure.add_subplot(2, 1, 1, xlabel="frames a second"), speed)
    _draw_stages(figure.add_subplot(2, 1, 2, xlabel="milliseconds: median, to the 99th percentile"), speed)
    save_figure(path, figure)


def _rates(speed: Speed) -> list[tuple[str, float | None, str]]:
    """(label, rate, matching key of `Speed.milliseconds`)."""
    return [
        *((f"net alone, {mode} mode", fps, f"bare {mode}") for mode, fps in speed.bare.items()),
        ("decoder alone", speed.decode_fps, ""),
        ("limit: the two in turns", speed.limit_fps, ""),
        ("end to end, to JSON lines", speed.end_to_end_fps, "end to end"),
        ("end to end, with overlay video", speed.overlay_fps, "with overlay"),
        ("plain script", speed.plain_script_fps, ""),
    ]


def _row(label: str, fps: float | None, speed: Speed, stage: str) -> tuple[str, ...]:
    spread = speed.milliseconds.get(stage)
    rate = "" if fps is None else f"{fps:.1f}"
    if spread is None:
        return label, rate, "", "", ""
    return label, rate, f"{spread.median:.2f}", f"{spread.p95:.2f}", f"{spread.p99:.2f}"


def _title(speed: Speed) -> str:
    model, source, machine = speed.model, speed.source, speed.machine
    what = f"{model['net']} {model['precision']} at {model['size']} on {model['backend']}"
    return (
        f"{what}; {source['frames']} frames of {source['size']}, {source['rounds']} rounds; "
        f"{machine.get('board', machine['cpu'])}, {machine['cores']} cores"
    )


def _verdict(speed: Speed) -> list[str]:
    over = speed.over_plain_script
    reached = (
        f"end to end is {speed.end_to_end_of_limit:.2f} of the limit, {speed.overlay_of_limit:.2f} with overlay video"
    )
    lines = [f"{reached}, {over:.2f} times the plain script" if over else reached]
    if not over:
        lines.append(f"plain script {speed.plain_script}")
    lines.append(f"{100 * speed.cpu_share:.0f} % of the cores, at most {speed.peak_memory_mb:.0f} MB of memory")
    if speed.power_w is not None:
        lines.append(f"{speed.power_w:.1f} W, {speed.joules_per_frame:.3f} J a frame")
    return lines


def _draw_rates(axes: Axes, speed: Speed) -> None:
    bars = [(label, fps) for label, fps, _ in reversed(_rates(speed)) if fps is not None]
    drawn = axes.barh([label for label, _ in bars], [fps for _, fps in bars])
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.axvline(speed.limit_fps, color="0.4", linestyle="--", linewidth=0.8)
    axes.margins(x=0.1)


def _draw_stages(axes: Axes, speed: Speed) -> None:
    spreads = [(label, speed.milliseconds[stage]) for stage, label in reversed(STAGES.items())]
    medians = [spread.median for _, spread in spreads]
    tails = [spread.p99 - spread.median for _, spread in spreads]
    axes.barh([label for label, _ in spreads], medians, xerr=([0.0] * len(tails), tails), color="tab:orange", capsize=3)
    axes.margins(x=0.1)
