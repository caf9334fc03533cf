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
    unlabelled: Annotated[str, typer.Option(help=f"Also learn from frames without labels. {FOLDERS}")] = "",
    labels: Annotated[float, typer.Option(help="Fraction of the labelled frames to use, for studies.")] = 1.0,
    recipe: Annotated[
        str | None,
        typer.Option(help="fast (ours) or paper (from the net's paper).  [default: that of --from, or fast]"),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SETTING)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the run.  [default: runs/MODEL]")] = None,
    rendered: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of rendered roads to add to the data.  [default: 400 in a fast run with all labels]"
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help=SKIP_BAD)] = False,
    width: Annotated[
        float | None, typer.Option(help="Channel multiplier.  [default: the compact one, or 1 with --recipe paper]")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Start from this checkpoint: its net, recipe and weights.")
    ] = None,
    repeat: Annotated[bool, typer.Option("--repeat", help="With --from: repeat that run with fresh weights.")] = False,
    teacher: Annotated[
        Path | None, typer.Option(help="Learn from this checkpoint's outputs as well as from the labels.")
    ] = None,
    hed: Annotated[Path | None, typer.Option(help=HED)] = None,
    vgg: Annotated[Path | None, typer.Option(help="VGG-16 weights (safetensors) to initialise the encoder.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Total steps of the run.  [default: the recipe's]")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes of training.")] = None,
    batch: Annotated[int | None, typer.Option(help="Crops per step.  [default: the recipe's]")] = None,
    crop: Annotated[
        str | None, typer.Option(help="Crop size: WIDTHxHEIGHT, or the side of a square.  [default: the recipe's]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.  [default: the recipe's]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the weights and every crop.  [default: the recipe's]")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes on this machine, each on its own GPU.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each running this command under torchrun.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 uses all.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the net with torch.compile.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in the folder, with its recipe; start a new run if there is none."
        ),
    ] = False,
) -> None:
    """Train a net on labelled frames; print the path of the best checkpoint.

    The checkpoints of a run store its net and recipe. --resume needs the folder of the run and the same inputs again:
    --data and, if they were given, --rendered, --labels, --unlabelled, --teacher and --hed.
    """
    import cv2
    import torch

    from edgecrack.models.checkpoint import load_spec
    from edgecrack.training.fit import Trainer
    from edgecrack.training.machine import drawing_threads, open_fabric
    from edgecrack.training.states import LAST

    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    flags = {"steps": steps, "minutes": minutes, "batch": batch, "crop": crop, "learning_rate": learning_rate}
    told = [f"{name}={value}" for name, value in (flags | {"seed": seed}).items() if value is not None]
    named = model or (load_spec(start).name if start else "net")
    folder = out or Path("runs") / named
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
