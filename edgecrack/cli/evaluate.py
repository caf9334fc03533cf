"""edgecrack evaluate: a model against labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.opening import BACKEND, DEVICE, REBUILD, TILE, opened

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgecrack.dataset import LabelledFrame, LabelledFrames
    from edgecrack.evaluation import Evaluation


def evaluate(
    model: Annotated[Path, typer.Argument(help="The model file, as `edgecrack export` wrote it.")],
    data: Annotated[str, typer.Option(help="Data set folders or clips of sample-clip, with commas between.")],
    split: Annotated[
        str, typer.Option(help="The list of each folder, SPLIT.txt; a folder without lists is scored whole.")
    ] = "test",
    threshold: Annotated[float | None, typer.Option(help="In (0, 1].  [default: the model's own]")] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help=REBUILD)] = False,
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    tile: Annotated[str, typer.Option(help=TILE)] = "fit",
    every: Annotated[int, typer.Option(min=1, help="Score every N-th frame only.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for scores.json and precision_recall.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a model on labelled frames: exact, within 2 and 5 pixels, by patch. Without masks: the share of pixels that fire."""
    import json
    from functools import partial

    from edgecrack.dataset import open_labelled
    from edgecrack.evaluation import evaluate as score
    from edgecrack.files import write_atomic

    folders = [name.strip() for name in data.split(",") if name.strip()]
    if not folders:
        raise typer.BadParameter("it names no folder and no clip", param_hint="--data")
    sets = [open_labelled(folder, split).every(every) for folder in folders]
    evaluations = []
    with opened(model, threshold=threshold, backend=backend, rebuild=rebuild, device=device, tile=tile) as detector:
        for dataset in sets:
            evaluations.append(score(detector, dataset, partial(_bar, dataset, detector.backend.name)))
    report = json.dumps([evaluation.to_json() for evaluation in evaluations], indent=2)
    typer.echo(report if as_json else "\n".join(map(_table, evaluations)))
    if out:
        write_atomic(out / "scores.json", report + "\n")
        _save_curves(out / "precision_recall.png", evaluations)


def _bar(dataset: LabelledFrames, backend: str, frames: Iterable[LabelledFrame]) -> Iterable[LabelledFrame]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    label = f"{dataset.name} on {backend}"
    return track(frames, label, len(dataset), console=console, disable=not console.is_terminal)


def _table(evaluation: Evaluation) -> str:
    rows = evaluation.rows()
    wide = max(len(label) for label, _ in rows)
    return "\n".join(
        [f"{evaluation.model} on {evaluation.dataset}", *(f"  {label:<{wide}}  {value}" for label, value in rows)]
    )


def _save_curves(path: Path, evaluations: list[Evaluation]) -> None:
    from edgecrack.evaluation import save_precision_recall

    curves = {}
    for evaluation in evaluations:
        if evaluation.labelled:
            curves[f"{evaluation.dataset}, exact"] = evaluation.strict
            curves[f"{evaluation.dataset}, within 2 px"] = evaluation.near
    if curves:
        save_precision_recall(path, curves)
