"""What `run` writes: its sinks, and the account at the end; not a verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from edgecrack.runtime import Account, Event, Sink, Source
    from edgecrack.runtime.sources import CountedSource


def account_of(road: CountedSource, sinks: dict[Path, Sink], processed: Mapping[str, int]) -> Account:
    """What became of the frames; of a camera's it is put into the log too."""
    from contextlib import suppress

    from edgecrack.errors import SourceError
    from edgecrack.runtime import Account, JsonLines, LiveSource

    account = Account.of(road, processed)
    if isinstance(road, LiveSource):
        for log in sinks.values():
            with suppress(SourceError):  # a full disk is what the run ends with anyway
                if isinstance(log, JsonLines):
                    log.write_event(account)
    return account


def open_sinks(stack: ExitStack, source: Source, out: Path, *, masks: bool, overlay: bool) -> dict[Path, Sink]:
    """The sinks by where they write; `stack` closes them."""
    from edgecrack.files import write_atomic
    from edgecrack.runtime import JsonLines, LiveSource, MaskImages, OverlayImages, OverlayVideo

    log = out / "log.jsonl"
    sinks: dict[Path, Sink] = {}
    # What a camera declares is all the same: its frames are shown for as long as they lasted.
    rate = source.rate or (30 if isinstance(source, LiveSource) else None)
    if overlay and rate:
        rate = max(0.01, rate)  # the slowest that a video may be; of every 3600th frame it is quicker than the road was
        sinks[out / "overlay.mp4"] = stack.enter_context(OverlayVideo(out / "overlay.mp4", rate))
    elif overlay:
        sinks[out / "overlay"] = stack.enter_context(OverlayImages(out / "overlay"))
    if masks:
        sinks[out / "masks"] = stack.enter_context(MaskImages(out / "masks"))
    write_atomic(
        log, ""
    )  # a second run begins anew, like its overlay; last, for what cannot be opened leaves it as it was
    lines = stack.enter_context(JsonLines(log))
    if isinstance(source, LiveSource):
        source.on_event = _told(source.on_event, lines.write_event)
    return {log: lines, **sinks}


def _told(*listeners: Callable[[Event], None]) -> Callable[[Event], None]:
    """One listener for all of them."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen
