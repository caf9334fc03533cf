"""Where windows lie in frames of any size, how their answers become one, and when frames are cut at all."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edgecrack.errors import SpecError
from edgecrack.fitting import Fit
from edgecrack.runtime.region import Region, parse_region
from edgecrack.runtime.tiling import OVERLAP, Crop, Tiling, check_tile, place
from edgecrack.spec import FrameSpec, ModelSpec

NET = FrameSpec(48, 64)
SPEC = ModelSpec("scnet", frame=NET)
SIZES = [(49, 64), (48, 65), (96, 128), (97, 131), (48, 900), (30, 300), (200, 40), (333, 777), (49, 7), (1, 500)]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tiling(height, width, roi=None, frame=NET):
    region = parse_region(roi).within(height, width) if roi else Region(0, height, 0, width)
    return Tiling.of(height, width, frame, region)


def answered(placement, image):
    """What a net that answers with the blue channel makes of it."""
    pieces = list(placement.pieces(image))
    assert len(pieces) == placement.count
    assert all(piece.shape == (NET.height, NET.width, 3) for piece in pieces)
    return placement.undo(np.stack(pieces)[..., 0])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tiles_give_every_pixel_back_as_it_was(height, width):
    image = noise(height, width)
    np.testing.assert_array_equal(answered(tiling(height, width), image), image[..., 0])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_neighbours_share_an_eighth_or_more_and_no_tile_is_too_much(height, width):
    tiles = tiling(height, width)
    for places, side, tile in (
        (sorted({top for top, _ in tiles.corners}), height, NET.height),
        (sorted({left for _, left in tiles.corners}), width, NET.width),
    ):
        assert places[0] == 0
        assert places[-1] == max(0, side - tile)
        steps = np.diff(places)
        assert (steps <= tile - tile // OVERLAP).all()
        fewest = 1 if side <= tile else -(-(side - tile // OVERLAP) // (tile - tile // OVERLAP))
        assert len(places) == fewest
        assert not steps.size or steps.max() - steps.min() <= 1


def test_tiles_inside_the_frame_are_not_copied():
    image = noise(97, 131)
    assert all(np.shares_memory(piece, image) for piece in tiling(97, 131).pieces(image))


@pytest.mark.parametrize("turned", [False, True])
def test_answers_that_differ_fade_into_each_other_without_a_seam(turned):
    tiles = tiling(960, 512, frame=FrameSpec(512, 512)) if turned else tiling(512, 960, frame=FrameSpec(512, 512))
    assert tiles.count == 2
    answer = np.stack([np.zeros((512, 512), np.uint8), np.full((512, 512), 255, np.uint8)])
    whole = tiles.undo(answer)
    whole = whole.T if turned else whole
    assert (whole == whole[0]).all()
    row = whole[0].astype(int)
    assert not row[:448].any() and (row[512:] == 255).all()  # each by itself where it is alone
    steps = np.diff(row)
    assert (
        steps >= 0
    ).all() and steps.max() <= 7  # 255 over 64 pixels; the steepest of half a wave is pi / 2 times the mean
    np.testing.assert_allclose(row[448:512] + row[448:512][::-1], 255, atol=1)
    assert row[448:512].mean() == pytest.approx(127.5, abs=0.1)  # rounded, not cut


def test_where_four_tiles_meet_they_fade_both_ways():
    frame = FrameSpec(64, 64)
    answer = np.zeros((4, 64, 64), np.uint8)
    answer[3] = 255
    whole = tiling(112, 112, frame=frame).undo(answer).astype(int)
    middle = whole[48:64, 48:64]
    assert (np.diff(middle, axis=0) >= 0).all() and (np.diff(middle, axis=1) >= 0).all()
    assert 60 <= middle[7:9, 7:9].mean() <= 68  # a quarter each
    assert whole[:48].max() == whole[:, :48].max() == 0


@pytest.mark.parametrize(
    ("roi", "tiles"),
    [
        ("rows:0-1", 16),
        ("rows:0-40", 4),
        ("rows:60-90", 4),  # one row of tiles, moved so that it holds the region
        ("rows:0.9-1", 4),
        ("10,10 50,10 10,40", 1),
        ("0,0 223,0 223,167", 13),  # the triangle leaves the lower left out
    ],
)
def test_only_tiles_that_touch_the_region_are_shown_to_the_net(roi, tiles):
    image = noise(168, 232)
    placement = tiling(168, 232, roi)
    assert placement.count == tiles
    expected = parse_region(roi).within(168, 232).blank_outside(image[..., 0].copy())
    np.testing.assert_array_equal(answered(placement, image), expected)
    assert expected.any()


def test_a_small_region_is_seen_with_what_lies_around_it():
    ((top, left),) = tiling(400, 400, "200,200 210,200 200,206").corners
    assert (top, left) == (200 - (48 - 7) // 2, 200 - (64 - 11) // 2)
    assert tiling(400, 400, "399,399 390,399 399,395").corners == ((352, 336),)


def test_the_box_around_a_region_is_fitted_as_if_it_were_the_frame():
    image = noise(96, 128)
    crop = place(96, 128, SPEC, "fit", parse_region("32,24 95,24 95,71 32,71"))
    assert isinstance(crop, Crop)
    np.testing.assert_array_equal(next(iter(crop.pieces(image))), image[24:72, 32:96])
    whole = crop.undo(np.full((48, 64), 9, np.uint8))
    assert (whole[24:72, 32:96] == 9).all()
    assert np.count_nonzero(whole) == 48 * 64


@pytest.mark.parametrize(
    ("height", "width", "tile", "kind"),
    [
        (480, 640, "fit", Fit),
        (480, 640, "tile", Tiling),
        (48, 64, "tile", Fit),
        (20, 30, "tile", Fit),
        (49, 64, "tile", Tiling),
        (160, 213, "auto", Fit),  # at 0.3
        (161, 215, "auto", Tiling),
        (20, 30, "auto", Fit),
        (40, 300, "auto", Tiling),
    ],
)
def test_frames_larger_than_the_net_are_cut_where_that_is_asked_for(height, width, tile, kind):
    assert isinstance(place(height, width, SPEC, tile, None), kind)


def test_what_auto_took_is_logged_with_its_reason(caplog):
    caplog.set_level(logging.INFO, "edgecrack.tiling")
    place(480, 640, SPEC, "auto", None)
    place(96, 128, SPEC, "auto", None)
    place(480, 640, SPEC, "tile", None)
    assert [record.getMessage() for record in caplog.records] == [
        "tiling frames of 640x480: fitted they are at scale 0.10, and scnet was trained at 0.3 to 3",
        "fitting frames of 128x96: fitted they are at scale 0.50, and scnet was trained at 0.3 to 3",
    ]


@pytest.mark.parametrize(("tile", "warned"), [("fit", True), ("auto", False), ("tile", False)])
def test_fitting_below_the_scales_of_the_model_is_warned_of(caplog, tile, warned):
    place(96, 128, SPEC, tile, None)
    place(480, 640, SPEC, tile, None)
    place(480, 640, SPEC, tile, parse_region("0,0 99,0 99,79"))
    told = (
        "frames of 640x480 are shrunk to 0.10 of their size, and scnet was trained down to 0.3: thin cracks may be lost"
    )
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning.split(";")[0] for warning in warnings] == [told] * warned


def test_auto_goes_by_the_scales_of_the_model_and_by_the_region():
    tolerant = ModelSpec("scnet", frame=NET, scales=(0.05, 1.0))
    assert isinstance(place(480, 640, tolerant, "auto", None), Fit)
    assert isinstance(place(480, 640, SPEC, "auto", parse_region("0,0 99,0 99,79")), Crop)


def test_auto_counts_the_fit_inside_a_graph_that_takes_a_cameras_frames():
    spec = ModelSpec("scnet", frame=NET, camera=FrameSpec(96, 128))
    assert isinstance(place(150, 200, SPEC, "auto", None), Fit)
    assert isinstance(place(300, 400, ModelSpec("scnet", frame=FrameSpec(96, 128)), "auto", None), Fit)
    assert isinstance(place(300, 400, spec, "auto", None), Tiling)  # 0.32 x 0.5
    assert place(300, 400, spec, "tile", None).frame == spec.camera
    assert isinstance(place(1080, 1920, ModelSpec("scnet", camera=FrameSpec(1080, 1920)), "auto", None), Fit)


@pytest.mark.parametrize("tile", ["", "yes", "TILE", None])
def test_another_way_is_refused(tile):
    with pytest.raises(SpecError, match="tile is one of fit, tile, auto"):
        check_tile(tile)
