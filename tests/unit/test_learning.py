"""Ways to learn and to end: few labels, a teacher, averages, patience, plateaus; what a sick net is told."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecrack.dataset import LabelledFrame
from edgecrack.errors import SpecError
from edgecrack.metrics import Counts, counts
from edgecrack.models import MODELS, build_model
from edgecrack.models.checkpoint import load_checkpoint, load_tensors
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training import semi_supervised
from edgecrack.training.averages import Average
from edgecrack.training.crops import Crops, Views
from edgecrack.training.data import Frames
from edgecrack.training.fit import Trainer
from edgecrack.training.losses import LOSSES
from edgecrack.training.objectives import Distilled, Learner, distillation
from edgecrack.training.recipes import Recipe, recipe_for
from edgecrack.training.semi_supervised import FewLabels
from edgecrack.training.states import LAST, stored_recipe
from edgecrack.training.validation import ailment, best_level, pooled_over, score

NARROW = {"aelf-unet": 0.05, "cacpnet": 0.0625, "msfnet": 0.0625, "scnet": 0.05}
TINY: dict[str, Any] = {"steps": 4, "batch": 2, "crop": FrameSpec(32, 32), "warm_up": 0}
EAGER = {"unlabelled_batch": 2, "bank_least": 1, "contrast_start": 0.0, "sure_labelled": 0.0, "sure_crack": 0.5}
EAGER |= {"sure_background": 0.5, "contrast_ramp": 0.0}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class Roads:
    """Four frames of a dark line on grey, in memory."""

    def __init__(self, name: str = "roads", first: int = 0) -> None:
        self.name, self.first = name, first

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> LabelledFrame:
        rng = np.random.default_rng(self.first + index)
        drawn = np.zeros((40, 50), np.uint8)
        cv2.polylines(drawn, [rng.integers(0, 40, (2, 2)).astype(np.int32)], False, 1, 3)
        image = rng.normal(150, 8, (40, 50, 3)) - 90 * drawn[:, :, None]
        return LabelledFrame(f"{self.name}-{index}", image.clip(0, 255).astype(np.uint8), drawn > 0)


def trainer(
    folder: Path,
    name: str = "msfnet",
    *,
    resume: bool = False,
    unlabelled: Sequence[Frames] = (),
    teacher: Any = None,
    tensorboard: bool = False,
    **recipe: Any,
) -> Trainer:
    plan = Recipe(**{**TINY, **recipe})
    spec = ModelSpec(name, NARROW[name])
    held: list[Frames] = [Roads("held", 9)]
    extra: dict[str, Any] = {"unlabelled": unlabelled, "teacher": teacher, "tensorboard": tensorboard}
    return Trainer(spec, plan, [Roads()], held, folder, resume=resume, **extra)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(one: Path, other: Path) -> bool:
    (first, _), (second, _) = load_tensors(one / LAST), load_tensors(other / LAST)
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[key]) for key, value in first.items())


def stopped(training: Trainer, after: int) -> None:
    """Ctrl-C after so many steps."""
    steps: list[None] = []

    def press(*_: Any) -> None:
        steps.append(None)
        if len(steps) == after:
            raise KeyboardInterrupt

    training.log.step = press  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        training.run(lambda _: None)
    assert training.made.step == after


# Few labels


@pytest.mark.parametrize("name", MODELS)
def test_any_net_learns_from_unlabelled_frames_too_and_resumes_bit_for_bit(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {
        "unlabelled": [Roads("unlabelled", 20)],
        "contrast": {**EAGER, "mean_teacher": 0.9, "pseudo_weight": 0.1},
    }
    trainer(tmp_path / "whole", name, **settings).run(lambda _: None)
    stopped(trainer(tmp_path / "parts", name, **settings), after=2)
    trainer(tmp_path / "parts", name, resume=True, **settings).run(lambda _: None)
    assert same(tmp_path / "whole", tmp_path / "parts")
    trainer(tmp_path / "supervised", name).run(lambda _: None)
    weights = [load_tensors(tmp_path / run / LAST)[0] for run in ("whole", "supervised")]
    assert any(not torch.equal(value, weights[0][key]) for key, value in weights[1].items() if key.startswith("net."))
    net, _ = load_checkpoint(tmp_path / "whole" / "best.safetensors")
    assert sum(p.numel() for p in net.parameters()) == sum(
        p.numel() for p in build_model(ModelSpec(name, NARROW[name])).parameters()
    )  # the projection of a net that has none of its own lives only in training


def few_labels(**contrast: Any) -> tuple[FewLabels, Learner]:
    torch.manual_seed(0)
    plan = Recipe(**TINY, contrast={**EAGER, **contrast})
    learner = Learner(build_model(ModelSpec("msfnet", NARROW["msfnet"])), 4)
    return FewLabels("msfnet", plan, Crops([Roads()], plan), Views([Roads("more", 7)], plan), learner), learner


def tensors(objective: FewLabels, step: int = 0) -> dict[str, Tensor]:
    return {name: torch.from_numpy(part) for name, part in objective.draw(range(2 * step, 2 * step + 2)).items()}


def test_the_contrast_waits_for_its_time_and_for_the_bank_then_grows() -> None:
    objective, learner = few_labels(contrast_start=0.2, contrast_ramp=0.1, bank_least=3)
    assert objective._weight(0.5) == 0  # the bank is empty
    objective.loss(learner, tensors(objective), 0.0)
    assert objective.bank.least >= 3
    assert objective._weight(0.1) == 0
    assert [objective._weight(p) for p in (0.25, 0.30, 0.35, 0.9)] == pytest.approx([0, 0.05, 0.1, 0.1])


def test_the_contrast_moves_the_embeddings_and_the_supervised_loss_alone_does_not() -> None:
    for start, moves in ((0.0, True), (0.9, False)):
        objective, learner = few_labels(contrast_start=start, contrast_ramp=1e-9)
        for step, progress in enumerate((0.1, 0.2, 0.3)):
            learner.zero_grad()
            objective.loss(learner, tensors(objective, step), progress).backward()  # type: ignore[no-untyped-call]
        assert learner.head is not None
        gradient = learner.head[0].weight.grad
        assert isinstance(gradient, Tensor)  # several processes wait for it, even where it is zero
        assert bool(gradient.any()) is moves


def test_the_loss_without_contrast_is_that_of_the_labelled_crops() -> None:
    objective, learner = few_labels(contrast_start=1.0)
    batch = tensors(objective)
    learner.eval()  # batch norms would see the unlabelled frames
    found = objective.loss(learner, batch, 0.5)
    logits, _ = learner(batch["frames"])
    assert found.item() == pytest.approx(LOSSES["msfnet"](logits, batch["masks"][:, None].float()).item(), rel=1e-5)


def test_pseudo_labels_count_where_they_are_sure() -> None:
    objective, learner = few_labels(pseudo_weight=1.0, contrast_start=1.0)
    plain, _ = few_labels(contrast_start=1.0)
    batch = tensors(objective)
    assert objective.loss(learner.eval(), batch, 0.5) > plain.loss(learner, batch, 0.5)


def test_a_teacher_and_unlabelled_frames_are_not_taken_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not from both"):
        trainer(tmp_path, unlabelled=[Roads()], teacher=build_model(ModelSpec("msfnet", 0.0625)))


def test_batches_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="one must be a multiple"):
        trainer(tmp_path, batch=3, unlabelled=[Roads()], contrast={"unlabelled_batch": 2})


def test_every_process_wants_an_unlabelled_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semi_supervised, "_processes", lambda: 4)
    with pytest.raises(SpecError, match="unlabelled_batch must be at least the 4 processes, got 2"):
        trainer(tmp_path, batch=4, unlabelled=[Roads()], contrast={"unlabelled_batch": 2})


# A teacher


def test_distillation_is_nothing_where_they_agree_and_a_pull_where_they_do_not() -> None:
    torch.manual_seed(0)
    taught = torch.randn(2, 1, 8, 8) * 4
    assert distillation(taught, taught, 2.0).item() == pytest.approx(0, abs=1e-6)
    z = torch.zeros_like(taught).requires_grad_()
    for temperature in (1.0, 2.0, 4.0):
        loss = distillation(z, taught, temperature)
        p, q = 0.5, torch.sigmoid(taught.double() / temperature)
        divergence = q * torch.log(q / p) + (1 - q) * torch.log((1 - q) / (1 - p))
        assert loss.item() == pytest.approx(temperature**2 * divergence.mean().item(), rel=1e-4)
        (gradient,) = torch.autograd.grad(loss, z)
        assert (gradient.sign() == -taught.sign()).all()


def test_a_crop_that_the_teacher_cannot_take_is_refused(tmp_path: Path) -> None:
    teacher = build_model(ModelSpec("scnet", 0.05))
    with pytest.raises(SpecError, match="crop must be a multiple of 32 for its teacher, got 48x48"):
        trainer(tmp_path, crop=FrameSpec(48, 48), teacher=teacher)


@pytest.mark.parametrize("student", ["msfnet", "aelf-unet"])
def test_a_student_comes_nearer_to_its_teacher_which_stays(tmp_path: Path, student: str) -> None:
    torch.manual_seed(1)
    teacher = build_model(ModelSpec("scnet", 0.05))
    teacher.fuse.bias.data.fill_(3.0)  # type: ignore[union-attr]  # against all labels, it sees cracks everywhere
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    plan: dict[str, Any] = {"steps": 30, "learning_rate": 1e-2, "teacher_weight": 100.0}
    training = trainer(tmp_path, student, teacher=teacher, **plan)
    objective = training.objective
    assert isinstance(objective, Distilled)
    frames = torch.from_numpy(objective.draw(range(4))["frames"])

    def distance() -> float:
        with torch.no_grad():
            taught = teacher(teacher.prepare(frames.permute(0, 3, 1, 2).flip(1) / 255))
            own = training.net.eval()(training.net.prepare(frames.permute(0, 3, 1, 2).flip(1) / 255))
            return distillation(own, taught, 2.0).item()

    far = distance()
    training.run(lambda _: None)
    assert distance() < 0.9 * far
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_run_is_resumed_with_its_teacher_only(tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher, other = (build_model(ModelSpec("msfnet", 0.0625)) for _ in range(2))
    stopped(trainer(tmp_path, teacher=teacher), after=2)
    for wrong in (None, other):
        with pytest.raises(SpecError, match=r"its teacher is [0-9a-f]{16}, wanted (none|[0-9a-f]{16})\)"):
            trainer(tmp_path, teacher=wrong, resume=True)
    assert trainer(tmp_path, teacher=teacher, resume=True).made.step == 2
    stopped(trainer(tmp_path / "alone"), after=2)
    with pytest.raises(SpecError, match="its teacher is none, wanted"):
        trainer(tmp_path / "alone", teacher=teacher, resume=True)


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
    [("fast", (0.3, 3.0)), ("scnet", (1.0, 1.0)), ("msfnet", (1.0, 1.0)), ("cacpnet", (0.64, 0.64))],
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
print(*(faults() for _ in range(4)))
"""
