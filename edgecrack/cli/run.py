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
    "rtmp://, srt://, csi://0, gst:PIPELINE, raw:1920x1080@30 (BGR on standard input). Several times: cameras together, or "
    "files one after the other."
)
SAVE_WHEN = (
    "always, or cracks: in place of the overlay, clips from 2 s before to 2 s after each find and an image for each second "
    "of it; masks of finds only."
)


def run(
    model: Annotated[Path, typer.Argument(help="The model file, as `edgecrack export` wrote it.")],
    source: Annotated[list[str], typer.Option(help=SOURCE)],
    out: Annotated[Path, typer.Option(help="The folder for the results.")],
    threshold: Annotated[
        float | None, typer.Option(help="The crack probability that counts, in (0, 1]; by default the model's own.")
    ] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help=REBUILD)] = False,
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    tile: Annotated[str, typer.Option(help=TILE)] = "fit",
    roi: Annotated[
        str | None,
        typer.Option(help="Where to look: rows:0.4-0.9, or the corners of a polygon, 'x,y x,y x,y'; pixels or shares."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Write a PNG mask a frame as well.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write the frames with their cracks drawn in.")] = True,
    boxes: Annotated[bool, typer.Option("--boxes", help="Put the box around each crack into the log.")] = False,
    contours: Annotated[bool, typer.Option("--contours", help="Put the contour of each crack into the log.")] = False,
    rle: Annotated[bool, typer.Option("--rle", help="Put the masks into the log, as COCO's RLE.")] = False,
    save_when: Annotated[str, typer.Option(help=SAVE_WHEN)] = "always",
    min_crack_share: Annotated[
        float, typer.Option(help="The share of a frame that makes it a find, for --save-when cracks and --mqtt.")
    ] = 0.001,
    segment: Annotated[
        float | None,
        typer.Option(help="Seconds of a video file, after which a further one is begun; by default 300 for cameras."),
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option(help="Gigabytes of video to keep: the oldest files are deleted. By default none is.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was killed, from where its log ends.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT to ask of a V4L2 or CSI camera.")] = None,
    rate: Annotated[float | None, typer.Option(help="Frames a second to ask of a V4L2 or CSI camera.")] = None,
    codec: Annotated[str | None, typer.Option(help="Format to ask of a V4L2 camera, such as MJPG.")] = None,
    flip: Annotated[str | None, typer.Option(help="horizontal, vertical or 180.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin files again at their end, for ever.")] = False,
    start: Annotated[float | None, typer.Option(help="Seconds of a video to leave out.")] = None,
    end: Annotated[float | None, typer.Option(help="The second at which to leave a video.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every N-th frame only.")] = 1,
    staleness: Annotated[float, typer.Option(help="Age in seconds at which a camera's frame is dropped.")] = 0.5,
    no_drop: Annotated[
        bool, typer.Option("--no-drop", help="Fail rather than drop a camera's frame for lack of time.")
    ] = False,
    max_reconnects: Annotated[
        int | None, typer.Option(help="Failed tries in a row to reach a camera before giving up; by default for ever.")
    ] = None,
    live: Live = None,
    live_token: LiveToken = None,
    mqtt: Mqtt = None,
    headless: Headless = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how the source would be read, and end.")] = False,
) -> None:
    """Find the cracks in images, a video or a camera's frames: an overlay, a log of JSON lines and, if asked, masks."""
    from contextlib import ExitStack

    import cv2

    from edgecrack.cli.stopping import stoppable
    from edgecrack.runtime import SourceOptions
    from edgecrack.runtime.address import scheme_of, trimmed
    from edgecrack.runtime.sources import described
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
        beginning = Beginning.of(out, record_of(model, detector, source, options), resume=resume)
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
        if isinstance(road, LiveSource):  # of files the log says how far it came, and the error where it ended
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
    typer.echo(f"written: {', '.join(name for name in sinks.names if name not in sinks.lost and Path(name).exists())}")
    for name in sinks.lost:
        typer.echo(f"not written to the end: {name}")
