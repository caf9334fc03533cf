"""edgecrack data: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecrack.cli.progress import tracked

data = typer.Typer(help="Inspect data sets.", no_args_is_help=True)


@data.callback()
def _data() -> None:
    """Inspect data sets."""


@data.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A data set in any supported layout, or a CSV of image,mask[,split].")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for report.json and montage.jpg.  [default: data-check/DIR]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find what would ruin training; exit with code 1 if anything would.

    The checks cover mismatched pairs, unreadable files, the same picture in two splits, and masks that have another
    size or are inverted, shifted, empty, compressed or not binary.
    """
    import json
    from functools import partial

    import cv2

    from edgecrack.files import write_atomic
    from edgecrack.images import write_image
    from edgecrack.inspection import inspect, montage

    cv2.setNumThreads(1)  # frames are looked at side by side
    found = inspect(folder, partial(tracked, label="looking"))
    report = json.dumps(found.to_json(), indent=2)
    typer.echo(report if as_json else "\n".join(found.rows()))
    place = out or Path("data-check") / found.name
    write_atomic(place / "report.json", report + "\n")
    write_image(place / "montage.jpg", montage(found))
    typer.echo(f"report and montage in {place}", err=True)
    if found.ruins:
        kinds = [kind for kind, problems in found.by_kind.items() if problems[0].ruins]
        typer.echo(f"edgecrack: {folder} would ruin training: {', '.join(kinds)}", err=True)
        raise typer.Exit(1)
