"""How a run goes on and ends: averages, patience, plateaus; what is told of it and of a sick net; what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from short_runs import Roads, one_thread, same, stopped, trainer
from torch import Tensor, nn

from edgecrack.errors import SpecError
from edgecrack.metrics import Counts, counts
from edgecrack.models import build_model
from edgecrack.models.checkpoint import load_tensors
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training.averages import Average
from edgecrack.training.data import Frames
from edgecrack.training.fit import Trainer
from edgecrack.training.recipes import recipe_for
from edgecrack.training.states import LAST, stored_recipe
from edgecrack.training.validation import ailment, best_level, pooled_over, score


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    one_thread()


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Averages


def test_an_average_is_its_formula_and_lends_its_weights() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = Average(net, 0.5)
    weight = net[0].weight
    assert isinstance(weight, Tensor)
    expected = weight.item()
    for value, decay in ((3.0, 2 / 11), (5.0, 3 / 12), (7.0, 4 / 13)):
        weight.data.fill_(value)
        average.follow()
        expected = expected * decay + value * (1 - decay)
    with average.used():
        assert weight.item() == pytest.approx(expected, rel=1e-6)
    assert weight.item() == 7
    assert Average(net, 0.0).tensors == {}


def test_a_net_interrupted_while_it_takes_the_averaged_weights_has_its_own_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Linear(2, 2)
    average, own = Average(net, 0.5), net.weight.detach().clone()
    average.tensors["weight"] += 1
    load = net.load_state_dict

    def interrupted(tensors: dict[str, Tensor]) -> None:
        load(tensors)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(net, "load_state_dict", interrupted)
    with pytest.raises(KeyboardInterrupt), average.used():
        pass
    assert torch.equal(net.weight, own)


def test_the_averaged_weights_are_kept_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    trainer(tmp_path / "whole", ema=0.9).run(lambda _: None)
    stopped(trainer(tmp_path / "parts", ema=0.9), after=3)
    trainer(tmp_path / "parts", ema=0.9, resume=True).run(lambda _: None)
    assert same(tmp_path / "whole", tmp_path / "parts")
    best, last = (load_tensors(tmp_path / "whole" / name)[0] for name in ("best.safetensors", LAST))
    for key, value in best.items():
        assert torch.equal(value, last[f"average.{key}"])
    assert any(not torch.equal(value, last[f"net.{key}"]) for key, value in best.items())


# Ends


def test_a_run_that_does_not_get_better_ends(tmp_path: Path) -> None:
    training = trainer(tmp_path, steps=1000, validate_steps=1, patience=2, learning_rate=1e-12, weight_decay=0.0)
    training.run(lambda _: None)
    assert training.made.step < 30
    records = log(tmp_path)
    assert not any(record["best"] for record in records[-2:])


def test_a_run_ends_when_its_plateaus_have_used_the_learning_rate_up(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"schedule": "plateau", "decay_patience": 0, "decay_factor": 0.01, "validate_steps": 1}
    training = trainer(tmp_path, "aelf-unet", steps=1000, learning_rate=1e-8, weight_decay=0.0, **plan)
    training.run(lambda _: None)
    assert training.made.step < 200
    assert all(math.isfinite(record["held_back_loss"]) for record in log(tmp_path))


def test_a_plateau_is_resumed_where_it_was(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"schedule": "plateau", "decay_patience": 0, "validate_steps": 2, "steps": 8}
    trainer(tmp_path / "whole", **plan).run(lambda _: None)
    stopped(trainer(tmp_path / "parts", **plan), after=6)  # before the validation that is due there
    trainer(tmp_path / "parts", resume=True, **plan).run(lambda _: None)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert [r["held_back_loss"] for r in log(tmp_path / "whole")] == [
        r["held_back_loss"] for r in log(tmp_path / "parts")
    ]


def test_a_papers_recipe_runs_by_epochs_and_keeps_the_last_weights(tmp_path: Path) -> None:
    recipe = recipe_for("aelf-unet", "paper")
    recipe = dataclasses.replace(recipe, epochs=2, crop=FrameSpec(32, 32), validate_steps=3)
    training = Trainer(ModelSpec("aelf-unet", 0.05), recipe, [Roads()], [Roads("held", 9)], tmp_path)
    training.run(lambda _: None)
    assert training.made.step == 8  # two epochs of four frames, one a step
    assert all(record["best"] for record in log(tmp_path))
    best, last = load_tensors(tmp_path / "best.safetensors")[0], load_tensors(tmp_path / LAST)[0]
    assert all(torch.equal(value, last[f"net.{key}"]) for key, value in best.items())
    stored = stored_recipe(tmp_path / "best.safetensors")
    assert stored == training.recipe
    assert (stored.epochs, stored.steps) == (2, 8)


def test_one_precision_is_not_the_other(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16", "auto"):
        trainer(tmp_path / precision, precision=precision).run(lambda _: None)
    assert not same(tmp_path / "fp32", tmp_path / "bf16")
    assert same(tmp_path / "bf16", tmp_path / "auto")
    with pytest.raises(SpecError, match="not in fp16"):
        trainer(tmp_path / "fp16", precision="fp16")


# What is told


def test_steps_and_pictures_and_tensorboard_are_written(tmp_path: Path) -> None:
    trainer(tmp_path, steps=23, tensorboard=True).run(lambda _: None)
    rows = list(csv.DictReader((tmp_path / "steps.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["10", "20", "23"]
    assert all(math.isfinite(float(row["loss"])) and float(row["gradient_norm"]) > 0 for row in rows)
    picture = cv2.imread(str(tmp_path / "samples" / "000023.jpg"))
    assert picture is not None
    assert picture.shape == (4 * 256, 960, 3)  # four frames of 50x40: as they are, their masks, what is found
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"gradient_norm" in content
    assert b"held_back/held" in content


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    training = trainer(tmp_path, steps=25, validate_steps=5)
    training.run(lambda _: None)
    whole = (tmp_path / "steps.csv").read_text(), [record["step"] for record in log(tmp_path)]
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("30,1,1,1,1,1\n40,1")  # a killed run had gone on and was cut off in the middle of a line
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 30}\n')
    trainer(tmp_path, steps=25, validate_steps=5, resume=True)
    assert ((tmp_path / "steps.csv").read_text(), [record["step"] for record in log(tmp_path)]) == whole


def answers(level: Any, mask_share: float = 0.1) -> dict[str, Counts]:
    rng = np.random.default_rng(0)
    image = np.full((30, 40), level, np.uint8) if np.isscalar(level) else np.asarray(level, np.uint8)
    return {"roads": counts(image, rng.random((30, 40)) < mask_share, 2.0)}


def test_a_sick_net_is_named_and_a_healthy_one_not() -> None:
    rng = np.random.default_rng(0)
    assert "dead head: the net answers 0.24" in str(ailment(answers(61)))
    assert "dead head" in str(ailment(answers(0)))
    assert "all background" in str(ailment(answers(rng.integers(0, 100, (30, 40)))))
    assert "all crack" in str(ailment(answers(rng.integers(150, 255, (30, 40)))))
    assert ailment(answers(rng.integers(0, 256, (30, 40)))) is None


def test_a_dead_head_is_reported(tmp_path: Path) -> None:
    training = trainer(tmp_path, "aelf-unet")
    for layer in training.net.head:  # type: ignore[union-attr]
        if isinstance(layer, nn.Conv2d):
            layer.bias.data.fill_(-100.0)  # type: ignore[union-attr]
    lines: list[str] = []
    training.run(lines.append)
    assert any(line.startswith("warning: dead head") for line in lines)
    assert log(tmp_path)[-1]["warning"].startswith("dead head")


def test_progress_is_told_step_by_step(tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    trainer(tmp_path).run(lambda _: None, tick=lambda share, line: seen.append((share, line)))
    assert [share for share, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    assert all("min left" in line for _, line in seen)


def test_the_counts_of_processes_add_up_to_those_of_one() -> None:
    torch.manual_seed(0)
    net = build_model(ModelSpec("msfnet", 0.0625))
    sets: list[Frames] = [Roads(), Roads("more", 4)]
    whole = score(net, sets)
    parts = [score(net, sets, part=(rank, 3)) for rank in range(3)]
    kept: list[Tensor] = []

    def collect(sums: Tensor) -> Tensor:
        kept.append(sums)
        return sums

    for part in parts:
        pooled_over(part, ["roads", "more"], collect)
    by_set = [sum(kept[place::2][1:], kept[place]) for place in range(2)]
    found = pooled_over({}, ["roads", "more"], lambda _: by_set.pop(0))
    for name, one in whole.items():
        assert np.array_equal(found[name].predicted, one.predicted)
        assert np.array_equal(found[name].predicted_hit, one.predicted_hit)
        assert np.array_equal(found[name].truth_found, one.truth_found)
        assert (found[name].truth, found[name].pixels) == (one.truth, one.pixels)


def test_a_set_without_cracks_has_no_say_in_the_threshold() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 50), np.bool_)
    mask[20:23] = True
    answer = np.where(mask, 180, rng.integers(0, 60, mask.shape)).astype(np.uint8)
    cracked = counts(answer, mask, 2.0)
    empty = counts(rng.integers(0, 200, mask.shape).astype(np.uint8), np.zeros_like(mask), 2.0)
    assert best_level({"road": cracked, "empty": empty}) == best_level({"road": cracked}) == (1.0, 180)
    assert best_level({"empty": empty}) == (
        0.0,
        128,
    )  # 1.0 at a threshold that nothing reaches would be the best for ever


@pytest.mark.parametrize(
    ("augmentation", "scales"),
    [("fast", (0.8, 3.0)), ("scnet", (1.0, 1.0)), ("msfnet", (1.0, 1.0)), ("cacpnet", (0.64, 0.64))],
)
def test_a_net_remembers_the_scales_that_it_was_shown(
    tmp_path: Path, augmentation: str, scales: tuple[float, float]
) -> None:
    assert trainer(tmp_path, augmentation=augmentation).spec.scales == pytest.approx(scales)


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_score_of_a_run_is_that_of_the_weights_that_are_kept(tmp_path: Path, select: str) -> None:
    training = trainer(tmp_path, select=select, validate_steps=1)
    training.run(lambda _: None)
    scores = [record["best_f1_2px"] for record in log(tmp_path)]
    assert training.kept_score == (scores[-1] if select == "last" else max(scores))


# What is refused


def test_a_run_of_an_older_form_is_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trainer(tmp_path).run(lambda _: None)
    values, about = load_tensors(tmp_path / LAST)
    save_file(values, tmp_path / LAST, {k: v for k, v in about.items() if k not in ("format", "version")})
    with pytest.raises(SpecError, match=r"written by edgecrack an older version in form 1, this is .* with form 2"):
        trainer(tmp_path, resume=True)


def test_what_differs_from_the_run_is_named(tmp_path: Path) -> None:
    trainer(tmp_path).run(lambda _: None)
    with pytest.raises(SpecError, match=r"its learning_rate is 0\.002, wanted 0\.1, its steps is 4, wanted 5"):
        trainer(tmp_path, steps=5, learning_rate=0.1, resume=True)
    with pytest.raises(SpecError, match="its name is msfnet, wanted scnet"):
        trainer(tmp_path, "scnet", resume=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory as it likes")
def test_a_run_on_a_cpu_keeps_the_memory_that_it_frees() -> None:
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=300, check=True)
    first, *_, last = map(int, told.stdout.split())
    assert first > 10_000
    assert last < 1_000  # of the 16,384 pages that a tensor of 64 MB has


FAULTS = """
import resource, torch
from edgecrack.training.machine import open_fabric

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

open_fabric("cpu")
print(*(faults() for _ in range(10)))
"""
