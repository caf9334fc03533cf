import json

import cv2
import numpy as np
import pytest

from edgecrack.errors import FrameError, SourceError, SpecError
from edgecrack.fitting import Fit
from edgecrack.runtime import Detection
from edgecrack.spec import FrameSpec


@pytest.fixture
def probability():
    """8x8: a piece of 2x3 pixels at 200 and one pixel at 51."""
    drawn = np.zeros((8, 8), np.uint8)
    drawn[1:3, 2:5] = 200
    drawn[6, 7] = 51
    return drawn


@pytest.mark.parametrize(
    ("threshold", "pixels"), [(0.2, 7), (0.2001, 6), (0.5, 6), (200 / 255, 6), (0.785, 0), (1.0, 0), (0.001, 7)]
)
def test_a_pixel_is_crack_from_the_threshold_on(probability, threshold, pixels):
    detection = Detection.of(probability, threshold)
    assert detection.crack_pixels == detection.mask.sum() == pixels
    assert detection.mask.dtype == np.bool_
    assert detection.crack_share == pixels / 64


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan"), None])
def test_a_threshold_that_cannot_be_is_refused(probability, threshold):
    with pytest.raises(SpecError, match="above 0 and at most 1"):
        Detection.of(probability, threshold)
    with pytest.raises(SpecError):
        Detection.of(probability, 0.5).with_threshold(threshold)


def test_another_threshold_looks_at_the_same_answer(probability):
    strict = Detection.of(probability, 0.5)
    loose = strict.with_threshold(0.1)
    assert loose.probability is strict.probability
    assert (strict.crack_pixels, loose.crack_pixels) == (6, 7)
    assert strict.threshold == 0.5


def test_scaling_back_waits_until_it_is_asked_for_and_comes_before_the_threshold():
    answer = np.zeros((4, 4), np.uint8)
    answer[:, 2:] = 255
    detection = Detection(answer, Fit.of(16, 16, FrameSpec(4, 4)), 0.5)
    assert "probability" not in vars(detection)
    assert detection.speed["postprocess"] == 0
    assert detection.probability.shape == (16, 16)
    assert detection.speed["postprocess"] > 0
    assert len(np.unique(detection.probability)) > 2  # the slope between the pixels of the net is kept
    np.testing.assert_array_equal(detection.mask, detection.probability >= 128)
    assert detection.with_threshold(0.05).crack_pixels > detection.crack_pixels


@pytest.mark.parametrize("threshold", [0.001, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("height", "width"), [(108, 192), (31, 50), (20, 300), (64, 64)])
def test_crack_is_counted_without_its_mask_as_with_it(height, width, threshold):
    answer = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8), (5, 5), 0)
    detection = Detection(answer, Fit.of(height, width, FrameSpec(64, 64)), threshold)
    pixels = detection.crack_pixels
    assert "probability" not in vars(detection)
    assert detection.mask.sum() == pixels
    assert detection.speed["postprocess"] > 0


def test_boxes_hold_each_piece(probability):
    assert sorted(Detection.of(probability, 0.2).boxes.tolist()) == [[2, 1, 5, 3], [7, 6, 8, 7]]
    assert Detection.of(probability, 0.2).boxes.dtype == np.int32


def test_a_piece_inside_the_ring_of_another_is_a_piece():
    drawn = np.zeros((40, 40), np.uint8)
    cv2.circle(drawn, (20, 20), 15, 255, 3)
    drawn[19:21, 19:21] = 255
    detection = Detection.of(drawn, 0.5)
    assert len(detection.contours) == len(detection.boxes) == 2
    assert [19, 19, 21, 21] in detection.boxes.tolist()


def test_no_crack_gives_empty_results(probability):
    detection = Detection.of(np.zeros_like(probability), 0.5)
    assert detection.contours == []
    assert detection.boxes.shape == (0, 4)
    image = np.full((8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(detection.plot(image), image)


@pytest.mark.parametrize(
    "at", [(slice(0, 3), slice(0, 3)), (slice(10, 14), slice(5, 9)), (slice(37, 40), slice(57, 60))]
)
def test_the_overlay_marks_the_crack_and_a_pixel_around_it(at):
    drawn = np.zeros((40, 60), np.uint8)
    drawn[at] = 255
    image = np.random.default_rng(0).integers(60, 120, (40, 60, 3), np.uint8)
    before = image.copy()
    overlay = Detection.of(drawn, 0.5).plot(image)
    np.testing.assert_array_equal(image, before)
    changed = (overlay != image).any(2)
    np.testing.assert_array_equal(changed, cv2.dilate(drawn, np.ones((3, 3), np.uint8)) > 0)
    redness = overlay[..., 2].astype(int) - overlay[..., 1]
    assert redness[changed].min() > 60
    assert (overlay[drawn > 0] != overlay[changed & (drawn == 0)][0]).any(1).all()  # what was there shows through


def test_the_overlay_takes_a_frame_that_is_not_contiguous(probability):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    detection = Detection.of(probability, 0.5)
    np.testing.assert_array_equal(detection.plot(image[:, ::-1]), detection.plot(image[:, ::-1].copy()))


@pytest.mark.parametrize("shape", [(8, 9, 3), (16, 16, 3), (8, 8), (8, 8, 2), (8, 9, 4)])
def test_the_overlay_refuses_another_frame(probability, shape):
    with pytest.raises(FrameError, match="wanted"):
        Detection.of(probability, 0.5).plot(np.zeros(shape, np.uint8))


def test_the_saved_mask_is_the_mask(probability, tmp_path):
    detection = Detection.of(probability, 0.5)
    detection.save(tmp_path / "masks" / "a.png")
    saved = cv2.imread(str(tmp_path / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(saved, detection.mask * 255)
    assert saved.dtype == np.uint8
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.png"]


def test_a_mask_that_cannot_be_saved_is_one_line(probability, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"^cannot write .*/file/a\.png: [^\n]+$"):
        Detection.of(probability, 0.5).save(tmp_path / "file" / "a.png")
    with pytest.raises(SourceError, match=r"no image format '\.txt'"):
        Detection.of(probability, 0.5).save(tmp_path / "a.txt")


def test_the_figures_go_through_json(probability):
    figures = json.loads(json.dumps(Detection.of(probability, 0.5).to_json()))
    assert figures.pop("speed").keys() == {"preprocess", "inference", "postprocess"}
    assert figures == {"width": 8, "height": 8, "threshold": 0.5, "crack_pixels": 6, "crack_share": 6 / 64}


def test_the_figures_hold_the_time_of_scaling_back(probability):
    detection = Detection(probability, Fit.of(640, 640, FrameSpec(8, 8)), 0.5)
    assert detection.to_json()["speed"]["postprocess"] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((4, 4), 0.9, np.float32),
        np.ones((4, 4), bool),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_a_map_that_is_no_probability_is_refused(wrong):
    with pytest.raises(FrameError, match=r"wanted probabilities, uint8 \(H, W\), got"):
        Detection.of(wrong, 0.5)


def test_a_threshold_of_numpy_can_be_written_as_json():
    json.dumps(Detection.of(np.zeros((4, 4), np.uint8), np.float32(0.5)).to_json())
