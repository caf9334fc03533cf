"""edgecrack train: a checkpoint from labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    model: Annotated[str, typer.Option(help="The net: aelf-unet, cacpnet, msfnet or scnet.")],
    data: Annotated[str, typer.Option(help="Data set folders, with commas between.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.  [default: runs/MODEL]")] = None,
    rendered: Annotated[int, typer.Option(help="How many rendered roads join the data.")] = 400,
    width: Annotated[float | None, typer.Option(help="Channel multiplier.  [default: the compact one]")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the whole run.")] = 2000,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes of training.")] = None,
    batch: Annotated[int, typer.Option(help="Crops a step.")] = 8,
    crop: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 256,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: the net's]")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and of every crop.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder.")] = False,
) -> None:
    """Train a net on labelled frames and rendered roads; print the path of the best checkpoint."""
    import math

    import cv2
    import torch

    from edgecrack.models import model_class
    from edgecrack.spec import ModelSpec
    from edgecrack.training.data import open_training_sets
    from edgecrack.training.fit import LEARNING_RATES, Recipe, Trainer

    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    spec = ModelSpec(model, width or model_class(model).compact_width)
    recipe = Recipe(
        steps,
        minutes or math.inf,
        batch,
        crop,
        learning_rate or LEARNING_RATES[model],
        warm_up_cross_entropy=0.1 if model == "aelf-unet" else 0.0,
        seed=seed,
    )
    sets, held_back = open_training_sets(filter(None, data.split(",")), rendered)
    folder = out or Path("runs") / model
    trainer = Trainer(spec, recipe, sets, held_back, folder, resume=resume)
    typer.echo(trainer.run(lambda line: typer.echo(line, err=True)))
