"""edgecrack evaluate: models against labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecrack.cli.opening import BACKEND, DEVICE, REBUILD, TILE, opened
from edgecrack.cli.progress import tracked
from edgecrack.cli.training import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgecrack.dataset import LabelledFrames
    from edgecrack.evaluation import Evaluation, Gallery
    from edgecrack.runtime import CrackDetector

    Seen = tuple[Evaluation, Gallery]


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Model files, as written by `edgecrack export`.")
    ],
    data: Annotated[str, typer.Option(help="Data set folders or clips from sample-clip, separated by commas.")],
    split: Annotated[
        str, typer.Option(help="List to score in each folder, SPLIT.txt; a folder without lists is scored whole.")
    ] = "test",
    threshold: Annotated[float | None, typer.Option(help="Threshold in (0, 1].  [default: each model's own]")] = None,
    backend: Annotated[str, typer.Option(help=BACKEND)] = "auto",
    rebuild: Annotated[bool, typer.Option("--rebuild", help=REBUILD)] = False,
    device: Annotated[int, typer.Option(min=0, help=DEVICE)] = 0,
    tile: Annotated[str, typer.Option(help=TILE)] = "fit",
    every: Annotated[int, typer.Option(min=1, help="Score only every N-th frame.")] = 1,
    draws: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Draws of frames with replacement, for the intervals; 0: no intervals."),
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these draws.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for report.html, scores.json, frames.csv and precision_recall.png."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score models side by side on labelled frames.

    Scores are exact, within 2 and 5 pixels, and by patch, with intervals. Without masks, the score is the share of
    pixels detected as crack.
    """
    from functools import partial

    from edgecrack.dataset import open_labelled
    from edgecrack.evaluation.table import by_dataset, table
    from edgecrack.plots import new_figure
    from edgecrack.runtime.recording import make_folder

    folders = names(data)
    if not folders:
        raise typer.BadParameter("it names no folder and no clip", param_hint="--data")
    sets = {name: open_labelled(path, split).every(every) for name, path in _named(map(Path, folders)).items()}
    open_model = partial(opened, threshold=threshold, backend=backend, rebuild=rebuild, device=device, tile=tile)
    files = _named(models)
    if out:
        new_figure(1, 1)  # without matplotlib it fails now, and not after an hour
    if len(files) > 1:
        _try(files, open_model)
    seen: list[Seen] = []
    for model, path in files.items():
        with open_model(path) as detector:
            if out:
                make_folder(out)
            for name, dataset in sets.items():
                seen.append(_score(detector, dataset, names=(model, name), draws=draws, seed=seed))
                if out:
                    _save_scores(out, [evaluation for evaluation, _ in seen])
    evaluations = [evaluation for evaluation, _ in seen]
    typer.echo(_json(evaluations) if as_json else "\n\n".join(map(table, by_dataset(evaluations).values())))
    if out:
        _save_report(out, seen)


def _named(paths: Iterable[Path]) -> dict[str, Path]:
    """Each path under its name without the suffix, with the suffix or in full where two would have the same."""
    found = list(dict.fromkeys(paths))
    for name in (lambda path: path.stem if path.is_file() else path.resolve().name, lambda path: path.name, str):
        named = {name(path): path for path in found}
        if len(named) == len(found):
            break
    return named


def _try(files: dict[str, Path], open_model: Callable[[Path], CrackDetector]) -> None:
    """Open each model once, so that one that cannot be is known before the others were scored for an hour."""
    sizes = {}
    for name, path in files.items():
        with open_model(path) as detector:
            sizes[name] = str(detector.spec.input_frame)
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"{name} {size}" for name, size in sizes.items())
        typer.echo(f"the models take different sizes: {each}; what each loses by scaling counts against it", err=True)


def _score(
    detector: CrackDetector, dataset: LabelledFrames, *, names: tuple[str, str], draws: int, seed: int
) -> tuple[Evaluation, Gallery]:
    from dataclasses import replace
    from functools import partial

    from edgecrack.evaluation import Gallery
    from edgecrack.evaluation import evaluate as score

    gallery = Gallery(detector.threshold)
    model, name = names
    bar = partial(tracked, label=f"{model} on {name}, {detector.backend.name}", count=len(dataset))
    found = score(detector, dataset, bar, name=model, witness=gallery, draws=draws, seed=seed)
    return replace(found, dataset=name), gallery


def _json(evaluations: Sequence[Evaluation]) -> str:
    import json

    return json.dumps([evaluation.to_json() for evaluation in evaluations], indent=2)


def _save_scores(out: Path, evaluations: Sequence[Evaluation]) -> None:
    import csv
    import io

    from edgecrack.files import write_atomic

    rows = [row for evaluation in evaluations for row in evaluation.frame_rows()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(out / "frames.csv", text.getvalue())
    write_atomic(out / "scores.json", _json(evaluations) + "\n")


def _save_report(out: Path, seen: Sequence[Seen]) -> None:
    from edgecrack.evaluation import report_html, save_precision_recall
    from edgecrack.files import write_atomic

    write_atomic(out / "report.html", report_html(seen))
    curves = {}
    for evaluation, _ in seen:
        if evaluation.labelled:
            curves[f"{evaluation.model} on {evaluation.dataset}, exact"] = evaluation.strict
            curves[f"{evaluation.model} on {evaluation.dataset}, within 2 px"] = evaluation.near
    if curves:
        save_precision_recall(out / "precision_recall.png", curves)
