"""edgecrack bench: how fast a model runs here, against the most that it could."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.opening import BACKEND, DEVICE

if TYPE_CHECKING:
    from contextlib import ExitStack

_DISTINCT = 30  # frames that are rendered; the clip goes over them back and forth


def bench(
    model: Annotated[Path, typer.Argument(help="Model file, as written by `edgecrack export`.")],
    source: Annotated[
        str | None, typer.Option(help="A video or images.  [default: a rendered 1920x1080 road in H.264]")
    ] = None,
    frames: Annotated[int, typer.Option(min=10, help="Frames of the source in each round.")] = 150,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; rates are medians over them.")] = 3,
    plain: Annotated[
        Path | None,
        typer.Option(help="fp32 ONNX file for the plain script.  [default: NAME.onnx beside the model]"),
    ] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    plot: Annotated[Path | None, typer.Option(help="Plot the result to this file, for example a PNG.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")] = None,
) -> None:
    """Measure how fast a model runs on this machine.

    One run measures, in turns, the net alone, the decoder alone, each stage, the whole pipeline to JSON lines and to an
    overlay video, and the plain script that everybody writes. For meaningful numbers, let nothing else run.
    """
    import json
    from contextlib import ExitStack
    from functools import partial

    from edgecrack.files import write_atomic
    from edgecrack.speed import measure, save_speed, table

    with ExitStack() as stack:
        road = source if source is not None else str(_rendered(stack, frames))
        speed = measure(
            model,
            road,
            frames=frames,
            rounds=rounds,
            backend=backend,
            device=device,
            plain=plain,
            tell=partial(typer.echo, err=True),
        )
    typer.echo(table(speed))
    if as_json:
        write_atomic(as_json, json.dumps(speed.to_json(), indent=2) + "\n")
    if plot:
        save_speed(plot, speed)


def _rendered(stack: ExitStack, frames: int) -> Path:
    """A clip in a folder that `stack` removes."""
    from itertools import cycle, islice
    from tempfile import TemporaryDirectory

    from edgecrack.rendering import RenderedRoad
    from edgecrack.runtime import VideoWriter

    clip = Path(stack.enter_context(TemporaryDirectory(prefix="edgecrack-"))) / "road.mp4"
    typer.echo("rendering a road", err=True)
    road = RenderedRoad(13, 1080, 1920, view="forward")
    images = [road.frame(index)[0] for index in range(min(frames, _DISTINCT))]
    with VideoWriter(clip, 30.0, preset="veryfast") as writer:
        for image in islice(cycle([*images, *images[-2:0:-1]]), frames):
            writer.write(image)
    return clip
