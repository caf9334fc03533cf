"""Few labels, and a teacher: when the contrast counts, that a student comes nearer, how they resume, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import NARROW, TINY, Roads, one_thread, same, stopped, trainer
from torch import Tensor

from edgecrack.errors import SpecError
from edgecrack.models import MODELS, build_model
from edgecrack.models.checkpoint import load_checkpoint, load_tensors
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training import semi_supervised
from edgecrack.training.crops import Crops, Views
from edgecrack.training.losses import LOSSES
from edgecrack.training.objectives import Distilled, Learner, distillation
from edgecrack.training.recipes import Recipe
from edgecrack.training.semi_supervised import FewLabels
from edgecrack.training.states import LAST

EAGER = {"unlabelled_batch": 2, "bank_least": 1, "contrast_start": 0.0, "sure_labelled": 0.0, "sure_crack": 0.5}
EAGER |= {"sure_background": 0.5, "contrast_ramp": 0.0}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    one_thread()


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


def test_a_teacher_is_the_same_wherever_its_net_comes_from() -> None:
    """A checkpoint's net is at rest, and a fresh one in training."""
    for fresh in (True, False):
        learner = Learner(build_model(ModelSpec("msfnet", NARROW["msfnet"])).train(fresh), 4)
        plan = Recipe(**TINY, contrast={**EAGER, "mean_teacher": 0.9})
        objective = FewLabels("msfnet", plan, Crops([Roads()], plan), Views([Roads("more", 7)], plan), learner)
        assert objective.teacher is not None
        assert not any(module.training for module in objective.teacher.modules())


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
