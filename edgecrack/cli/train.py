"""edgecrack train: a checkpoint from labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    model: Annotated[str, typer.Option(help="The net: aelf-unet, cacpnet, msfnet or scnet.")],
    data: Annotated[str, typer.Option(help="Data set folders, with commas between.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.  [default: runs/MODEL]")] = None,
    rendered: Annotated[int, typer.Option(min=0, help="How many rendered roads join the data.")] = 400,
    width: Annotated[float | None, typer.Option(help="Channel multiplier.  [default: the compact one]")] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Start from the weights of this checkpoint.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the whole run.")] = 2000,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes of training.")] = None,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = 8,
    crop: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 256,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: the net's]")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and of every crop.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
) -> None:
    """Train a net on labelled frames and rendered roads; print the path of the best checkpoint."""
    import cv2
    import torch

    from edgecrack.errors import SpecError
    from edgecrack.models import model_class
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.spec import ModelSpec
    from edgecrack.training.data import open_training_sets
    from edgecrack.training.fit import FAST, Recipe, Trainer

    net = None
    spec = ModelSpec(model, model_class(model).compact_width if width is None else width)
    if start:
        net, stored = load_checkpoint(start)
        if (stored.name, width) not in ((model, None), (model, stored.width)):
            raise SpecError(f"{start} holds {stored.name} at width {stored.width}, not {model}")
        spec = ModelSpec(model, stored.width, stored.options)
    options: dict[str, Any] = dict(FAST[spec.name])
    if minutes is not None:
        options["minutes"] = minutes
    if learning_rate is not None:
        options["learning_rate"] = learning_rate
    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    recipe = Recipe(steps=steps, batch=batch, crop=crop, seed=seed, **options)
    sets, held_back = open_training_sets(filter(None, data.split(",")), rendered)
    folder = out or Path("runs") / model
    trainer = Trainer(spec, recipe, sets, held_back, folder, start=net, resume=resume)
    typer.echo(trainer.run(lambda line: typer.echo(line, err=True)))
