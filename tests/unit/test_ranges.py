"""Which frames calibrate, what is measured on them, and the file that keeps it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.ranges import BINS, PERCENTILES, Range, Ranges, _Span
from edgecrack.errors import CalibrationError, FrameError, SourceError
from edgecrack.fitting import Fit
from edgecrack.images import write_image
from edgecrack.spec import FrameSpec

FRAME = FrameSpec(32, 48)
CLIPS = {str(p): 1.0 for p in PERCENTILES}


def span_of(*parts: np.ndarray) -> Range:
    span = _Span()
    for part in parts:
        span.add(part.astype(np.float32).reshape(-1, 10))
    return span.range("w")


@pytest.mark.parametrize("shift", [0.0, 3.0, -7.0])
def test_a_range_holds_the_extremes_and_the_percentiles_of_the_magnitude(shift):
    values = np.random.default_rng(0).normal(shift, 2, 400_000).astype(np.float32)
    found = span_of(*np.split(values, 8))
    assert found.low == min(0, values.min())
    assert found.high == max(0, values.max())
    reach = max(-found.low, found.high)
    for percentile in PERCENTILES:
        exact = np.percentile(np.abs(values), percentile)
        assert exact <= found.clips[str(percentile)] <= exact + 4 * reach / BINS


def test_bins_widen_without_losing_what_they_counted():
    rng = np.random.default_rng(1)
    small, great = rng.uniform(0, 0.01, 99_000), rng.uniform(0, 90, 1_000)
    growing, shrinking = span_of(small, great), span_of(great, small)
    exact = np.percentile(np.concatenate([small, great]), 99.9)
    for found in (growing, shrinking):
        assert found.clips["99.9"] == pytest.approx(exact, abs=4 * 90 / BINS)
    assert growing.high == shrinking.high


def test_zeros_before_the_first_value_count():
    found = span_of(np.zeros(999_500), np.ones(500))
    assert found.clips["99.9"] < 0.01
    assert found.clips["99.99"] == pytest.approx(1, abs=0.01)


def test_all_zeros_are_a_range():
    assert span_of(np.zeros(100)) == Range(0.0, 0.0, {str(p): 0.0 for p in PERCENTILES})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_name_of_the_weight(bad):
    values = np.ones(100)
    values[37] = bad
    with pytest.raises(CalibrationError, match="the input of w reached"):
        span_of(np.ones(10), values, np.ones(10))


def test_a_percentile_cuts_both_sides_and_never_widens():
    found = Range(-5.0, 2.0, {"99.9": 3.0, "99.99": 4.0, "99.999": 6.0})
    assert found.limits("max", 99.9) == (-5, 2)
    assert found.limits("percentile", 99.9) == (-3, 2)
    assert found.limits("percentile", 99.999) == (-5, 2)


def ranges(**inputs: Range) -> Ranges:
    return Ranges("msfnet", FRAME, 3, "0" * 64, inputs)


def test_a_file_gives_back_what_was_saved(tmp_path):
    wanted = ranges(first=Range(-1.5, 2.5, CLIPS), second=Range(0.0, 1e-7, CLIPS))
    wanted.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == wanted


def damaged(change):
    values = json.loads(ranges(w=Range(-1.0, 2.0, CLIPS)).to_json())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("[]", "does not hold"),
        ("{}", "version"),
        ('{"version": 2}', "version 2, wanted 1"),
        (ranges(w=Range(-1.0, 2.0, CLIPS)).to_json()[:-40], "truncated"),
        (damaged(lambda v: v.pop("frame")), "frame"),
        (damaged(lambda v: v.update(more=1)), "more"),
        (damaged(lambda v: v["inputs"]["w"].pop("clips")), "clips"),
        (damaged(lambda v: v["inputs"]["w"]["clips"].pop("99.99")), "99.99"),
        (damaged(lambda v: v["inputs"]["w"].update(low=3)), "no range"),
        (damaged(lambda v: v["inputs"]["w"].update(high=float("nan"))), "no range"),
        (damaged(lambda v: v["inputs"]["w"].update(high="much")), "much"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text, words):
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(CalibrationError, match=words):
        Ranges.load(tmp_path / "ranges.json")


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match="No such file"):
        Ranges.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="does not hold"):
        Ranges.load(tmp_path / "binary.json")


def test_ranges_of_another_net_or_with_gaps_are_refused_by_name():
    found = ranges(a=Range(0.0, 1.0, CLIPS))
    found.check("msfnet", ["a"])
    with pytest.raises(CalibrationError, match="measured on msfnet, the graph is scnet"):
        found.check("scnet", ["a"])
    with pytest.raises(CalibrationError, match=r"miss 4 convolutions of this msfnet: b, c, d, \.\.\."):
        found.check("msfnet", ["a", "b", "c", "d", "e"])


def write_folder(folder: Path, count: int, masks: bool = True) -> Path:
    """Frame k, all of grey k, has k / 48 of its pixels crack."""
    for name in ("images", "masks") if masks else ("images",):
        (folder / name).mkdir(parents=True)
    order = np.random.default_rng(0).permutation(count)  # so that the names do not go by the crack share
    for name, value in enumerate(order):
        cv2.imwrite(str(folder / "images" / f"{name:03}.png"), np.full((32, 48, 3), value, np.uint8))
        if masks:
            mask = np.zeros((32, 48), np.uint8)
            mask[:, :value] = 255
            cv2.imwrite(str(folder / "masks" / f"{name:03}.png"), mask)
    return folder


def greys(frames: CalibrationFrames) -> list[int]:
    return [int(image[0, 0, 0]) for image in frames]


def test_frames_are_drawn_from_every_stratum_of_the_crack_share(tmp_path):
    folder = write_folder(tmp_path, 40)
    frames = CalibrationFrames.from_folder(folder, FRAME, 10)
    assert len(frames) == 10
    assert [grey // 4 for grey in greys(frames)] == list(range(10))


def test_the_crack_share_of_crackforest_is_that_of_its_mat_files(tmp_path):
    for folder in ("image", "groundTruth"):
        (tmp_path / folder).mkdir()
    for index in range(4):
        write_image(tmp_path / "image" / f"{index}.png", np.full((20, 30, 3), index, np.uint8))
        labels = np.ones((20, 30), np.uint8)
        labels[index:4] = 2  # the later, the less
        savemat(tmp_path / "groundTruth" / f"{index}.mat", {"groundTruth": {"Segmentation": labels}})
    assert greys(CalibrationFrames.from_folder(tmp_path, FRAME)) == [3, 2, 1, 0]


def test_frames_without_masks_are_drawn_from_every_stretch_of_the_names(tmp_path):
    folder = write_folder(tmp_path, 40, masks=False)
    frames = CalibrationFrames.from_folder(folder, FRAME, 10)
    assert [int(Path(str(source)).stem) // 4 for source in frames.sources] == list(range(10))


def test_a_seed_gives_the_same_frames_and_the_same_hash(tmp_path):
    folder = write_folder(tmp_path, 40)
    first, again, other = (CalibrationFrames.from_folder(folder, FRAME, 10, seed=seed) for seed in (1, 1, 2))
    assert first.sources == again.sources != other.sources
    assert first.sha256 == again.sha256 != other.sha256


def test_fewer_frames_than_wanted_are_all_taken_once(tmp_path):
    assert sorted(greys(CalibrationFrames.from_folder(write_folder(tmp_path, 7), FRAME, 200))) == list(range(7))


def test_frames_of_the_training_list_only(tmp_path):
    folder = write_folder(tmp_path, 8)
    (folder / "train.txt").write_text("001\n004\n")
    (folder / "test.txt").write_text("002\n")
    assert {Path(str(source)).stem for source in CalibrationFrames.from_folder(folder, FRAME).sources} == {"001", "004"}


def test_frames_are_fitted_as_the_runtime_fits_them():
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    (fitted,) = CalibrationFrames.from_images([image], FRAME)
    np.testing.assert_array_equal(fitted, Fit.of(100, 120, FRAME).apply(image))
    assert fitted.shape == (32, 48, 3)


def test_the_hash_tells_pixels_order_and_size_apart():
    first, second = (np.full((32, 48, 3), value, np.uint8) for value in (1, 2))
    hashes = {
        CalibrationFrames.from_images(images, frame).sha256
        for images in ([first], [second], [first, second], [second, first])
        for frame in (FRAME, FrameSpec(48, 32))
    }
    assert len(hashes) == 8


def test_nothing_to_calibrate_on_is_refused(tmp_path):
    for words, call in {
        "no data set folder": lambda: CalibrationFrames.from_folder(tmp_path / "none", FRAME),
        "no image in": lambda: CalibrationFrames.from_folder(tmp_path, FRAME),
        "got 0": lambda: CalibrationFrames.from_folder(tmp_path, FRAME, 0),
        "no frame": lambda: CalibrationFrames.from_images([], FRAME),
    }.items():
        with pytest.raises(CalibrationError, match=words):
            call()
    with pytest.raises(FrameError, match="grey"):
        CalibrationFrames.from_images([np.zeros((32, 48), np.uint8)], FRAME)


def test_a_broken_image_is_named(tmp_path):
    folder = write_folder(tmp_path, 3)
    (folder / "images" / "001.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"001\.png"):
        list(CalibrationFrames.from_folder(folder, FRAME))
