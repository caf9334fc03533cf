import cv2
import numpy as np
import pytest

from edgecrack.fitting import Fit, linear, linear_back, resize
from edgecrack.spec import FrameSpec

NET = FrameSpec(512, 512)
GROUND, LINE = 120, 40


def lines_that_survive(shrink, length=1920):
    """The share of vertical lines, 2 pixels wide and at every phase, that keep a quarter of their contrast."""
    frame = np.full((64, length, 3), GROUND, np.uint8)
    starts = np.arange(10, length - 10, 25)
    for start in starts:
        frame[:, start : start + 2] = LINE
    small = shrink(frame)
    scale = small.shape[1] / length
    row = small[0, :, 0].astype(int)
    centres = ((starts + 1) * scale).astype(int)
    dips = np.array([GROUND - row[centre - 1 : centre + 2].min() for centre in centres])
    return np.mean(dips >= (GROUND - LINE) / 4)


def test_thin_lines_survive_shrinking_from_1080p_more_than_by_plain_linear():
    ours = lines_that_survive(lambda frame: resize(frame, 17, 512))
    linear = lines_that_survive(lambda frame: cv2.resize(frame, (512, 17)))
    assert linear < 0.7  # it skips pixels: a third is gone
    assert ours > 0.8


@pytest.mark.parametrize("times", [2, 4])
def test_exact_halving_keeps_every_thin_line(times):
    assert lines_that_survive(lambda frame: resize(frame, 64 // times, 1920 // times)) == 1


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [
        (1080, 1920, (288, 512)),
        (1920, 1080, (512, 288)),
        (512, 512, (512, 512)),
        (1024, 1024, (512, 512)),
        (100, 200, (256, 512)),
        (241, 321, (384, 512)),
        (1, 1, (512, 512)),
        (3000, 4, (512, 1)),
        (1, 5000, (1, 512)),
    ],
)
def test_a_frame_of_any_size_fits_and_its_answer_comes_back(height, width, inner):
    fit = Fit.of(height, width, NET)
    assert (fit.inner_height, fit.inner_width) == inner
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert fit.apply(image).shape == (512, 512, 3)
    answer = np.full((512, 512), 255, np.uint8)  # the padding says crack, the frame does not
    answer[: inner[0], : inner[1]] = 0
    assert fit.undo(answer).shape == (height, width)
    assert not fit.undo(answer).any()


def test_a_frame_of_the_nets_size_is_not_copied():
    image = np.zeros((512, 512, 3), np.uint8)
    fit = Fit.of(512, 512, NET)
    assert fit.is_exact
    assert fit.apply(image) is image


def test_padding_lies_right_and_below_and_mirrors_the_frame():
    image = np.random.default_rng(0).integers(0, 256, (300, 512, 3), np.uint8)
    fitted = Fit.of(300, 512, NET).apply(image)
    np.testing.assert_array_equal(fitted[:300], image)
    np.testing.assert_array_equal(fitted[300:], image[-2:-214:-1])


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (720, 1280), (333, 777), (2160, 3840), (90, 160)])
def test_what_is_found_lies_where_it_was_in_the_frame(height, width):
    top, left, bottom, right = drawn = (np.array([0.3, 0.6, 0.5, 0.9]) * ((height, width) * 2)).astype(int)
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    fit = Fit.of(height, width, NET)
    back = fit.undo(fit.apply(image)[:, :, 0]) > 127
    rows, columns = np.flatnonzero(back.any(1)), np.flatnonzero(back.any(0))
    off = width / 512  # one pixel of the net, seen in the frame, plus rounding
    found = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    assert np.abs(found - drawn).max() <= off + 1


@pytest.mark.parametrize("width", [4096, 4095, 4031, 1921, 1535])
def test_nothing_drifts_where_a_side_is_odd_and_halved(width):
    """Edges near the right end, where halving leaves columns out: on average they come back where they were."""
    fit, off = Fit.of(64, width, FrameSpec(8, 512)), []
    for edge in range(width - 200, width - 40, 3):
        image = np.zeros((64, width, 3), np.uint8)
        image[:, edge:] = 255
        back = fit.undo(fit.apply(image)[:, :, 0])
        assert back.shape == (64, width)
        assert fit.count_from(fit.apply(image)[:, :, 0], 128) == np.count_nonzero(back >= 128)
        off.append(np.flatnonzero(back[32] >= 128)[0] - edge)
    assert abs(np.mean(off)) < 0.6


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (720, 1280), (333, 777), (2160, 3840), (90, 160)])
def test_an_answer_is_scaled_back_as_in_floats(height, width):
    answer = np.random.default_rng(0).integers(0, 256, (288, 512), np.uint8)
    apart = np.abs(linear_back(answer, height, width).astype(int) - linear(answer, height, width))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 2e-3 * apart.size


@pytest.mark.parametrize("level", range(256))
def test_a_flat_answer_stays_what_it_is(level):
    assert (linear_back(np.full((3, 5), level, np.uint8), 7, 11) == level).all()
