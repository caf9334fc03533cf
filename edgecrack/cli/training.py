"""What `train` and `search` make of their options; not a verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from edgecrack.models import CrackNet
    from edgecrack.spec import ModelSpec
    from edgecrack.training.data import Frames
    from edgecrack.training.recipes import Recipe

    Tick = Callable[[float, str], None]

FOLDERS = "Data set folders, separated by commas."
MODEL = "The net: aelf-unet, cacpnet, msfnet or scnet."
SETTING = "NAME=VALUE: a switch of the net, its loss or the recipe."
SKIP_BAD = "Skip frames that cannot be used, and list them."
HED = "HED weights (safetensors), for SCNet with prior=hed."


def planned(
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


def opened_data(
    recipe: Recipe, data: str, unlabelled: str, labels: float, rendered: int | None, skip_bad: bool
) -> tuple[list[Frames], list[Frames], list[Frames]]:
    """The labelled sets, what is held back of them, and the unlabelled sets. Every frame has been read once."""
    from edgecrack.dataset import open_images
    from edgecrack.errors import SourceError
    from edgecrack.training.data import Kept, kept_bytes, open_training_sets, without_bad
    from edgecrack.training.subsets import labelled_part

    def report(line: str) -> None:
        typer.echo(line, err=True)

    few = bool(unlabelled) or labels != 1
    count = (400 if recipe.name == "fast" and not few else 0) if rendered is None else rendered
    sets, held_back = open_training_sets(names(data), count, skip_bad=skip_bad, report=report)
    chosen = labelled_part(sets, labels, recipe.seed) if labels != 1 else sets
    budget = kept_bytes() // max(1, len(names(unlabelled)))
    others: list[Frames] = []
    if unlabelled:
        held = {frames[index].name for frames in held_back for index in range(len(frames))}
        apart = {image for folder in names(data) for image in _kept_apart(Path(folder), held)}
        for folder in names(unlabelled):
            images = Kept(open_images(folder, "train", without=apart), budget)
            found = without_bad(images, skip_bad=skip_bad, labelled=False, report=report)
            if not len(found):
                raise SourceError(f"{folder} has no frame to learn from without labels")
            others.append(found)
    return list(chosen), list(held_back), others


def _kept_apart(folder: Path, held: Collection[str]) -> Iterator[Path]:
    """The images of a labelled set that nothing may be learnt from: of other lists than train, and those held back."""
    from edgecrack.layouts import find_pairs, located

    train = {*find_pairs(located(folder), "train").images}
    for image in find_pairs(located(folder)).images:
        if image not in train or image.stem in held:
            yield image.resolve()


def names(text: str) -> list[str]:
    """What stands between the commas; ~ is the home folder, which a shell sees at the beginning only."""
    return [os.path.expanduser(name.strip()) for name in text.split(",") if name.strip()]  # noqa: PTH111 (text)


def starting_net(spec: ModelSpec, start: Path | None, hed: Path | None, vgg: Path | None) -> tuple[CrackNet, ModelSpec]:
    """The net with the weights it starts from; the spec says which edges it looks at."""
    from edgecrack.errors import SpecError
    from edgecrack.models import build_model
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.models.external import start_from_vgg, with_hed

    net = build_model(spec)
    if start:
        loaded, stored = load_checkpoint(start)
        if stored.options != spec.options:
            was, asked = dict(stored.options), dict(spec.options)
            raise SpecError(f"{start} has the switches {was}, not {asked}; leave --set, or --repeat with fresh weights")
        net = loaded
    if vgg:
        start_from_vgg(net, vgg)
    return net, with_hed(net, spec, hed)


def loaded_teacher(path: Path, hed: Path | None) -> CrackNet:
    from edgecrack.models.checkpoint import load_checkpoint
    from edgecrack.models.external import needs_hed, with_hed

    net, spec = load_checkpoint(path)
    if needs_hed(spec):
        with_hed(net, spec, hed)
    return net


def summary(recipe: Recipe, frames: int) -> str:
    length = f"{recipe.steps} steps" + (f" ({recipe.epochs} epochs)" if recipe.epochs else "")
    return (
        f"{recipe.name} recipe: {length} of {recipe.batch} crops of {recipe.crop} from {frames} frames; {recipe.optimiser} at "
        f"{recipe.learning_rate:g}, {recipe.schedule}, {recipe.precision} precision"
    )


@contextmanager
def telling(first: bool) -> Iterator[tuple[Callable[[str], None], Tick | None]]:
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
