"""Scoring a net while it trains: probabilities of frames of any size, and scores pooled by set."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from roads import Roads

from edgecrack.dataset import LabelledFrame
from edgecrack.fitting import Fit
from edgecrack.metrics import counts
from edgecrack.models import build_model, rgb_from_frames
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.training.data import Frames
from edgecrack.training.validation import probability, score


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 50), (70, 1), (5, 7)])
def test_a_probability_is_the_frames_own_size_whatever_the_stride(height: int, width: int) -> None:
    torch.manual_seed(0)
    net = build_model(ModelSpec("scnet", 0.05)).eval()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    with torch.no_grad():
        found = probability(net, image)
        below, right = -height % 32, -width % 32
        padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
        logits = net(net.prepare(rgb_from_frames(torch.from_numpy(padded)[None])))
    assert found.dtype == np.uint8
    assert found.shape == (height, width)
    wanted = (torch.sigmoid(logits)[0, 0].numpy() * 255).round()[:height, :width]
    np.testing.assert_allclose(found, wanted, atol=1)


def test_a_net_is_scored_as_the_runtime_shows_it_a_frame_of_another_size() -> None:
    torch.manual_seed(0)
    net = build_model(ModelSpec("msfnet", 0.125)).eval()
    frames, size = Roads(), FrameSpec(32, 32)
    fit = Fit.of(*frames[0].image.shape[:2], size)
    with torch.inference_mode():
        expected = fit.undo(probability(net, fit.apply(frames[0].image)))
        np.testing.assert_array_equal(probability(net, frames[0].image, size), expected)
    own, fitted = score(net, [frames])["roads"], score(net, [frames], frame=size)["roads"]
    assert (own.truth, own.pixels) == (fitted.truth, fitted.pixels)  # of the frames, not of what the net was shown
    assert not np.array_equal(own.predicted, fitted.predicted)


def test_scores_are_pooled_by_set_and_frames_without_masks_passed_over() -> None:
    class Unlabelled(Roads):
        def __getitem__(self, index: int) -> LabelledFrame:
            frame = super().__getitem__(index)
            return LabelledFrame(frame.name, frame.image, frame.mask if index == 3 else None)

    torch.manual_seed(0)
    net = build_model(ModelSpec("msfnet", 0.125))
    sets: list[Frames] = [Roads(), Unlabelled("some", 7)]
    found = score(net, sets)
    assert not net.training
    assert found["roads"].pixels == 4 * 40 * 50
    assert found["some"].pixels == 40 * 50
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        frame = sets[1][3]
        assert frame.mask is not None
        one = counts(probability(net, frame.image), frame.mask, 2.0)
    assert np.array_equal(found["some"].predicted_hit, one.predicted_hit)
