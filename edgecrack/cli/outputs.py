"""What `run` writes: its sinks, and the account at the end; not a verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from edgecrack.cli.resuming import Beginning
    from edgecrack.runtime import Account, Event, Sink, Sinks
    from edgecrack.runtime.recording import Room
    from edgecrack.runtime.sources import CountedSource

LOG = "log.jsonl"
_SEGMENT = 300.0  # seconds of a camera's video


@dataclass(frozen=True)
class OutputOptions:
    """What `run` is asked to write; see its options."""

    masks: bool = False
    overlay: bool = True
    boxes: bool = False
    contours: bool = False
    rle: bool = False
    save_when: str = "always"
    min_crack_share: float = 0.0
    segment: float | None = None
    keep_gb: float | None = None

    def __post_init__(self) -> None:
        from edgecrack.errors import SpecError

        if self.save_when not in ("always", "cracks"):
            raise SpecError(f"what is saved is saved always or when there are cracks, got {self.save_when!r}")
        if self.segment is not None and not self.segment >= 1:
            raise SpecError(f"a segment is 1 second or longer, got {self.segment:g}")
        if self.keep_gb is not None and not self.keep_gb > 0:
            raise SpecError(f"the gigabytes to keep are more than 0, got {self.keep_gb:g}")

    @property
    def only_finds(self) -> bool:
        """Whether what has no crack is left out."""
        return self.save_when == "cracks"


def account_of(road: CountedSource, sinks: Sinks, processed: Mapping[str, int]) -> Account:
    """What became of the frames; of a camera's it is put into the log too."""
    from edgecrack.runtime import Account, LiveSource

    account = Account.of(road, processed)
    if isinstance(road, LiveSource):
        sinks.write_event(account)
    return account


def open_sinks(stack: ExitStack, road: CountedSource, out: Path, options: OutputOptions, beginning: Beginning) -> Sinks:
    """The sinks by where they write; `stack` closes them. What cannot be opened leaves what was there as it was.

    The log is the last: a frame that it has is done with. A sink with `write_event` is told what happens, too.
    """
    from edgecrack.runtime import JsonLines, LiveSource, Sinks

    _claim(stack, out)
    beginning.check_log()
    sinks = stack.enter_context(Sinks())
    room = _room(out, options, sinks.write_event)
    live = isinstance(road, LiveSource)
    # What a camera declares is all the same: its frames are shown for as long as they lasted
    rate = None if beginning.has_images else road.rate or (30 if live else None)
    if options.overlay and rate:
        rate = min(max(0.01, rate), 1000)  # what a video may declare; its frames have times of their own
        path = out / ("evidence" if options.only_finds else "overlay.mp4")
        sinks.add(path, _video(path, rate, road, options, beginning, room))
    for path, sink in _images(out, rate, road, options, beginning, room).items():
        sinks.add(path, sink)
    beginning.settle()
    cameras = {camera.name: camera for camera in road.parts}
    dropped = (lambda source: cameras[source].dropped) if live else None
    log = JsonLines(out / LOG, boxes=options.boxes, contours=options.contours, rle=options.rle, dropped=dropped)
    sinks.add(out / LOG, log)
    if isinstance(road, LiveSource):
        road.on_event = told(road.on_event, sinks.write_event)
        beginning.tell(road.name, sinks.write_event)
    return sinks


def _claim(stack: ExitStack, out: Path) -> None:
    """Keep other runs out of `out` until `stack` is closed. Raises SourceError where one is in there."""
    import fcntl
    import os

    from edgecrack.errors import SourceError
    from edgecrack.runtime.recording import make_folder

    make_folder(out)
    try:
        descriptor = os.open(out, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SourceError(f"another run writes into {out}; give another --out") from error
    except OSError:  # a folder may not be looked into, a file system on the network may have no locks
        pass


def _video(
    path: Path, rate: float, road: CountedSource, options: OutputOptions, beginning: Beginning, room: Room
) -> Sink:
    """The overlay video, or the clips of what was found."""
    from edgecrack.runtime import Evidence, LiveSource, OverlayVideo

    sources = beginning.names(road)
    if options.only_finds:
        longest = options.segment or _SEGMENT
        return Evidence(path, rate, share=options.min_crack_share, longest=longest, sources=sources, room=room)
    segment = options.segment or (_SEGMENT if isinstance(road, LiveSource) or options.keep_gb is not None else None)
    return OverlayVideo(path, rate, segment=segment, sources=sources, resume=beginning.is_resumed, room=room)


def _room(out: Path, options: OutputOptions, tell: Callable[[Event], None]) -> Room:
    from edgecrack.runtime.recording import Room

    most = None if options.keep_gb is None else 1e9 * options.keep_gb
    return Room(out, most=most, patterns=("overlay*.mp4", "evidence/**/*.mp4", "evidence/**/*.jpg"), tell=tell)


def _images(
    out: Path, rate: float | None, road: CountedSource, options: OutputOptions, beginning: Beginning, room: Room
) -> dict[Path, Sink]:
    """The folders of overlays, where the source is no video, and of masks."""
    from edgecrack.runtime import MaskImages, OverlayImages
    from edgecrack.runtime.evidence import OnlyFinds, is_find

    sources = beginning.names(road)
    folders: list[OverlayImages | MaskImages] = []
    if options.overlay and not rate:
        folders.append(OverlayImages(out / "overlay", sources=sources, room=room))
    if options.masks:
        folders.append(MaskImages(out / "masks", sources=sources, room=room))
    share = options.min_crack_share
    logged = (item for images in beginning.images for item in images.items())
    written = [
        (number, image.name) for number, image in logged if not options.only_finds or is_find(image.crack_share, share)
    ]
    for folder in folders:
        folder.resume(written)
    return {folder.folder: OnlyFinds(folder, share) if options.only_finds else folder for folder in folders}


def told(*listeners: Callable[[Event], None]) -> Callable[[Event], None]:
    """One listener for all of them."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen
