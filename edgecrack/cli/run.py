"""`edgecrack run`: find the cracks in images, a video or a camera's frames and write them down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.opening import BACKEND, DEVICE, REBUILD, TILE, opened
from edgecrack.cli.outputs import OutputOptions, account_of, open_sinks
from edgecrack.cli.resuming import Beginning, record_of
from edgecrack.cli.watching import Headless, Live, LiveToken, Mqtt, Places, Watchers, open_watchers

if TYPE_CHECKING:
    from edgecrack.runtime import CrackDetector, Sinks
    from edgecrack.runtime.sources import CountedSource

SOURCE = (
    "An image, a folder of images, a quoted pattern or a video; or a camera: 0, /dev/video0, rtsp://, http://, udp://, "
    "rtmp://, srt://, csi://0, gst:PIPELINE, raw:1920x1080@30 (BGR on standard input). Repeat it for several cameras "
    "together, or for files one after the other."
)
SAVE_WHEN = (
    "always, or cracks: instead of the overlay, save clips from 2 s before to 2 s after each find and an image for "
    "each second of it; save masks of finds only."
)


def run(
    model: Annotated[Path, typer.Argument(help="Model file, as written by `edgecrack export`.")],
    source: Annotated[list[str], typer.Option(help=SOURCE)],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    threshold: Annotated[
        float | None, typer.Option(help="Crack probability threshold, in (0, 1].  [default: the model's own]")
    ] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help=REBUILD)] = False,
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    tile: Annotated[str, typer.Option(help=TILE)] = "fit",
    roi: Annotated[
        str | None,
        typer.Option(help="Region to search, in pixels or fractions: rows:0.4-0.9, or polygon corners 'x,y x,y x,y'."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Also write a PNG mask for each frame.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write the frames with the cracks drawn in.")] = True,
    boxes: Annotated[bool, typer.Option("--boxes", help="Log the bounding box of each crack.")] = False,
    contours: Annotated[bool, typer.Option("--contours", help="Log the contour of each crack.")] = False,
    rle: Annotated[bool, typer.Option("--rle", help="Log the masks, in COCO RLE format.")] = False,
    save_when: Annotated[str, typer.Option(help=SAVE_WHEN)] = "always",
    min_crack_share: Annotated[
        float, typer.Option(help="Crack share from which a frame is a find, for --save-when cracks and --mqtt.")
    ] = 0.001,
    segment: Annotated[
        float | None,
        typer.Option(
            help="Start a new video file after this many seconds.  [default: 300 for cameras and with --keep-gb]"
        ),
    ] = None,
    keep_gb: Annotated[
        float | None,
        typer.Option(help="Gigabytes of video to keep; the oldest files are deleted.  [default: keep all]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a run that was killed, from the end of its log.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT to request from a V4L2 or CSI camera.")] = None,
    rate: Annotated[float | None, typer.Option(help="Frames per second to request from a V4L2 or CSI camera.")] = None,
    codec: Annotated[str | None, typer.Option(help="Format to request from a V4L2 camera, such as MJPG.")] = None,
    flip: Annotated[str | None, typer.Option(help="Mirror or rotate the frames: horizontal, vertical or 180.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Repeat files endlessly.")] = False,
    start: Annotated[float | None, typer.Option(help="Seconds to skip at the start of a video.")] = None,
    end: Annotated[float | None, typer.Option(help="Second at which to stop reading a video.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Process only every N-th frame.")] = 1,
    staleness: Annotated[float, typer.Option(help="Age in seconds at which a camera frame is dropped.")] = 0.5,
    no_drop: Annotated[
        bool, typer.Option("--no-drop", help="Fail instead of dropping camera frames for lack of time.")
    ] = False,
    max_reconnects: Annotated[
        int | None,
        typer.Option(help="Failed attempts in a row to reach a camera before giving up.  [default: no limit]"),
    ] = None,
    live: Live = None,
    live_token: LiveToken = None,
    mqtt: Mqtt = None,
    headless: Headless = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show how the source would be read, and exit.")] = False,
) -> None:
    """Find cracks in images, a video or camera frames; write an overlay, a JSON Lines log and, on request, masks."""
    from contextlib import ExitStack

    import cv2

    from edgecrack.cli.stopping import stoppable
    from edgecrack.runtime import SourceOptions
    from edgecrack.runtime.address import scheme_of, trimmed
    from edgecrack.runtime.region import parse_region
    from edgecrack.runtime.sources import check_different, described
    from edgecrack.runtime.tiling import check_tile
    from edgecrack.spec import FrameSpec

    options = SourceOptions(
        size=None if size is None else FrameSpec.parse(size),
        rate=rate,
        codec=codec,
        flip=flip,  # type: ignore[arg-type]  # SourceOptions checks it
        loop=loop,
        start=start,
        end=end,
        every=every,
        staleness=staleness,
        drop=not no_drop,
        max_reconnects=max_reconnects,
    )
    outputs = OutputOptions(
        masks=masks,
        overlay=overlay,
        boxes=boxes,
        contours=contours,
        rle=rle,
        save_when=save_when,
        min_crack_share=min_crack_share,
        segment=segment,
        keep_gb=keep_gb,
    )
    source = [trimmed(each) for each in source]
    if dry_run:
        check_tile(tile)
        if roi is not None:
            parse_region(roi)
        check_different(source)
        typer.echo("\n".join(described(each, options) for each in source))
        return
    with ExitStack() as stack:
        places = Places.open(stack, live=live, live_token=live_token, mqtt=mqtt, min_crack_share=min_crack_share)
        detector = stack.enter_context(
            opened(
                model,
                threshold=threshold,
                backend=backend,
                rebuild=rebuild,
                device=device,
                tile=tile,
                roi=roi,
                hint="latency" if any(map(scheme_of, source)) else "throughput",
            )
        )
        if detector.backend.name != "tensorrt":
            cv2.setNumThreads(1)  # the net has the cores, and OpenCV's own threads would wait for them
        finds = outputs.min_crack_share if outputs.only_finds else None
        beginning = Beginning.of(out, record_of(model, detector, source, options, finds), resume=resume)
        road = beginning.open_source(stack, source, options)
        after = stack.enter_context(ExitStack())  # whoever watches is sent away when the files are whole
        sinks = open_sinks(stack, road, out, outputs, beginning)
        watchers = open_watchers(after, places, detector, road, out, sinks, headless=headless)
        with stoppable(road.stop):
            _run(detector, road, sinks, watchers)
    sinks.check()


def _run(detector: CrackDetector, road: CountedSource, sinks: Sinks, watchers: Watchers) -> None:
    """Take `road` through `detector` into `sinks`, and say what became of its frames, also when it breaks off."""
    from collections import Counter
    from contextlib import closing
    from time import perf_counter

    from edgecrack.runtime import LiveSource

    processed: Counter[str] = Counter()
    crack = pixels = 0
    start = perf_counter()
    try:
        with closing(detector.stream(road)) as stream, watchers.view:
            for frame, detection in stream:
                sinks.write(frame, detection)
                watchers.sinks.write(frame, detection)
                processed[frame.source] += 1
                crack += detection.crack_pixels
                pixels += detection.height * detection.width
    except BaseException:
        account = account_of(road, sinks, processed)
        watchers.sinks.write_event(account)
        if road.read or isinstance(road, LiveSource):
            typer.echo(str(account))
        raise
    spent = perf_counter() - start
    account = account_of(road, sinks, processed)
    watchers.sinks.write_event(account)
    frames = processed.total()
    if not road.read and not isinstance(road, LiveSource):
        typer.echo("no frame came: nothing was left to do")
        return
    typer.echo(f"{frames} frames, {frames / spent:.1f} a second end to end on {detector.backend.name}")
    typer.echo(f"{100 * crack / max(1, pixels):.3f} % of the pixels are crack at threshold {detector.threshold:g}")
    typer.echo(str(account))
    written = [_files_of(Path(name)) for name in sinks.names if name not in sinks.lost]
    typer.echo(f"written: {', '.join(filter(None, written))}")
    for name in sinks.lost:
        typer.echo(f"not written to the end: {name}")


def _files_of(path: Path) -> str:
    """The names of what a sink wrote; videos go on in further files, and each of several sources has its own."""
    files = [str(each) for each in (path, *sorted(path.parent.glob(f"{path.stem}-*.mp4"))) if each.exists()]
    return ", ".join(files) if len(files) < 5 else f"{files[0]} and {len(files) - 1} more"
