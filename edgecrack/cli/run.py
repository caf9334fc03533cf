"""`edgecrack run`: find the cracks in images or a video and write them down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.opening import BACKEND, DEVICE, REBUILD, TILE, opened

if TYPE_CHECKING:
    from contextlib import ExitStack

    from edgecrack.runtime import Sink, Source


def run(
    model: Annotated[Path, typer.Argument(help="The model file, as `edgecrack export` wrote it.")],
    source: Annotated[str, typer.Option(help="An image, a folder of images, a quoted pattern or a video.")],
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
    every: Annotated[int, typer.Option(min=1, help="Take every N-th frame only.")] = 1,
    masks: Annotated[bool, typer.Option("--masks", help="Write a PNG mask a frame as well.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write the frames with their cracks drawn in.")] = True,
) -> None:
    """Find the cracks in images or a video: an overlay, a log with one line of JSON a frame and, if asked, masks."""
    from contextlib import ExitStack
    from time import perf_counter

    from rich.console import Console
    from rich.progress import track

    from edgecrack.runtime import SourceOptions, open_source

    frames = crack = pixels = 0
    detector = opened(model, threshold=threshold, backend=backend, rebuild=rebuild, device=device, tile=tile, roi=roi)
    with detector, ExitStack() as stack:
        road = stack.enter_context(open_source(source, SourceOptions(every=every)))
        sinks = _open_sinks(stack, road, out, masks=masks, overlay=overlay)
        terminal = Console(stderr=True)
        start = perf_counter()
        for frame, detection in track(
            detector.stream(road),
            description=detector.backend.name,
            total=road.count,
            console=terminal,
            disable=not terminal.is_terminal,
        ):
            for sink in sinks.values():
                sink.write(frame, detection)
            frames += 1
            crack += detection.crack_pixels
            pixels += detection.mask.size
        spent = perf_counter() - start
    typer.echo(f"{frames} frames, {frames / spent:.1f} a second end to end on {detector.backend.name}")
    typer.echo(f"{100 * crack / pixels:.3f} % of the pixels are crack at threshold {detector.threshold:g}")
    typer.echo(f"written: {', '.join(map(str, sinks))}")


def _open_sinks(stack: ExitStack, source: Source, out: Path, *, masks: bool, overlay: bool) -> dict[Path, Sink]:
    """The sinks by where they write; `stack` closes them."""
    from edgecrack.files import write_atomic
    from edgecrack.runtime import JsonLines, MaskImages, OverlayImages, OverlayVideo

    log = out / "log.jsonl"
    sinks: dict[Path, Sink] = {}
    if overlay and source.rate:
        sinks[out / "overlay.mp4"] = stack.enter_context(OverlayVideo(out / "overlay.mp4", source.rate))
    elif overlay:
        sinks[out / "overlay"] = stack.enter_context(OverlayImages(out / "overlay"))
    if masks:
        sinks[out / "masks"] = stack.enter_context(MaskImages(out / "masks"))
    write_atomic(
        log, ""
    )  # a second run begins anew, like its overlay; last, for what cannot be opened leaves it as it was
    return {log: stack.enter_context(JsonLines(log)), **sinks}
