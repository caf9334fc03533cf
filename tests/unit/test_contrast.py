"""The contrast: its formula written out, who gets a gradient and who does not, and the bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgecrack.errors import SpecError
from edgecrack.training.contrast import BACKGROUND, CRACK, Bank, Contrast, directional, info_nce, instance, newest, sure

CONTRAST = Contrast()


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def embeddings(count: int, width: int = 8) -> Tensor:
    return F.normalize(torch.randn(count, width), dim=1)


def bank(crack: int = 5, background: int = 7, size: int = 32) -> Bank:
    found = Bank(size, 8)
    found.take(CRACK, embeddings(crack))
    found.take(BACKGROUND, embeddings(background))
    return found


def plain(anchors: Tensor, positives: Tensor, negatives: Tensor, tau: float) -> float:
    """-log of the positive's share of the exponentials."""
    a, p, n = (x.detach().double().numpy() for x in (anchors, positives, negatives))
    close = np.exp((a * p).sum(1) / tau)
    return float(np.mean(-np.log(close / (close + np.exp(a @ n.T / tau).sum(1)))))


def test_the_contrast_is_its_formula() -> None:
    a, p, n = embeddings(6), embeddings(6), embeddings(9)
    assert info_nce(a, p, n, 0.1).item() == pytest.approx(plain(a, p, n, 0.1), rel=1e-4)


def test_a_direction_uses_the_pixels_whose_other_view_is_surer() -> None:
    f, other = embeddings(6), embeddings(6)
    p = torch.tensor([0.6, 0.9, 0.5, 0.40, 0.5, 0.6])
    other_p = torch.tensor([0.8, 0.8, 0.7, 0.02, 0.10, 0.99])
    # the second is surer itself, the third's other view is not sure, the fifth's not sure enough for background
    memory = bank()
    cracks = plain(f[[0, 5]], other[[0, 5]], memory.of(BACKGROUND), 0.1)
    background = plain(f[[3]], other[[3]], memory.of(CRACK), 0.1)
    found = directional(f, p, other, other_p, memory, CONTRAST).item()
    assert found == pytest.approx((cracks + background) / 2, rel=1e-4)


def test_the_confident_side_and_the_bank_get_no_gradient() -> None:
    f, other = embeddings(6).requires_grad_(), embeddings(6).requires_grad_()
    memory = bank()
    memory.vectors.requires_grad_()
    loss = directional(f, torch.full((6,), 0.6), other, torch.full((6,), 0.9), memory, CONTRAST)
    loss.backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    assert f.grad.abs().max() > 0
    assert other.grad is None or not other.grad.any()
    assert memory.vectors.grad is None or not memory.vectors.grad.any()


def test_an_empty_bank_and_no_anchors_cost_nothing_and_keep_the_graph() -> None:
    f = embeddings(6).requires_grad_()
    empty = Bank(4, 8)
    sure_of = torch.full((6,), 0.9)
    assert directional(f, torch.full((6,), 0.6), embeddings(6), sure_of, empty, CONTRAST).item() == 0
    nothing = directional(f, sure_of, embeddings(6), torch.full((6,), 0.6), bank(), CONTRAST)
    assert nothing.item() == 0
    nothing.backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    assert not f.grad.any()


def test_instances_are_drawn_to_their_classes_mean_away_from_the_other_class() -> None:
    memory, f = bank(), embeddings(4)
    crack, used = torch.tensor([True, True, False, True]), torch.tensor([True, True, True, False])
    means = [F.normalize(memory.of(kind).sum(0), dim=0) for kind in (BACKGROUND, CRACK)]
    cracks = plain(f[:2], means[1].expand(2, 8), memory.of(BACKGROUND), 0.1)
    background = plain(f[2:3], means[0].expand(1, 8), memory.of(CRACK), 0.1)
    assert instance(f, crack, used, memory, CONTRAST).item() == pytest.approx((cracks + background) / 2, rel=1e-4)


def test_anchors_are_capped_by_class() -> None:
    f = torch.zeros(2000, 8)
    f[:, 0] = torch.arange(2000) < 1000  # cracks
    f.requires_grad_()
    crack = torch.arange(2000) < 1000
    instance(f, crack, torch.ones(2000, dtype=torch.bool), bank(), Contrast(anchors=100)).backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    moved = f.grad.abs().sum(1) > 0
    assert (int(moved[:1000].sum()), int(moved[1000:].sum())) == (100, 100)


def test_a_pixel_is_sure_by_what_it_is_taken_for() -> None:
    p = torch.tensor([0.0, 0.05, 0.06, 0.5, 0.74, 0.75, 1.0])
    assert sure(p, CONTRAST).tolist() == [True, True, False, False, False, True, True]


def test_the_bank_replaces_its_oldest_vectors() -> None:
    memory = Bank(4, 1)
    for first in (0, 3, 6):
        memory.take(CRACK, torch.arange(first, first + 3).float()[:, None])
    assert sorted(memory.of(CRACK)[:, 0].tolist()) == [5, 6, 7, 8]
    memory.take(CRACK, torch.arange(20, 30).float()[:, None])
    assert sorted(memory.of(CRACK)[:, 0].tolist()) == [26, 27, 28, 29]
    assert (len(memory.of(BACKGROUND)), memory.least) == (0, 0)
    assert set(memory.state_dict()) == {"vectors", "counts"}


def test_the_bank_takes_labelled_pixels_first() -> None:
    f = torch.arange(100).float()[:, None]
    labelled = torch.arange(100) < 3
    found = newest(f, [labelled, torch.arange(100) >= 50], 8)[:, 0]
    assert sorted(found[:3].tolist()) == [0, 1, 2]
    assert len(found) == 8
    assert found[3:].min() >= 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"embed_from": 3},
        {"temperature": 0},
        {"sure_crack": 1.5},
        {"bank_size": 0},
        {"bank_least": 4000},
        {"pseudo_weight": -1.0},
    ],
)
def test_switches_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(wrong))):
        Contrast(**wrong)
