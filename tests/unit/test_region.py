"""A region of interest, from its text to the pixels that it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from edgecrack.errors import SpecError
from edgecrack.runtime.region import parse_region


def kept(text, height=100, width=200):
    """bool (height, width): what the region leaves of a frame."""
    region = parse_region(text).within(height, width)
    left = region.blank_outside(np.full((height, width), 7, np.uint8)) == 7
    assert left.any(1)[region.top] and left.any(1)[region.bottom - 1]  # its box is no larger than it
    assert left.any(0)[region.left] and left.any(0)[region.right - 1]
    return left


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("rows:0.4-0.9", 40, 90),
        ("rows:0-1", 0, 100),
        (" rows:.5-1. ", 50, 100),
        ("rows:40-90", 40, 90),
        ("rows:0-2", 0, 2),
        ("rows:90-1080", 90, 100),  # what there is of it
    ],
)
def test_rows_are_shares_or_pixels(text, first, last):
    expected = np.zeros((100, 200), np.bool_)
    expected[first:last] = True
    np.testing.assert_array_equal(kept(text), expected)


@pytest.mark.parametrize(
    "text",
    ["50,20 149,20 149,69 50,69", "50,69 50,20 149,20 149,69", "0.25,0.2 0.745,0.2 0.745,0.69 0.25,0.69"],
)
def test_a_polygon_is_in_pixels_or_shares_and_its_outline_belongs_to_it(text):
    expected = np.zeros((100, 200), np.bool_)
    expected[20:70, 50:150] = True
    np.testing.assert_array_equal(kept(text), expected)


def test_a_polygon_of_shares_reaches_the_last_pixel():
    assert kept("0,0 1,0 1,1 0,1").all()


def test_a_polygon_need_not_be_a_box():
    left = kept("0,99 100,0 199,99")
    assert left[99].all() and left[0].sum() == 1 and not left[40, 20] and not left[40, 180] and left[40, 100]
    assert 0.49 < left.mean() < 0.52


def test_a_polygon_that_reaches_beyond_the_frame_is_cut():
    left = kept("150,50 400,50 400,300 150,300")
    assert left[50:, 150:].all() and left.sum() == 50 * 50


@pytest.mark.parametrize(
    "text", ["rows:200-300", "rows:100-101", "rows:0.001-0.002", "300,10 400,10 350,90", "10,100 20,100 15,150"]
)
def test_a_region_outside_the_frame_is_refused(text):
    region = parse_region(text)
    with pytest.raises(SpecError, match=r"the region .* a frame of 200x100") as caught:
        region.within(100, 200)
    assert "\n" not in str(caught.value)


def test_a_polygon_whose_box_touches_the_frame_and_which_does_not_is_refused():
    with pytest.raises(SpecError, match="outside a frame"):
        parse_region("199,300 500,0 600,300").within(100, 200)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a region is rows:FROM-TO"),
        ("   ", "a region is rows:FROM-TO"),
        ("road", "got 'road'"),
        ("rows:", "rows:0.4-0.9"),
        ("rows:0.4", "rows:0.4-0.9"),
        ("rows:-1-5", "rows:0.4-0.9"),
        ("rows:a-b", "rows:0.4-0.9"),
        ("rows:1e3-2e3", "rows:0.4-0.9"),
        ("rows:0.9-0.4", "from the upper to the lower"),
        ("rows:5-5", "from the upper to the lower"),
        ("rows:0.4-900", "not in both"),
        ("1,2 3 4,5", "x,y x,y x,y"),
        ("1,2,3 4,5,6 7,8,9", "x,y x,y x,y"),
        ("-1,2 3,4 5,7", "x,y x,y x,y"),
        ("nan,2 3,4 5,7", "x,y x,y x,y"),
        ("0.5,0.5 100,10 90,80", "not in both"),
        ("1,2", "three corners"),
        ("1,2 30,40", "three corners"),
        ("1,1 2,2 3,3", "not in one line"),
        ("5,5 5,5 5,5", "not in one line"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(text, words):
    with pytest.raises(SpecError, match=words) as caught:
        parse_region(text)
    assert "\n" not in str(caught.value)
