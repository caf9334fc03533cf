"""Watching a run: on a page, on the terminal, at an MQTT broker; not a verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.outputs import LOG, told

if TYPE_CHECKING:
    from contextlib import AbstractContextManager, ExitStack

    from rich.console import Console, RenderableType
    from rich.table import Table

    from edgecrack.runtime import CrackDetector, Event, Sinks
    from edgecrack.runtime.door import Door
    from edgecrack.runtime.mqtt import MqttMessages
    from edgecrack.runtime.readings import Reading, Readings
    from edgecrack.runtime.sources import CountedSource

LIVE = "Serve a page with the picture at PORT on this machine, or at HOST:PORT for others too, who then need a token."
KEY_HELP = "Token for the page, at least 8 characters; by default one is generated if --live is open to others."
MQTT = "Send events and finds to an MQTT broker: mqtt://USER:PASSWORD@HOST:PORT/TOPIC, or mqtts://."

Live = Annotated[str | None, typer.Option(metavar="ADDRESS", help=LIVE)]
LiveToken = Annotated[str | None, typer.Option(metavar="TOKEN", envvar="EDGECRACK_LIVE_TOKEN", help=KEY_HELP)]
Mqtt = Annotated[str | None, typer.Option(metavar="URL", envvar="EDGECRACK_MQTT", help=MQTT)]
Headless = Annotated[bool, typer.Option("--headless", help="Show nothing on the terminal during the run.")]


@dataclass(frozen=True)
class Places:
    """Where a run is watched from: a door for the page, the messages to a broker."""

    door: Door | None
    messages: MqttMessages | None

    @classmethod
    def open(
        cls, stack: ExitStack, *, live: str | None, live_token: str | None, mqtt: str | None, min_crack_share: float
    ) -> Places:
        """As asked for, closed by `stack`; what cannot be, or is taken, is known before anything else is opened."""
        door = messages = None
        if live is not None:
            import edgecrack.runtime.page  # noqa: F401  # what is missing is to be known now, too
            from edgecrack.runtime.door import Door

            door = stack.enter_context(Door(live, live_token))
        if mqtt is not None:
            from edgecrack.runtime.mqtt import Broker, MqttMessages

            messages = stack.enter_context(MqttMessages(Broker.parse(mqtt), share=min_crack_share))
        return cls(door, messages)


@dataclass(frozen=True)
class Watchers:
    """What a run is watched by: `sinks` are given each frame and event, `view` is for the time it runs."""

    sinks: Sinks
    view: AbstractContextManager[object]


def open_watchers(
    stack: ExitStack,
    places: Places,
    detector: CrackDetector,
    road: CountedSource,
    out: Path,
    written: Sinks,
    *,
    headless: bool,
) -> Watchers:
    """The page and the terminal's view, closed by `stack`; places that are marked go where the log is, `written`."""
    from contextlib import nullcontext
    from functools import partial

    from rich.console import Console

    from edgecrack.runtime import LiveSource, Sinks
    from edgecrack.runtime.readings import Readings

    terminal = Console(stderr=True)
    readings, sinks = Readings.of(road), stack.enter_context(Sinks())
    shown = terminal.is_terminal and not headless
    if places.messages:
        sinks.add("messages", places.messages)
    if places.door or shown:
        sinks.add("readings", readings)
    if places.door:
        from edgecrack.runtime.page import Page

        mark = partial(_mark, written, sinks, out / LOG)
        stack.enter_context(Page(places.door, detector, readings, out, mark))
        typer.echo(f"watch at {places.door.url}", err=True)
    written.on_event = sinks.write_event
    if isinstance(road, LiveSource):
        road.on_event = told(road.on_event, sinks.write_event)
    return Watchers(sinks, TerminalView(readings, road, detector, terminal) if shown else nullcontext())


def _mark(written: Sinks, watchers: Sinks, log: Path, event: Event) -> None:
    """Keep the place in the log; raises SourceError where there is none any more, since its disk is full."""
    from edgecrack.errors import SourceError

    written.write_event(event)
    if str(log) in written.lost:
        raise SourceError(written.lost[str(log)])
    watchers.write_event(event)


class TerminalView:
    """A line for each source, renewed a few times a second, and a bar where it is known how many frames will come."""

    def __init__(self, readings: Readings, road: CountedSource, detector: CrackDetector, console: Console) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._readings, self._detector = readings, detector
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, console=console) if road.count else None
        if self._progress:
            self._progress.add_task("frames", total=road.count)
        # Standard output is for the results; what is logged to standard error comes out above the view.
        self._live = Live(console=console, get_renderable=self._picture, redirect_stdout=False)

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        troubles = [Text(f"not recorded: {trouble}", "bold red") for trouble in self._readings.troubles()]
        readings = self._readings.now()
        table = self._table(readings)
        if self._progress is None:
            return Group(table, *troubles)
        self._progress.update(self._progress.task_ids[0], completed=sum(reading.frames for reading in readings))
        return Group(table, *troubles, self._progress)

    def _table(self, readings: list[Reading]) -> Table:
        from rich.table import Table

        title = f"{self._detector.backend.name}, threshold {self._detector.threshold:g}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        table.add_column("source", overflow="fold", max_width=40)
        table.add_column("state")
        for name in ("frames/s", "delay", "dropped", "crack"):
            table.add_column(name, justify="right")
        for reading in readings:
            table.add_row(*_cells(reading))
        return table


def _cells(reading: Reading) -> tuple[RenderableType, ...]:
    from rich.text import Text

    style = {"connected": "green", "lost": "bold red"}.get(reading.state, "yellow")
    state = f"{reading.state}: {reading.reason}" if reading.reason else reading.state
    return (
        Text(reading.name),
        Text(state, style),
        f"{reading.pace:.1f}",
        f"{reading.latency:.0f} ms",
        str(reading.dropped),
        "" if reading.crack_share is None else f"{reading.crack_share:.2%}",
    )
