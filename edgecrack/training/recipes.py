"""Training recipes: hyperparameters, defaults for each net, setting them from text, and storage as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from edgecrack.errors import SpecError
from edgecrack.models import model_class
from edgecrack.models.blocks import choice
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training.contrast import Contrast
from edgecrack.training.losses import LOSSES

RECIPES = ("fast", "paper")
OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "polynomial", "step", "plateau")
AUGMENTATIONS = ("fast", "aelf-unet", "scnet", "cacpnet", "msfnet", "none")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ORDERS = ("drawn", "shuffled")
SQUARE = FrameSpec(256, 256)


@dataclass(frozen=True)
class Recipe:
    """Training hyperparameters; those of the architecture are in `ModelSpec.options`.

    Attributes:
        name: name of the recipe that this one was made from.
        steps: optimiser steps of the whole run, which ends earlier after `minutes` of training; schedules follow
            whichever limit is nearer.
        epochs: if not 0, the length of the run in place of `steps`; an epoch is as many crops as there are frames.
        minutes: limit on the training time, over all resumes.
        batch: crops per step, over all processes.
        crop: crop size.
        augmentation: "fast" (random scale, position, flips, rotation, light, blur and noise), a net's name for that of
            its paper, or "none".
        strict_nearest: whether the augmentation of AELF's paper resamples the image by nearest too, as printed.
        order: "drawn": each crop draws a data set, then a frame, so that a small set counts as much as a large one; or
            "shuffled": every frame once per epoch.
        optimiser: "adamw", "adam" or "sgd".
        learning_rate: peak learning rate.
        momentum: momentum of SGD.
        epsilon: epsilon of Adam.
        weight_decay: weight decay of the optimiser.
        schedule: "cosine"; "constant"; "polynomial" (power 0.9); "step" (divided by 10 every `decay_epochs`); "plateau"
            (times `decay_factor` after more than `decay_patience` validations without a lower loss; ends at a rate of 1e-9).
        warm_up: steps over which the learning rate rises linearly.
        warm_up_cross_entropy: fraction of the run with plain cross-entropy before the net's own loss takes over; it
            helps a net without normalisation to start learning.
        cross_entropy: weight of a plain cross-entropy added to the net's own loss; it keeps the probabilities spread
            out under a loss that saturates.
        gradient_norm: norm to which gradients are clipped; 0 for no clipping.
        ema: if not 0, the weights that are validated and saved are an exponential moving average with this decay.
        precision: "auto" is bfloat16 where the device supports it (every CPU counts), else fp16 with loss scaling on a
            GPU.
        select: which checkpoint is kept: the "best" on the held-back frames or the "last".
        validate_steps: steps between validations; 0 for one about every five minutes.
        patience: validations without a better score after which the run stops early; 0 for never.
        seed: random seed of the weights and of every crop.
        loss: switches of the net's loss that differ from their defaults.
        contrast: switches of semi-supervised training (`Contrast`) that differ from their defaults.
        teacher_weight: weight of the distillation loss, added to the net's own.
        teacher_temperature: divisor of student and teacher logits.
    """

    name: str = "fast"
    steps: int = 2000
    epochs: int = 0
    minutes: float = math.inf
    batch: int = 8
    crop: FrameSpec = SQUARE
    augmentation: str = "fast"
    strict_nearest: bool = False
    order: str = "drawn"
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    decay_epochs: int = 40
    decay_factor: float = 0.5
    decay_patience: int = 10
    warm_up: int = 50
    warm_up_cross_entropy: float = 0.0
    cross_entropy: float = 0.0
    gradient_norm: float = 1.0
    ema: float = 0.0
    precision: str = "auto"
    select: str = "best"
    validate_steps: int = 0
    patience: int = 0
    seed: int = 0
    loss: Mapping[str, Any] = field(default_factory=dict)
    contrast: Mapping[str, Any] = field(default_factory=dict)
    teacher_weight: float = 1.0
    teacher_temperature: float = 2.0

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            choice(name, getattr(self, name), *known)
        for name in ("steps", "batch", "minutes", "learning_rate", "epsilon", "decay_epochs", "teacher_temperature"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in ("learning_rate", "epsilon"):
            _check(name, getattr(self, name), getattr(self, name) < math.inf, "finite")
        for name in _FROM_ZERO:
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("momentum", "ema", "warm_up_cross_entropy", "decay_factor"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _check("crop", self.crop, min(self.crop.height, self.crop.width) >= 32, "at least 32 pixels a side")

    def to_json(self) -> str:
        """One line of JSON with sorted keys: equal recipes give equal bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe that `to_json` wrote. Raises SpecError for anything else."""
        try:
            values = json.loads(text)
            return cls(**{**values, "crop": FrameSpec(**values["crop"])})
        except SpecError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SpecError(f"not a recipe of this version of edgecrack: {error}") from error

    def for_frames(self, count: int) -> Recipe:
        """The recipe with `steps` computed from its epochs over `count` frames; unchanged if `epochs` is 0."""
        return dataclasses.replace(self, steps=self.epochs * self.epoch_steps(count)) if self.epochs else self

    def epoch_steps(self, count: int) -> int:
        """Steps per epoch for `count` frames."""
        return max(1, math.ceil(count / self.batch))


_CHOICES = {
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "precision": PRECISIONS,
    "order": ORDERS,
    "select": ("best", "last"),
}
_FROM_ZERO = (
    *("epochs", "weight_decay", "warm_up", "decay_patience", "cross_entropy", "gradient_norm", "validate_steps"),
    *("patience", "seed", "teacher_weight"),
)


def _check(name: str, value: Any, fine: bool, wanted: str) -> None:
    if not fine:  # NaN is not fine either
        raise SpecError(f"{name} must be {wanted}, got {value}")


# The paper searches them for each data set and prints none, so each run keeps its own.
_GAMMAS = {"gamma1": 0.0, "gamma2": -0.07}

# What "fast" changes for each net, tuned to train a compact one on a few CPU cores within an hour.
FAST: dict[str, dict[str, Any]] = {
    "aelf-unet": {"learning_rate": 7e-4, "warm_up_cross_entropy": 0.1, "cross_entropy": 1.0, "loss": _GAMMAS},
    "cacpnet": {"cross_entropy": 20.0},
    "msfnet": {},
    "scnet": {},
}


def _paper(**changes: Any) -> dict[str, Any]:
    """Settings as printed in a paper; where it is silent, those with which models of its kind are usually trained."""
    plain = {"name": "paper", "order": "shuffled", "warm_up": 0, "gradient_norm": 0.0, "precision": "fp32"}
    return {**plain, "weight_decay": 0.0, **changes}


PAPER: dict[str, dict[str, Any]] = {
    "aelf-unet": _paper(
        epochs=30,
        batch=1,
        crop=FrameSpec(512, 512),
        augmentation="aelf-unet",
        optimiser="adam",
        learning_rate=1e-4,
        epsilon=1e-7,
        schedule="constant",
        select="last",
        loss=_GAMMAS,
    ),
    "cacpnet": _paper(
        epochs=300,
        batch=6,
        crop=FrameSpec(320, 480),
        augmentation="cacpnet",
        optimiser="adam",
        learning_rate=1e-3,
        schedule="plateau",
    ),
    "msfnet": _paper(
        steps=20000,
        batch=4,
        augmentation="msfnet",
        optimiser="sgd",
        learning_rate=1e-2,
        weight_decay=1e-4,
        schedule="polynomial",
    ),
    "scnet": _paper(
        epochs=200,
        batch=4,
        augmentation="scnet",
        optimiser="sgd",
        learning_rate=1e-4,
        weight_decay=2e-4,
        schedule="polynomial",
    ),
}
# Switches of the papers' nets that differ from the defaults here.
PAPER_OPTIONS: dict[str, dict[str, Any]] = {"scnet": {"prior": "hed"}}


def recipe_for(net: str, name: str) -> Recipe:
    """The recipe `name` of `net`. Raises SpecError if either is unknown."""
    model_class(net)
    changes = FAST[net] if choice("recipe", name, *RECIPES) == "fast" else PAPER[net]
    return Recipe(**changes)


@cache
def switches(net: str) -> dict[str, tuple[str, Any]]:
    """All switches of `net` by name: (what it belongs to: "net", "loss", "contrast" or "recipe"; its default)."""
    found: dict[str, tuple[str, Any]] = {}
    recipe = recipe_for(net, "fast")
    for name in (item.name for item in dataclasses.fields(Recipe)):
        if name not in ("name", "loss", "contrast"):
            found[name] = ("recipe", getattr(recipe, name))
    for item in dataclasses.fields(Contrast):
        found[item.name] = ("contrast", item.default)
    for owner, function in (("loss", LOSSES[net]), ("net", model_class(net).__init__)):
        found |= {name: (owner, default) for name, default in _keywords(function).items()}
    return found


def with_switches(spec: ModelSpec, recipe: Recipe, settings: Iterable[str]) -> tuple[ModelSpec, Recipe]:
    """Apply `settings`, each NAME=VALUE, to `spec` and `recipe`. Raises SpecError, listing the switches, if unknown."""
    changed: dict[str, dict[str, Any]] = {"net": {}, "loss": {}, "contrast": {}, "recipe": {}}
    for setting in settings:
        name, _, text = setting.partition("=")
        owner, value = parsed(spec.name, name, text)
        changed[owner][name] = value
    spec = dataclasses.replace(spec, options={**spec.options, **changed["net"]})
    loss, contrast = {**recipe.loss, **changed["loss"]}, {**recipe.contrast, **changed["contrast"]}
    if "steps" in changed["recipe"]:
        changed["recipe"].setdefault("epochs", 0)
    return spec, dataclasses.replace(recipe, **changed["recipe"], loss=loss, contrast=contrast)


def parsed(net: str, name: str, text: str) -> tuple[str, Any]:
    """Parse `text` as a value of switch `name`: (what it belongs to, value). Raises SpecError, listing the switches."""
    known = switches(net)
    if name not in known:
        raise SpecError(f"--set takes NAME=VALUE; {net} has no switch {name!r}, it has {', '.join(known)}")
    owner, default = known[name]
    return owner, _parsed(name, text, default)


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    kinds = inspect.signature(function).parameters.values()
    return {item.name: item.default for item in kinds if item.kind is inspect.Parameter.KEYWORD_ONLY}


def _finite(text: str) -> float:
    """Raises ValueError for what is not a finite number."""
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _parsed(name: str, text: str, default: Any) -> Any:
    """`text` converted to the type of `default`."""
    wanted = {bool: "true or false", int: "a whole number", float: "a number", FrameSpec: "WIDTHxHEIGHT"}
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, FrameSpec):
            return FrameSpec.parse(text if "x" in text else f"{text}x{text}")
        if isinstance(default, tuple):
            return tuple(map(_finite, text.split(",")))
        if isinstance(default, float) and name != "minutes":
            return _finite(text)
        return type(default)(text)
    except (KeyError, ValueError) as error:
        kind = wanted.get(type(default), "numbers with commas between")
        raise SpecError(f"--set {name} takes {kind}, got {text!r}") from error
