"""edgecrack search: the switches of a recipe that do best on held-back frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecrack.cli.training import FOLDERS, HED, MODEL, SETTING, SKIP_BAD, opened_data, planned, starting_net, telling

if TYPE_CHECKING:
    from edgecrack.spec import ModelSpec
    from edgecrack.training.recipes import Recipe
    from edgecrack.training.search import Point


def search(
    data: Annotated[str, typer.Option("--data", "--labelled", help=FOLDERS)],
    model: Annotated[str, typer.Option(help=MODEL)] = "aelf-unet",
    grid: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE,VALUE: a switch and its values.  [default: gamma1 and gamma2 of AELF, 25 runs]"),
    ] = None,
    recipe: Annotated[str, typer.Option(help="fast (ours) or paper (from the net's paper).")] = "fast",
    settings: Annotated[list[str] | None, typer.Option("--set", help=f"{SETTING} Applies to every run.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder.  [default: runs/search-MODEL]")
    ] = None,
    rendered: Annotated[int, typer.Option(min=0, help="Number of rendered roads to add to the data.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help=SKIP_BAD)] = False,
    width: Annotated[
        float | None, typer.Option(help="Channel multiplier.  [default: the compact one, or 1 with --recipe paper]")
    ] = None,
    hed: Annotated[Path | None, typer.Option(help=HED)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps per run.  [default: the recipe's]")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and every crop.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 uses all.")] = 0,
) -> None:
    """Train once for each point of a grid; print the best point as --set options and draw its heat map.

    The score is the 2-pixel F1 on frames held back from the training list. An interrupted search continues where it
    stopped.
    """
    import cv2
    import torch

    from edgecrack.errors import TrainingError
    from edgecrack.models.external import needs_hed
    from edgecrack.training.fit import Trainer
    from edgecrack.training.machine import drawing_threads, open_fabric
    from edgecrack.training.search import AELF_GRID, Search, in_words
    from edgecrack.training.states import LAST

    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    told = [*(settings or ()), f"seed={seed}", *([f"steps={steps}"] if steps else [])]
    spec, plan = planned(model, recipe, told, width, None, None)
    folder = out or Path("runs") / f"search-{model}"
    sets, held_back, _ = opened_data(plan, data, "", 1.0, rendered, skip_bad)
    about = f"{spec.to_json()} {plan.to_json()} {[(frames.name, len(frames)) for frames in sets]}"
    found = Search(folder, _grid(model, grid) if grid else AELF_GRID, about)

    def planned_at(point: Point) -> tuple[ModelSpec, Recipe]:
        return planned(model, recipe, [*told, *(f"{name}={value}" for name, value in point.items())], width, None, None)

    for point in found.points:  # what cannot be fails now, and not after the runs before it
        planned_at(point)

    def evaluate(point: Point) -> float:
        run = folder / in_words(point)
        chosen, changed = planned_at(point)
        fabric = open_fabric(device, precision=changed.precision)
        torch.manual_seed(changed.seed)
        net, chosen = starting_net(chosen, None, hed if needs_hed(chosen) else None, None)
        drawing = drawing_threads(fabric.device.type, 1)
        resume = (run / LAST).exists()
        trainer = Trainer(
            chosen, changed, sets, held_back, run, start=net, resume=resume, fabric=fabric, workers=drawing
        )
        try:
            trainer.run(report, tick=tick)
        except TrainingError as error:  # of this point; the others have still to be tried
            report(f"{in_words(point)} counts as 0: {error}")
            return 0.0
        return trainer.kept_score

    with telling(True) as (report, tick):
        best, score = found.run(evaluate, report)
    typer.echo(f"--set {' --set '.join(f'{name}={value}' for name, value in best.items())}  # 2-pixel F1 {score:.4f}")


def _grid(model: str, told: list[str]) -> dict[str, list[Any]]:
    """`NAME=VALUE,VALUE` as a switch and its values. Raises SpecError for a switch that `model` has not."""
    from edgecrack.errors import SpecError
    from edgecrack.training.recipes import parsed

    found: dict[str, list[Any]] = {}
    for text in told:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise SpecError(f"--grid takes NAME=VALUE,VALUE; got {text!r}")
        chosen = [(value, parsed(model, name, value)[1]) for value in values.split(",")]
        found[name] = [value if isinstance(value, (bool, int, float)) else text for text, value in chosen]
    return found
