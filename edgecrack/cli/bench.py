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
    model: Annotated[Path, typer.Argument(help="The model file, as `edgecrack export` wrote it.")],
    source: Annotated[
        str | None, typer.Option(help="A video or images.  [default: a rendered road of 1920x1080 in H.264]")
    ] = None,
    frames: Annotated[int, typer.Option(min=10, help="How many frames of it a round takes.")] = 150,
    rounds: Annotated[int, typer.Option(min=1, help="Rates are medians of so many rounds.")] = 3,
    plain: Annotated[
        Path | None,
        typer.Option(help="The fp32 ONNX that the plain script runs.  [default: NAME.onnx beside the model]"),
    ] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the result, as a PNG for example.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the result as JSON.")] = None,
) -> None:
    """Measure the net alone, the decoder alone, each stage, the whole way to JSON lines and to an overlay video, and the
    script that everybody writes, in turns in one run. For numbers that mean something let nothing else run."""
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
