"""Drawn scenes whose false alarms have one trait each, and the pictures kept of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecrack.dataset import LabelledFrame
from edgecrack.evaluation.false_alarms import KINDS, false_pieces, false_pixels
from edgecrack.evaluation.gallery import FALSE, FOUND, MISSED, Gallery, Shelf, overlay
from edgecrack.evaluation.scores import _count

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def asphalt(seed: int = 0) -> Image:
    grey = np.random.default_rng(seed).normal(120, 6, (200, 320)).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)


def along(points: list[tuple[int, int]], thickness: int = 3) -> Mask:
    drawn = np.zeros((200, 320), np.uint8)
    cv2.polylines(drawn, [np.array(points, np.int32)], False, 255, thickness)
    return np.asarray(drawn > 0)


WANDERING = [(40, 40), (70, 75), (95, 65), (120, 110), (160, 100), (190, 150)]
NOWHERE = np.zeros((200, 320), np.bool_)


def kinds(image: Image, predicted: Mask, mask: Mask = NOWHERE) -> list[str]:
    return [piece.kind for piece in false_pieces(image, predicted, mask)]


def test_a_speck_is_small_whatever_is_under_it() -> None:
    predicted = along([(50, 50), (60, 56)])
    image = asphalt()
    image[predicted] = 40
    assert kinds(image, predicted) == ["speck"]


def test_the_border_of_a_mark_is_a_border() -> None:
    image = asphalt()
    image[80:] = 220
    assert kinds(image, along([(30, 80), (290, 80)])) == ["border"]
    shade = asphalt()
    shade[:, 150:] //= 2
    assert kinds(shade, along([(150, 30), (150, 170)])) == ["border"]


def test_a_straight_joint_is_straight_and_a_wandering_line_is_thin_and_dark() -> None:
    joint, crack = along([(20, 30), (300, 120)]), along(WANDERING)
    for line, kind in ((joint, "straight"), (crack, "dark")):
        image = asphalt()
        image[line] = 60
        assert kinds(image, line) == [kind]


def test_what_nothing_in_the_frame_explains_is_none_of_these() -> None:
    assert kinds(asphalt(), along(WANDERING)) == ["texture"]


def test_what_touches_a_label_runs_on_from_it_and_what_is_near_it_is_right() -> None:
    image, crack = asphalt(), along(WANDERING)
    longer = along([*WANDERING, (250, 180)])
    (piece,) = false_pieces(image, longer, crack)
    assert piece.kind == "beside"
    assert piece.pixels == false_pixels(longer, crack).sum() < longer.sum() - crack.sum() + 10
    wider = along(WANDERING, 5)
    assert false_pieces(image, wider, crack) == ()
    assert false_pieces(image, crack, crack) == ()
    assert false_pieces(image, NOWHERE, crack) == ()


def test_pieces_are_counted_each_with_its_box() -> None:
    predicted = along([(20, 30), (300, 30)], 1) | along([(100, 100), (104, 100)], 1)
    image = asphalt()
    image[predicted] = 40
    pieces = false_pieces(image, predicted, NOWHERE)
    assert [(piece.kind, piece.pixels, piece.box) for piece in pieces] == [
        ("straight", 281, (20, 30, 301, 31)),
        ("speck", 5, (100, 100, 105, 101)),
    ]
    assert set(KINDS) >= {piece.kind for piece in pieces}


def test_an_overlay_shows_what_is_found_missed_and_false() -> None:
    image, crack, elsewhere = asphalt(), along(WANDERING), along([(20, 180), (300, 180)])
    half = crack.copy()
    half[:, 120:] = False
    drawn = overlay(image, half | elsewhere, crack)
    assert tuple(drawn[180, 200]) == FALSE
    assert tuple(drawn[41, 41]) == FOUND
    assert tuple(drawn[149, 189]) == MISSED
    plain = overlay(image, NOWHERE, NOWHERE)
    assert (plain[:, :, 0] == plain[:, :, 2]).all()


def test_a_shelf_keeps_the_highest_and_makes_no_other_picture() -> None:
    made = []

    def picture(rank: float) -> object:
        made.append(rank)
        return rank

    shelf = Shelf(2)
    for rank in (0.5, 0.2, 0.1, 0.9, 0.9, 0.3, 0.2):
        shelf.offer(rank, lambda rank=rank: picture(rank))  # type: ignore[misc]
    assert shelf.pictures == [0.9, 0.9]
    assert made == [0.5, 0.2, 0.9, 0.9]


@pytest.fixture
def gallery() -> Gallery:
    """Of six frames in which ever more of the crack is found, and one without a crack in which a joint fires."""
    gallery, crack = Gallery(0.5, frames=2, crops=1), along(WANDERING)
    image = asphalt()
    image[crack] = 60
    for index in range(6):
        predicted = crack.copy()
        predicted[:, 60 + 25 * index :] = False
        see(gallery, f"frame{index}", image, predicted, crack)
    see(gallery, "joint", image, along([(20, 180), (300, 180)]), NOWHERE)
    return gallery


def see(gallery: Gallery, name: str, image: Image, predicted: Mask, mask: Mask) -> None:
    frame, probability = LabelledFrame(name, image, mask), np.where(predicted, 200, 0).astype(np.uint8)
    gallery(frame, probability, _count(frame, probability, 128))


def test_a_gallery_keeps_the_worst_the_best_and_the_false(gallery: Gallery) -> None:
    assert [picture.name for picture in gallery.worst.pictures] == ["frame0", "frame1"]
    assert [picture.name for picture in gallery.best.pictures] == ["frame5", "frame4"]
    assert [picture.name for picture in gallery.silent.pictures] == ["joint"]
    assert "% of the pixels fire" in gallery.silent.pictures[0].caption
    assert {kind for kind, shelf in gallery.kinds.items() if shelf.pictures} == {"straight"}
    row, _ = np.unravel_index(gallery.heat.argmax(), gallery.heat.shape)
    assert row == 18  # of 20, as 180 is of 200
    for picture in (*gallery.worst.pictures, *gallery.kinds["straight"].pictures):
        plain, drawn = (cv2.imdecode(np.frombuffer(data, np.uint8), 1) for data in (picture.plain, picture.drawn))
        assert plain is not None
        assert drawn is not None
        assert plain.shape == drawn.shape
