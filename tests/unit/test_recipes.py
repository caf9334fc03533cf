"""The recipes: what the papers say, every switch by name, and how they are told and stored."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch

from edgecrack.errors import SpecError
from edgecrack.models import MODELS, build_model
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training.contrast import Contrast
from edgecrack.training.losses import LOSSES
from edgecrack.training.rates import LEAST_RATE, Plateau, learning_rate, optimiser_for
from edgecrack.training.recipes import PAPER_OPTIONS, RECIPES, Recipe, parsed, recipe_for, switches, with_switches

# As the papers print it and, where they are silent, as models of their kind are trained.
PAPERS: dict[str, dict[str, Any]] = {
    "aelf-unet": {
        "epochs": 30,
        "batch": 1,
        "crop": "512x512",
        "optimiser": "adam",
        "learning_rate": 1e-4,
        "epsilon": 1e-7,
        "weight_decay": 0,
        "schedule": "constant",
        "select": "last",
    },
    "cacpnet": {
        "epochs": 300,
        "batch": 6,
        "crop": "480x320",
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "schedule": "plateau",
        "decay_factor": 0.5,
        "decay_patience": 10,
    },
    "msfnet": {
        "steps": 20000,
        "batch": 4,
        "crop": "256x256",
        "optimiser": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "polynomial",
    },
    "scnet": {
        "epochs": 200,
        "batch": 4,
        "crop": "256x256",
        "optimiser": "sgd",
        "learning_rate": 1e-4,
        "momentum": 0.9,
        "weight_decay": 2e-4,
        "schedule": "polynomial",
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_a_papers_recipe_is_what_the_paper_says(name: str) -> None:
    recipe = recipe_for(name, "paper")
    found = {key: getattr(recipe, key) for key in PAPERS[name]}
    assert {**found, "crop": str(found["crop"])} == PAPERS[name]
    plain = {"gradient_norm": 0, "cross_entropy": 0, "warm_up": 0, "warm_up_cross_entropy": 0, "ema": 0}
    assert {key: getattr(recipe, key) for key in plain} == plain
    assert (recipe.augmentation, recipe.order, recipe.precision) == (name, "shuffled", "fp32")


def test_scnets_paper_sees_heds_edges() -> None:
    assert PAPER_OPTIONS == {"scnet": {"prior": "hed"}}
    assert build_model(ModelSpec("scnet", 0.05, PAPER_OPTIONS["scnet"])).encoder[0][0][0].in_channels == 4  # type: ignore[index,union-attr]


@pytest.mark.parametrize("net", MODELS)
def test_every_switch_of_the_net_its_loss_and_the_recipe_can_be_told(net: str) -> None:
    found = switches(net)
    owners = [
        set(inspect.getfullargspec(MODELS[net].__init__).kwonlyargs),
        set(inspect.getfullargspec(LOSSES[net]).kwonlyargs),
        {field.name for field in dataclasses.fields(Contrast)},
        {field.name for field in dataclasses.fields(Recipe)} - {"name", "loss", "contrast"},
    ]
    assert sum(map(len, owners)) == len(set().union(*owners))  # no name means two things
    assert set(found) == set().union(*owners)


@pytest.mark.parametrize("net", MODELS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_told_its_own_values_stays_the_same_and_is_stored_whole(net: str, name: str) -> None:
    recipe = recipe_for(net, name)
    told = [f"{key}={getattr(recipe, key)}" for key, (owner, _) in switches(net).items() if owner == "recipe"]
    _, same = with_switches(ModelSpec(net), recipe, [line for line in told if not line.startswith("steps=")])
    assert same == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_switch_goes_to_whom_it_belongs() -> None:
    spec, recipe = ModelSpec("scnet"), recipe_for("scnet", "paper")
    told = ["attention=false", "levels=4", "pixel=cross-entropy", "side_weights=1,1,1,1", "ema=0.99", "bank_size=64"]
    spec, recipe = with_switches(spec, recipe, [*told, "crop=480x320", "steps=7"])
    assert spec.options == {"attention": False, "levels": 4}
    assert recipe.loss == {"pixel": "cross-entropy", "side_weights": (1.0, 1.0, 1.0, 1.0)}
    assert recipe.contrast == {"bank_size": 64}
    assert (recipe.ema, recipe.crop, recipe.steps, recipe.epochs) == (0.99, FrameSpec(320, 480), 7, 0)
    spec, recipe = with_switches(spec, recipe, ["levels=5", "crop=64"])  # later ones win, others stay
    assert spec.options == {"attention": False, "levels": 5}
    assert (recipe.crop, recipe.ema) == (FrameSpec(64, 64), 0.99)
    stored = Recipe.from_json(recipe.to_json())
    assert stored.to_json() == recipe.to_json()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("attention", "attention takes true or false, got ''"),
        ("attention=1", "attention takes true or false, got '1'"),
        ("levels=x", "levels takes a whole number, got 'x'"),
        ("learning_rate=fast", "learning_rate takes a number, got 'fast'"),
        ("crop=3x4x5", "crop takes WIDTHxHEIGHT, got '3x4x5'"),
        ("side_weights=a", "side_weights takes numbers with commas between, got 'a'"),
        ("colour=blue", "scnet has no switch 'colour', it has steps, "),
        ("gamma1=0.03", "scnet has no switch 'gamma1'"),
        ("optimiser=lion", "optimiser is one of adamw, adam, sgd; got 'lion'"),
        ("ema=1", "ema must be at least 0 and below 1, got 1.0"),
        ("crop=31", "crop must be at least 32 pixels a side, got 31x31"),
        ("batch=0", "batch must be above 0, got 0"),
        ("learning_rate=nan", "learning_rate takes a number, got 'nan'"),
        ("contrast_weight=nan", "contrast_weight takes a number, got 'nan'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(told: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        with_switches(ModelSpec("scnet"), recipe_for("scnet", "fast"), [told])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"crop": {"height": 64, "width": 64}, "colour": 1}'])
def test_a_stored_recipe_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a recipe of this version"):
        Recipe.from_json(text)


def test_epochs_become_steps() -> None:
    recipe = recipe_for("cacpnet", "paper")
    assert recipe.for_frames(72).steps == 300 * 12
    assert recipe.for_frames(73).steps == 300 * 13
    assert recipe.for_frames(72).for_frames(72) == recipe.for_frames(72)
    fast = recipe_for("cacpnet", "fast")
    assert fast.for_frames(72) is fast


def test_a_value_of_a_grid_has_the_type_of_its_switch() -> None:
    assert parsed("aelf-unet", "gamma1", "0") == ("loss", 0.0)
    assert isinstance(parsed("aelf-unet", "gamma1", "0")[1], float)


def rate(progress: float, *, step: int = 1000, epoch: float = 0.0, factor: float = 1.0, **changes: Any) -> float:
    recipe = Recipe(**{"learning_rate": 2.0, "warm_up": 0, **changes})
    return learning_rate(recipe, step, progress, epoch, factor)


def test_the_schedules_are_their_formulas() -> None:
    assert [rate(p, schedule="constant") for p in (0, 0.5, 1)] == [2, 2, 2]
    assert [rate(p, schedule="polynomial") for p in (0, 0.5, 1)] == pytest.approx([2, 2 * 0.5**0.9, 0])
    assert [rate(p, schedule="cosine") for p in (0, 0.5, 1)] == pytest.approx([2.002, 1.002, 0.002])
    found = [rate(0, schedule="step", decay_epochs=40, epoch=epoch) for epoch in (0, 39.9, 40, 80)]
    assert found == pytest.approx([2, 2, 0.2, 0.02])
    assert rate(0, schedule="plateau", factor=0.25) == 0.5
    assert [rate(0, schedule="constant", warm_up=4, step=step) for step in (0, 1, 3, 9)] == [0.5, 1, 2, 2]


def test_a_plateau_halves_the_rate_as_torchs_does_and_ends_the_run() -> None:
    recipe = Recipe(learning_rate=1.0, schedule="plateau", decay_factor=0.5, decay_patience=2)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=2, threshold=0, eps=0)
    plateau = Plateau()
    losses = [5, 4, 4, 4, 4, 3.9, 4, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3]
    for loss in losses:
        reference.step(loss)
        plateau.take(loss, recipe)
        assert plateau.factor == optimiser.param_groups[0]["lr"]
    assert plateau.factor < 0.1
    assert not plateau.over(recipe)
    plateau.factor = LEAST_RATE
    assert plateau.over(recipe)
    assert not plateau.over(dataclasses.replace(recipe, schedule="constant"))


def test_the_optimisers_are_torchs_with_the_recipes_numbers() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    sgd = optimiser_for(recipe_for("scnet", "paper"), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "weight_decay")} == {
        "lr": 1e-4,
        "momentum": 0.9,
        "weight_decay": 2e-4,
    }
    adam = optimiser_for(recipe_for("aelf-unet", "paper"), weights)
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["eps"], adam.defaults["betas"]) == (1e-7, (0.9, 0.999))
    assert type(optimiser_for(recipe_for("msfnet", "fast"), weights)) is torch.optim.AdamW


def test_the_fast_recipe_has_no_end_but_its_steps() -> None:
    assert recipe_for("msfnet", "fast").minutes == math.inf
