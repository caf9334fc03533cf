"""Crops and views: masks stay on their cracks, numbers decide what is drawn, and two views meet where they say."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from edgecrack.dataset import LabelledFrame
from edgecrack.errors import SourceError, SpecError
from edgecrack.spec import FrameSpec
from edgecrack.training.crops import Crops, Views, place
from edgecrack.training.recipes import AUGMENTATIONS, Recipe
from edgecrack.training.semi_supervised import meeting
from edgecrack.training.subsets import labelled_part
from edgecrack.training.views import plain_view, scnet_view, two_views, view_for

SIZE = FrameSpec(64, 96)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    cv2.setNumThreads(1)


class Frames:
    """Frames whose crack is black on white: the mask can be read off the picture."""

    def __init__(
        self, name: str = "some", count: int = 3, shape: tuple[int, int] = (150, 200), share: float = 1
    ) -> None:
        self.name, self.count, self.shape, self.share = name, count, shape, share

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> LabelledFrame:
        drawn = np.zeros(self.shape, np.uint8)
        width = max(1, round(20 * self.share * (index + 1) / self.count))
        cv2.line(drawn, (20, 30), (self.shape[1] - 30, self.shape[0] - 20), 255, width)
        return LabelledFrame(f"{index}", np.repeat(255 - drawn[:, :, None], 3, axis=2), drawn > 0)


@pytest.mark.parametrize("shape", [(150, 200), (40, 50), (300, 64)])
@pytest.mark.parametrize("augmentation", ["aelf-unet", "scnet", "cacpnet", "none"])
def test_the_mask_follows_the_picture(augmentation: str, shape: tuple[int, int]) -> None:
    view = view_for(augmentation)
    frame = Frames(shape=shape)[2]
    assert frame.mask is not None
    for seed in range(8):
        image, mask = view(frame.image, frame.mask, SIZE, np.random.default_rng(seed))
        assert image.shape == (64, 96, 3)
        assert mask.shape == (64, 96)
        assert (image.dtype, mask.dtype) == (np.uint8, np.bool_)
        dark = image[:, :, 0] < 128
        assert (dark != mask).mean() < 0.06  # at the crack's edges only
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert dark[inner].mean() > 0.95 if inner.any() else True


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_view_has_the_size_asked_for_and_depends_on_its_seed(augmentation: str) -> None:
    frame, view = Frames()[0], view_for(augmentation)
    assert frame.mask is not None
    seen = [view(frame.image, frame.mask, SIZE, np.random.default_rng(seed))[0] for seed in (0, 0, 1, 2, 3)]
    assert all(image.shape == (64, 96, 3) and image.flags.c_contiguous for image in seen)
    assert np.array_equal(seen[0], seen[1])
    assert augmentation == "none" or not all(np.array_equal(seen[0], other) for other in seen[2:])


def test_aelfs_strict_form_takes_only_colours_that_were_there() -> None:
    frame = Frames()[2]
    assert frame.mask is not None
    strict = view_for("aelf-unet", strict_nearest=True)(frame.image, frame.mask, SIZE, np.random.default_rng(1))
    smooth = view_for("aelf-unet")(frame.image, frame.mask, SIZE, np.random.default_rng(1))
    assert set(np.unique(strict[0])) <= {0, 255}
    assert len(np.unique(smooth[0])) > 2


def test_scnets_crops_lie_within_a_frame_that_is_large_enough() -> None:
    image = np.full((400, 500, 3), 200, np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 0, 0, 0, 0  # mirrored, the border would be seen
    for seed in range(20):
        crop, _ = scnet_view(image, np.zeros((400, 500), np.bool_), SIZE, np.random.default_rng(seed))
        assert crop.min() > 100


def test_thin_cracks_survive_being_shrunk() -> None:
    mask = np.zeros((480, 640), np.bool_)
    mask[:, 321:323] = True
    _, small = plain_view(np.zeros((480, 640, 3), np.uint8), mask, FrameSpec(160, 213))
    assert small.any(axis=1).all()


def test_numbers_alone_decide_what_is_drawn() -> None:
    crops = Crops([Frames("a"), Frames("b", 5)], Recipe(crop=FrameSpec(32, 32)))
    whole = crops.batch(range(4, 10))
    parts = [crops.batch(range(4, 7)), crops.batch(range(7, 10))]  # of two processes
    for name in ("frames", "masks"):
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts]))
    other = Crops([Frames("a"), Frames("b", 5)], Recipe(crop=FrameSpec(32, 32), seed=1)).batch(range(4, 10))
    assert not np.array_equal(whole["frames"], other["frames"])


def test_shuffled_frames_come_once_an_epoch_in_another_order_each() -> None:
    sets, recipe = [Frames("a", 3), Frames("b", 4)], Recipe(order="shuffled")
    rng = np.random.default_rng(0)
    epochs = [[place(sets, recipe, 7 * epoch + k, rng) for k in range(7)] for epoch in range(4)]
    everything = {(0, index) for index in range(3)} | {(1, index) for index in range(4)}
    assert all(set(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_drawn_sets_count_alike_whatever_their_size() -> None:
    sets = [Frames("small", 2), Frames("large", 200)]
    drawn = Counter(place(sets, Recipe(), k, np.random.default_rng(k))[0] for k in range(400))
    assert 150 < drawn[0] < 250


def test_a_frame_without_a_mask_is_named() -> None:
    class Unlabelled(Frames):
        def __getitem__(self, index: int) -> LabelledFrame:
            return LabelledFrame("7", super().__getitem__(index).image, None)

    with pytest.raises(SourceError, match="some has no mask for 7"):
        Crops([Unlabelled()], Recipe(crop=FrameSpec(32, 32))).batch(range(1))
    assert Views([Unlabelled()], Recipe(crop=FrameSpec(32, 32))).batch(range(2))["first"].shape == (2, 32, 32, 3)


@pytest.mark.parametrize("augmentation", ["fast", "msfnet", "cacpnet"])
@pytest.mark.parametrize("size", [FrameSpec(64, 64), FrameSpec(64, 96), FrameSpec(32, 32)])
def test_two_views_share_a_quarter_of_their_area_and_meet_pixel_by_pixel(size: FrameSpec, augmentation: str) -> None:
    """Maps that hold their own place in the plane: where the views meet, both must hold the same."""
    image = Frames()[0].image
    for seed in range(20):
        (first, second), corners, flips = two_views(image, size, augmentation, np.random.default_rng(seed))
        assert first.shape == second.shape == (size.height, size.width, 3)
        assert (corners % 16 == 0).all()
        maps = []
        for (top, left), flip in zip(corners // 4, flips, strict=True):
            y, x = np.mgrid[top : top + size.height // 4, left : left + size.width // 4]
            plane = np.stack([y, x])
            maps.append(plane[:, :, ::-1].copy() if flip else plane)
        one, other = meeting(
            torch.from_numpy(np.stack(maps)), torch.from_numpy(corners[None] // 4), torch.from_numpy(flips[None])
        )
        assert torch.equal(one, other)
        assert len(one) >= size.height * size.width / 16 / 4
        assert len(one) == len(np.unique(one.numpy(), axis=0))


@pytest.mark.parametrize(
    ("augmentation", "shape", "wanted"),
    [("scnet", (320, 480), 20), ("msfnet", (150, 900), 20), ("cacpnet", (640, 960), 10), ("aelf-unet", (360, 480), 10)],
)
def test_views_for_the_papers_have_the_scale_of_labelled_frames(
    augmentation: str, shape: tuple[int, int], wanted: int
) -> None:
    """Stripes 20 pixels wide in a frame: at its own scale, or as the whole of it is stretched to 320 rows."""
    stripes = np.repeat((np.arange(shape[0]) // 20 % 2 * 200 + 20).astype(np.uint8)[:, None], shape[1], 1)
    size = FrameSpec(320, 480) if augmentation == "cacpnet" else FrameSpec(180, 180)
    for seed in range(10):
        (view, _), _, _ = two_views(cv2.merge([stripes] * 3), size, augmentation, np.random.default_rng(seed))
        column = view.mean((1, 2)) > 120
        edges = np.flatnonzero(column[1:] != column[:-1])
        assert abs(np.median(np.diff(edges)) - wanted) <= 1


def test_masks_that_are_enlarged_keep_the_width_of_their_cracks() -> None:
    mask = np.zeros((320, 480), np.bool_)
    for left in range(5, 470, 11):
        mask[:, left : left + 3] = True
    _, larger = plain_view(np.zeros((320, 480, 3), np.uint8), mask, FrameSpec(512, 512))
    assert abs(larger.mean() / mask.mean() - 1) < 0.02


def test_the_views_of_several_frames_meet_each_with_its_own() -> None:
    maps = torch.arange(4).repeat_interleave(64).view(4, 1, 8, 8)  # frames 0 and 1, first and second views
    same, none = torch.zeros(2, 2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.bool)
    one, other = meeting(maps, same, none)
    assert torch.equal(other - one, torch.full((128, 1), 2))


def test_unlabelled_and_labelled_draws_differ() -> None:
    recipe = Recipe(crop=FrameSpec(32, 32))
    numbers = [place([Frames(count=1000)], recipe, k, np.random.default_rng((0, k)))[1] for k in range(50)]
    others = [place([Frames(count=1000)], recipe, k, np.random.default_rng((0, k, 1)))[1] for k in range(50)]
    assert sum(a == b for a, b in zip(numbers, others, strict=True)) < 5


def test_few_labels_are_nested_and_stratified() -> None:
    frames = Frames(count=80, share=1)
    chosen = {share: labelled_part([frames], share, seed=3)[0].indices for share in (0.01, 0.1, 0.25, 0.5, 1.0)}
    assert [len(found) for found in chosen.values()] == [4, 8, 20, 40, 80]
    for small, large in zip(list(chosen)[:-1], list(chosen)[1:], strict=True):
        assert chosen[large][: len(chosen[small])] == chosen[small]
    for found in chosen.values():  # the crack widens with the index: a stratum is a quarter of the indices
        assert set(Counter(index // 20 for index in found).values()) == {len(found) // 4}
    assert labelled_part([frames], 0.1, seed=4)[0].indices != chosen[0.1]


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan")])
def test_a_share_of_labels_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match="above 0 and at most 1"):
        labelled_part([Frames()], share, 0)
