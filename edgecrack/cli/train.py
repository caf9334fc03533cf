"""edgecrack train: a checkpoint from labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecrack.cli.training import (
    FOLDERS,
    HED,
    MODEL,
    SETTING,
    SKIP_BAD,
    loaded_teacher,
    opened_data,
    planned,
    starting_net,
    summary,
    telling,
)


def train(
    model: Annotated[str | None, typer.Option(help=f"{MODEL}  [default: that of --from]")] = None,
    data: Annotated[str, typer.Option("--data", "--labelled", help=FOLDERS)] = "",
    unlabelled: Annotated[str, typer.Option(help=f"Learn from frames without labels too. {FOLDERS}")] = "",
    labels: Annotated[float, typer.Option(help="Use this share of the labelled frames, for studies.")] = 1.0,
    recipe: Annotated[
        str | None, typer.Option(help="fast (ours) or paper (the net's paper's).  [default: that of --from, or fast]")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTING)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.  [default: runs/MODEL]")] = None,
    rendered: Annotated[
        int | None,
        typer.Option(
            min=0, help="How many rendered roads join the data.  [default: 400 in a fast run with all labels]"
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help=SKIP_BAD)] = False,
    width: Annotated[
        float | None, typer.Option(help="Channel multiplier.  [default: the compact one, in a paper's run 1]")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this checkpoint: its net, its recipe, its weights.")
    ] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="With --from: the same run anew, with fresh weights.")
    ] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from this checkpoint's answers beside the labels.")
    ] = None,
    hed: Annotated[Path | None, typer.Option(help=HED)] = None,
    vgg: Annotated[Path | None, typer.Option(help="VGG-16's weights (safetensors) to start the encoder from.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the whole run.  [default: the recipe's]")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes of training.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops a step.  [default: the recipe's]")] = None,
    crop: Annotated[
        str | None, typer.Option(help="Size of a crop: WIDTHxHEIGHT, or its side.  [default: the recipe's]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: the recipe's]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights and of every crop.  [default: the recipe's]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes on this machine, on a GPU each.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each running this under torchrun.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Have torch compile the net.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard too.")] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in the folder, with its recipe; begin where there is none."),
    ] = False,
) -> None:
    """Train a net on labelled frames; print the path of the best checkpoint.

    Net and recipe are stored in the checkpoints of a run. --resume needs its folder, and again what it learns from: --data
    and, where they were given, --rendered, --labels, --unlabelled, --teacher and --hed.
    """
    import cv2
    import torch

    from edgecrack.training.fit import Trainer
    from edgecrack.training.machine import drawing_threads, open_fabric
    from edgecrack.training.states import LAST

    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    flags = {"steps": steps, "minutes": minutes, "batch": batch, "crop": crop, "learning_rate": learning_rate}
    told = [f"{name}={value}" for name, value in (flags | {"seed": seed}).items() if value is not None]
    folder = out or Path("runs") / (model or "net")
    if resume and nodes == 1 and not (folder / LAST).exists():  # killed before it had anything to keep
        typer.echo(f"nothing to resume in {folder}: the run begins", err=True)
        resume = False
    spec, plan = planned(model, recipe, [*(settings or ()), *told], width, start, folder if resume else None)
    folder = out or Path("runs") / spec.name
    sets, held_back, unlabelled_sets = opened_data(plan, data, unlabelled, labels, rendered, skip_bad)
    fabric = open_fabric(device, devices, nodes, plan.precision)
    torch.manual_seed(plan.seed)
    net, spec = starting_net(spec, None if repeat else start, hed, vgg)
    taught = loaded_teacher(teacher, hed) if teacher else None
    drawing = drawing_threads(fabric.device.type, devices)
    trainer = Trainer(
        spec,
        plan,
        sets,
        held_back,
        folder,
        start=net,
        resume=resume,
        unlabelled=unlabelled_sets,
        teacher=taught,
        fabric=fabric,
        workers=drawing,
        compiled=compiled,
        tensorboard=tensorboard,
    )
    with telling(fabric.is_global_zero) as (report, tick):
        report(summary(trainer.recipe, trainer.frames))
        best = trainer.run(report, tick=tick)
    if fabric.is_global_zero:
        typer.echo(best)
