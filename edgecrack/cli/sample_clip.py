"""edgecrack sample-clip: a rendered road with known cracks, to run and to score without any data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def sample_clip(
    out: Annotated[Path, typer.Argument(help="The clip, OUT.mp4; its masks go to the folder OUT.masks beside it.")],
    seed: Annotated[int, typer.Option(help="A different seed gives a different road.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT.")] = "1280x720",
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the clip.")] = 10.0,
    rate: Annotated[float, typer.Option(min=1.0, help="Frames per second.")] = 30.0,
    view: Annotated[str, typer.Option(help="Camera view: forward, down, close or any.")] = "forward",
) -> None:
    """Render a clip of a road with cracks, and a mask for each frame; print the path of the clip."""
    import shutil
    from tempfile import TemporaryDirectory

    import numpy as np

    from edgecrack.dataset import masks_beside
    from edgecrack.files import atomic_path
    from edgecrack.images import write_image
    from edgecrack.rendering import RenderedRoad
    from edgecrack.runtime.video import VideoWriter
    from edgecrack.spec import FrameSpec

    frame_size = FrameSpec.parse(size)
    _check_free(out)
    road = RenderedRoad(seed, frame_size.height, frame_size.width, view=view)
    masks = masks_beside(out)
    with atomic_path(out) as clip, TemporaryDirectory(dir=out.parent, prefix=".") as folder:
        made = Path(folder) / "masks"  # and not the folder itself, which is made as 0700, too private for a result
        with VideoWriter(clip, rate, preset="veryfast") as writer:
            for index in range(max(1, round(seconds * rate))):
                image, mask = road.frame(index, rate)
                writer.write(image)
                write_image(made / f"{index:06d}.png", mask.astype(np.uint8) * 255)
        if masks.exists():
            typer.echo(f"{out} and its masks were there and are replaced", err=True)
            shutil.rmtree(masks)
        made.rename(masks)
    typer.echo(out)


def _check_free(out: Path) -> None:
    """Raise SourceError where `out` or its masks may be somebody's own; a clip that was rendered before is replaced."""
    from edgecrack.dataset import masks_beside
    from edgecrack.errors import SourceError, SpecError

    if out.suffix.lower() != ".mp4":
        raise SpecError(f"a clip is an MP4; wanted a name that ends in .mp4, got {out.name!r}")
    masks = masks_beside(out)
    if out.exists() and not masks.exists():
        raise SourceError(f"{out} is there, and without masks it is no rendered clip; give another name")
    if masks.exists() and not (
        masks.is_dir() and all(re.fullmatch(r"\d{6,}\.png", path.name) for path in masks.iterdir())
    ):
        raise SourceError(f"{masks} is there, and holds other things than masks of a rendered clip; give another name")
