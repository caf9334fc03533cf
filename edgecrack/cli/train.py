"""edgecrack train: a checkpoint from labelled frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgecrack.models import CrackNet
    from edgecrack.spec import ModelSpec
    from edgecrack.training.data import Frames
    from edgecrack.training.recipes import Recipe

    Tick = Callable[[float, str], None]

FOLDERS = "Data set folders, with commas between."


def train(
    model: Annotated[
        str | None, typer.Option(help="The net: aelf-unet, cacpnet, msfnet or scnet.  [default: that of --from]")
    ] = None,
    data: Annotated[str, typer.Option("--data", "--labelled", help=FOLDERS)] = "",
    unlabelled: Annotated[str, typer.Option(help=f"Learn from frames without labels too. {FOLDERS}")] = "",
    labels: Annotated[float, typer.Option(help="Use this share of the labelled frames, for studies.")] = 1.0,
    recipe: Annotated[
        str | None, typer.Option(help="fast (ours) or paper (the net's paper's).  [default: that of --from, or fast]")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a switch of the net, its loss or the recipe.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.  [default: runs/MODEL]")] = None,
    rendered: Annotated[
        int | None,
        typer.Option(
            min=0, help="How many rendered roads join the data.  [default: 400 in a fast run with all labels]"
        ),
    ] = None,
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
    hed: Annotated[Path | None, typer.Option(help="HED's weights (safetensors), for SCNet with prior=hed.")] = None,
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
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all.")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Have torch compile the net.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard too.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder, with its recipe.")] = False,
) -> None:
    """Train a net on labelled frames; print the path of the best checkpoint.

    What a run is made of is stored in its checkpoints: --resume needs the data and the folder only.
    """
    import cv2
    import torch

    from edgecrack.training.fit import Trainer
    from edgecrack.training.machine import drawing_threads, open_fabric

    if threads:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    flags = {"steps": steps, "minutes": minutes, "batch": batch, "crop": crop, "learning_rate": learning_rate}
    told = [f"{name}={value}" for name, value in (flags | {"seed": seed}).items() if value is not None]
    folder = out or Path("runs") / (model or "net")
    spec, plan = _plan(model, recipe, [*(settings or ()), *told], width, start, folder if resume else None)
    folder = out or Path("runs") / spec.name
    sets, held_back, unlabelled_sets = _data(spec, plan, data, unlabelled, labels, rendered)
    fabric = open_fabric(device, devices, nodes, plan.precision)
    torch.manual_seed(plan.seed)
    net, spec = _net(spec, None if repeat else start, hed, vgg)
    taught = _teacher(teacher, hed) if teacher else None
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
    with _telling(fabric.is_global_zero) as (report, tick):
        report(_summary(trainer.recipe, trainer.frames))
        best = trainer.run(report, tick=tick)
    if fabric.is_global_zero:
        typer.echo(best)


def _plan(
    model: str | None,
    recipe: str | None,
    settings: list[str],
    width: float | None,
    start: Path | None,
    resumed: Path | None,
) -> tuple[ModelSpec, Recipe]:
    """The net and the recipe: those of the run or the checkpoint to go on from, else those that are named; then changed."""
    from edgecrack.errors import SpecError
    from edgecrack.models import model_class
    from edgecrack.models.checkpoint import load_spec
    from edgecrack.spec import ModelSpec
    from edgecrack.training.recipes import PAPER_OPTIONS, recipe_for, with_switches
    from edgecrack.training.states import LAST, stored_recipe

    origin = resumed / LAST if resumed else start
    if origin is None:
        if model is None:
            raise SpecError("name the net: --model aelf-unet, cacpnet, msfnet or scnet")
        chosen = recipe_for(model, recipe or "fast")
        paper = chosen.name == "paper"
        width = (1.0 if paper else model_class(model).compact_width) if width is None else width
        return with_switches(ModelSpec(model, width, PAPER_OPTIONS.get(model, {}) if paper else {}), chosen, settings)
    stored = load_spec(origin)
    if (stored.name, width) not in ((model or stored.name, None), (model or stored.name, stored.width)):
        raise SpecError(
            f"{origin} holds {stored.name} at width {stored.width}, not {model or stored.name} at width {width}"
        )
    found = recipe_for(stored.name, recipe) if recipe else stored_recipe(origin) or recipe_for(stored.name, "fast")
    spec = ModelSpec(stored.name, stored.width, stored.options, hashes=_hed_hash(stored))
    return with_switches(spec, found, settings)


def _hed_hash(spec: ModelSpec) -> dict[str, str]:
    return {name: value for name, value in spec.hashes.items() if name == "hed"}


def _data(
    spec: ModelSpec, recipe: Recipe, data: str, unlabelled: str, labels: float, rendered: int | None
) -> tuple[list[Frames], list[Frames], list[Frames]]:
    """The labelled sets, what is held back of them, and the unlabelled sets."""
    from edgecrack.dataset import open_dataset
    from edgecrack.training.data import Kept, open_training_sets
    from edgecrack.training.subsets import labelled_part

    few = bool(unlabelled) or labels < 1
    count = (400 if recipe.name == "fast" and not few else 0) if rendered is None else rendered
    sets, held_back = open_training_sets(filter(None, data.split(",")), count)
    if labels < 1:
        sets = labelled_part(sets, labels, recipe.seed)
    others: list[Frames] = [Kept(open_dataset(folder, "train")) for folder in filter(None, unlabelled.split(","))]
    return list(sets), list(held_back), others


def _net(spec: ModelSpec, start: Path | None, hed: Path | None, vgg: Path | None) -> tuple[CrackNet, ModelSpec]:
    """The net with the weights it starts from; the spec says which edges it looks at."""
    from edgecrack.errors import SpecError
    from edgecrack.models import build_model
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.models.external import start_from_vgg, with_hed

    net = build_model(spec)
    if start:
        loaded, stored = load_checkpoint(start)
        if stored.options != spec.options:
            raise SpecError(
                f"{start} has the switches {dict(stored.options)}, not {dict(spec.options)}; train anew, or leave --set"
            )
        net = loaded
    if vgg:
        start_from_vgg(net, vgg)
    return net, with_hed(net, spec, hed)


def _teacher(path: Path, hed: Path | None) -> CrackNet:
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.models.external import needs_hed, with_hed

    net, spec = load_checkpoint(path)
    if needs_hed(spec):
        with_hed(net, spec, hed)
    return net


def _summary(recipe: Recipe, frames: int) -> str:
    length = f"{recipe.steps} steps" + (f" ({recipe.epochs} epochs)" if recipe.epochs else "")
    return (
        f"{recipe.name} recipe: {length} of {recipe.batch} crops of {recipe.crop} from {frames} frames; {recipe.optimiser} at "
        f"{recipe.learning_rate:g}, {recipe.schedule}, {recipe.precision} precision"
    )


@contextmanager
def _telling(first: bool) -> Iterator[tuple[Callable[[str], None], Tick | None]]:
    """Where messages and progress go: on a terminal a bar with the time left, else lines; of one process only."""
    import sys

    if not (first and sys.stderr.isatty()):
        yield (lambda line: typer.echo(line, err=True) if first else None), None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=1.0)
        yield bar.console.print, lambda share, line: bar.update(task, completed=min(1.0, share), description=line)
