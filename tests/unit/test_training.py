"""The training loop: what it writes, what it refuses, and that no interruption changes what it computes."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from roads import Roads

from edgecrack.cli.stopping import terminable
from edgecrack.errors import EdgecrackError, SpecError, TrainingError
from edgecrack.metrics import f_score
from edgecrack.models import MODELS, rgb_from_frames
from edgecrack.models.checkpoint import load_checkpoint, load_tensors
from edgecrack.spec import FrameSpec, ModelSpec, threshold_level
from edgecrack.training.data import Frames
from edgecrack.training.fit import Trainer
from edgecrack.training.losses import LOSSES
from edgecrack.training.recipes import FAST, Recipe
from edgecrack.training.validation import CAUTION, score

NARROW = {"aelf-unet": 0.05, "cacpnet": 0.0625, "msfnet": 0.125, "scnet": 0.05}
TINY = {"steps": 5, "batch": 2, "crop": FrameSpec(32, 32), "warm_up": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def trainer(
    folder: Path,
    name: str = "msfnet",
    *,
    resume: bool = False,
    options: dict[str, Any] | None = None,
    train: Sequence[Frames] = (Roads(),),
    **recipe: Any,
) -> Trainer:
    spec = ModelSpec(name, NARROW[name], options or {})
    return Trainer(spec, Recipe(**{**TINY, **recipe}), train, [Roads("held", 9)], folder, resume=resume)


def run(folder: Path, name: str = "msfnet", validate_every: float = 300.0, **settings: Any) -> list[str]:
    """A whole run; returns what it reported."""
    lines: list[str] = []
    trainer(folder, name, **settings).run(lines.append, validate_every)
    return lines


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one: Path, other: Path) -> bool:
    """Whether two runs stand at the same weights and the same moments of the optimiser, bit by bit."""
    (first, _), (second, _) = load_tensors(one / "last.safetensors"), load_tensors(other / "last.safetensors")
    assert first.keys() == second.keys()
    assert any(key.startswith("optimiser.") for key in first)
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", MODELS)
def test_a_run_writes_what_to_use_what_to_resume_and_what_to_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "runs" / name
    best = trainer(folder, name, train=[Roads(), Roads("more", 4)]).run(lambda _: None)
    written = ["best.safetensors", "last.safetensors", "log.jsonl", "samples", "steps.csv"]
    assert sorted(path.name for path in folder.iterdir()) == written
    net, spec = load_checkpoint(best)
    assert best == folder / "best.safetensors"
    assert (spec.name, spec.width, spec.trained_on) == (name, NARROW[name], ("roads", "more"))
    assert {"edgecrack", "torch"} <= spec.versions.keys()
    (record,) = log(folder)
    assert record["step"] == 5
    assert record["best"] is True
    assert math.isfinite(record["loss"])
    # the numbers in the log are those of the checkpoint that was kept
    pooled = score(net, [Roads("held", 9)])["held"]
    level = threshold_level(spec.threshold)
    assert record["threshold"] == round(spec.threshold, 4)
    assert record["held_back_f1_2px"]["held"] == pytest.approx(f_score(pooled)[level], abs=1e-4)
    scores = f_score(pooled)[1:]
    assert scores[level - 1] >= scores.max() - CAUTION
    assert (scores[level:] < scores.max() - CAUTION).all()  # the highest of the good ones


def test_progress_is_reported_with_the_score_of_each_set(tmp_path: Path) -> None:
    lines = run(tmp_path, validate_every=0)
    assert len(lines) >= 5  # after every step, and not again at the end
    assert all("2-pixel F1: held 0." in line or "held 1." in line for line in lines)
    records = log(tmp_path)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    means = [record["best_f1_2px"] for record in records]
    assert [record["best"] for record in records] == [mean > max([-1, *means[:at]]) for at, mean in enumerate(means)]
    kept = [record for record in records if record["best"]]
    assert round(load_checkpoint(tmp_path / "best.safetensors")[1].threshold, 4) == kept[-1]["threshold"]


@pytest.mark.parametrize("name", MODELS)
def test_equal_seeds_train_equal_nets_and_other_seeds_others(tmp_path: Path, name: str) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)  # the state of the process must not matter
        run(tmp_path / folder, name, steps=2, seed=seed)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_validating_does_not_change_what_is_trained(tmp_path: Path) -> None:
    run(tmp_path / "often", validate_every=0)
    run(tmp_path / "once")
    assert same(tmp_path / "often", tmp_path / "once")


def interrupted(
    folder: Path,
    name: str,
    hook: Callable[[Trainer, Callable[..., None]], Any],
    number: int = signal.SIGINT,
    **settings: Any,
) -> None:
    """A run that gets Ctrl-C, or the signal `number`, when `hook` has been called the third time."""
    calls: list[None] = []

    def press(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(number)

    training = trainer(folder, name, **settings)
    hook(training, press)
    with pytest.raises(KeyboardInterrupt):
        training.run(lambda _: None)
    assert 2 <= json.loads(load_tensors(folder / "last.safetensors")[1]["state"])["step"] <= 3


def first(training: Trainer) -> Any:
    """The first convolution: the first to run forward, the last to get its gradient."""
    return next(module for module in training.net.modules() if isinstance(module, torch.nn.Conv2d))


MOMENTS: dict[str, Callable[[Trainer, Callable[..., None]], Any]] = {
    "forward": lambda training, press: first(training).register_forward_hook(press),
    "backward": lambda training, press: first(training).weight.register_post_accumulate_grad_hook(press),
    "before the optimiser": lambda training, press: training.optimiser.register_step_pre_hook(press),
    "after the optimiser": lambda training, press: training.optimiser.register_step_post_hook(press),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_is_interrupted_and_resumed_ends_as_an_undisturbed_one(tmp_path: Path, name: str) -> None:
    run(tmp_path / "whole", name)
    interrupted(tmp_path / "parts", name, MOMENTS["after the optimiser"])
    run(tmp_path / "parts", name, resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert log(tmp_path / "whole")[-1]["held_back_f1_2px"] == log(tmp_path / "parts")[-1]["held_back_f1_2px"]


def test_the_scale_of_the_loss_in_half_precision_is_resumed_too(tmp_path: Path) -> None:
    def go(folder: Path, *, stop: int = 99, resume: bool = False) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)  # overflows at first
        half = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[half])
        fabric.launch()
        recipe = Recipe(**{**TINY, "steps": 10, "precision": "fp32"})
        spec = ModelSpec("msfnet", NARROW["msfnet"])
        training = Trainer(spec, recipe, [Roads()], [Roads("held", 9)], folder, resume=resume, fabric=fabric)
        presses = iter(range(1, 99))
        training.optimiser.register_step_post_hook(
            lambda *_: signal.raise_signal(signal.SIGINT) if next(presses) == stop else None
        )
        training.run(lambda _: None)

    go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", stop=2)
    go(tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_failed_before_it_saved_leaves_no_lines_to_the_next(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        run(tmp_path, learning_rate=1e30)
    run(tmp_path)
    lines = (tmp_path / "steps.csv").read_text().splitlines()[1:]
    steps = [int(line.partition(",")[0]) for line in lines]
    assert steps == sorted(set(steps))
    assert all("e+" not in line for line in lines)


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_never_saves_half_a_step(tmp_path: Path, moment: str) -> None:
    run(tmp_path / "whole")
    interrupted(tmp_path / "parts", "msfnet", MOMENTS[moment])
    run(tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_sigterm_on_the_command_line_saves_as_ctrl_c_does(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with terminable():
        interrupted(tmp_path / "parts", "msfnet", MOMENTS["before the optimiser"], signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(tmp_path / "parts", resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_during_the_last_validation_loses_nothing(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    training.net.register_forward_hook(lambda net, *_: None if net.training else signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        training.run(lambda _: None)
    assert json.loads(load_tensors(tmp_path / "last.safetensors")[1]["state"])["step"] == 5


def test_a_run_may_live_in_another_thread(tmp_path: Path) -> None:
    # Only the main thread can hold Ctrl-C back; elsewhere training must not try to.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, tmp_path / "thread").result()
    run(tmp_path / "main")
    assert same(tmp_path / "thread", tmp_path / "main")


def test_dropout_is_resumed_too(tmp_path: Path) -> None:
    options = {"dropout": True}
    run(tmp_path / "whole", "aelf-unet", options=options)
    interrupted(tmp_path / "parts", "aelf-unet", MOMENTS["after the optimiser"], options=options)
    run(tmp_path / "parts", "aelf-unet", options=options, resume=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_is_over_can_be_resumed_and_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "best.safetensors").read_bytes()
    run(tmp_path, resume=True)
    assert (tmp_path / "best.safetensors").read_bytes() == before
    assert [(record["step"], record["best"]) for record in log(tmp_path)] == [(5, True)]


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(SpecError, match="holds a run already; continue it with --resume"):
        trainer(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 6},
        {"learning_rate": 1e-4},
        {"seed": 1},
        {"name": "scnet"},
        {"train": [Roads("others")]},
        {"train": [Roads(), Roads("more")]},
    ],
)
def test_another_recipe_net_or_set_is_not_resumed(tmp_path: Path, other: dict[str, Any]) -> None:
    run(tmp_path)
    with pytest.raises(SpecError, match="a run of another net, data or recipe"):
        trainer(tmp_path, resume=True, **other)


def test_nothing_and_half_a_file_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no weights"):
        trainer(tmp_path, resume=True)
    run(tmp_path)
    data = (tmp_path / "last.safetensors").read_bytes()
    (tmp_path / "last.safetensors").write_bytes(data[:-9])
    with pytest.raises(SpecError, match="truncated"):
        trainer(tmp_path, resume=True)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_diverges_ends_with_an_error_and_leaves_no_broken_weights(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match=r"at step \d+; lower the learning rate"):
        run(tmp_path, name, validate_every=0, learning_rate=1e30, warm_up=1, steps=20)
    assert issubclass(TrainingError, EdgecrackError)
    for path in tmp_path.glob("*.safetensors"):
        tensors, _ = load_tensors(path)
        weights = {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}
        assert all(value.isfinite().all() for value in weights.values()), path


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(tmp_path: Path) -> None:
    training = trainer(tmp_path)
    first(training).weight.register_hook(lambda gradient: gradient * math.inf)
    before = {key: value.clone() for key, value in training.net.named_parameters()}
    with pytest.raises(TrainingError, match="at step 0"):
        training.run(lambda _: None)
    assert all(torch.equal(value, before[key]) for key, value in training.net.named_parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"crop": FrameSpec(31, 32)},
        {"minutes": 0},
        {"minutes": math.nan},
        {"warm_up": -1},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"seed": -1},
    ],
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="must be"):
        Recipe(**wrong)


@pytest.mark.parametrize(("name", "stride"), [("msfnet", 16), ("scnet", 32)])
def test_a_crop_off_the_stride_is_refused(tmp_path: Path, name: str, stride: int) -> None:
    with pytest.raises(SpecError, match=f"crop must be a multiple of {stride} for {name}, got 40x32"):
        trainer(tmp_path, name, crop=FrameSpec(32, 40))


def test_a_run_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    run(tmp_path, steps=10**6, minutes=0.01)
    (record,) = log(tmp_path)
    assert 0 < record["step"] < 10**4
    state = json.loads(load_tensors(tmp_path / "last.safetensors")[1]["state"])
    assert 0.6 < state["seconds"] < 30


@pytest.mark.parametrize("warm_up", [0, 1, 3])
def test_the_learning_rate_rises_then_falls_to_nearly_nothing(tmp_path: Path, warm_up: int) -> None:
    training, rates = trainer(tmp_path, steps=8, warm_up=warm_up), []
    training.optimiser.register_step_pre_hook(lambda it, *_: rates.append(it.param_groups[0]["lr"] / 2e-3))
    training.run(lambda _: None)
    peak = int(np.argmax(rates))
    assert peak == max(0, warm_up - 1)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert 0.9 < max(rates) < 1.01 or warm_up == 3
    assert rates[-1] < 0.05


def test_every_net_has_a_learning_rate() -> None:
    assert set(FAST) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_goes_down_on_what_is_seen_again_and_again(tmp_path: Path, name: str) -> None:
    warm = 0.2 if name == "aelf-unet" else 0.0
    steps = 140 if name == "cacpnet" else 40  # Tversky starts flat
    settings: dict[str, Any] = {"steps": steps, "batch": 4, "learning_rate": 1e-2, "warm_up_cross_entropy": warm}
    training = trainer(tmp_path, name, **settings)
    frames = [Roads(size=(64, 64))[index] for index in range(4)]
    images = torch.from_numpy(np.stack([frame.image for frame in frames]))
    masks = torch.from_numpy(np.stack([frame.mask for frame in frames if frame.mask is not None]))[:, None].float()

    def loss() -> float:
        net = training.net.train()
        with torch.no_grad():
            return LOSSES[name](net.stages(net.prepare(rgb_from_frames(images))), masks).item()

    before = loss()
    training.run(lambda _: None)
    assert loss() < 0.7 * before
