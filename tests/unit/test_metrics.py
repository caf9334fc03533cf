"""Metrics against hand-made cases, scikit-learn, and distance transforms one threshold at a time."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecrack import metrics
from edgecrack.errors import FrameError

Map = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def noisy(seed: int, height: int = 61, width: int = 83) -> tuple[Map, Mask]:
    """A thick random line and a blurred, noisy guess at it."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros((height, width), np.uint8)
    points = rng.integers(0, (width, height), (4, 2)).astype(np.int32)
    cv2.polylines(drawn, [points], False, 255, 2)
    guess = cv2.GaussianBlur(drawn, (0, 0), 1.5) * 1.2 + rng.normal(20, 30, drawn.shape)
    return guess.clip(0, 255).astype(np.uint8), drawn > 0


def line(column: int) -> Mask:
    mask = np.zeros((40, 40), np.bool_)
    mask[5:35, column] = True
    return mask


def as_map(mask: Mask) -> Map:
    return np.where(mask, 255, 0).astype(np.uint8)


def tolerant_by_distance(probability: Map, mask: Mask, level: int, radius: float) -> tuple[int, int]:
    """(predicted_hit, truth_found) as the definition has them: two distance transforms at one threshold."""
    predicted = probability >= level

    def distance(to: Mask) -> NDArray[Any]:
        if not to.any():
            return np.full(to.shape, np.inf)
        return cv2.distanceTransform((~to).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

    # Distances are square roots in float32, so that the radius needs a margin; the next one is at least 0.03 further.
    hit = predicted & (distance(mask) <= radius + 1e-4)
    found = mask & (distance(predicted) <= radius + 1e-4)
    return int(hit.sum()), int(found.sum())


def test_counts_of_a_map_small_enough_to_count_by_eye() -> None:
    probability = np.array([[0, 100, 200], [255, 100, 0]], np.uint8)
    mask = np.array([[False, True, True], [False, False, False]])
    got = metrics.counts(probability, mask)
    assert (got.truth, got.pixels) == (2, 6)
    levels = [0, 1, 100, 101, 200, 201, 255]
    assert got.predicted[levels].tolist() == [6, 4, 4, 2, 2, 1, 1]
    assert got.predicted_hit[levels].tolist() == [2, 2, 2, 1, 1, 0, 0]
    assert metrics.precision(got)[[1, 101, 255]].tolist() == [0.5, 0.5, 0.0]
    assert metrics.recall(got)[[1, 101, 255]].tolist() == [1.0, 0.5, 0.0]
    assert metrics.iou(got)[[1, 101, 255]].tolist() == [2 / 4, 1 / 3, 0.0]
    assert metrics.mean_iou(got)[101] == pytest.approx((1 / 3 + 3 / 5) / 2)  # 3 true negatives, 2 errors
    assert metrics.f_score(got, 0.3)[1] == pytest.approx(1.3 * 0.5 * 1.0 / (0.3 * 0.5 + 1.0))


@pytest.mark.parametrize("tolerance", [0.0, 2.0])
def test_a_perfect_prediction_scores_one(tolerance: float) -> None:
    counts = metrics.counts(as_map(line(10)), line(10), tolerance)
    assert metrics.best_f1(counts) == (1.0, 128 / 255)  # all thresholds are equal: the middle one
    assert metrics.average_precision(counts) == metrics.area_under_curve(counts) == 1.0


def test_two_pixels_of_shift_are_an_error_and_no_error_within_two_pixels() -> None:
    shifted, truth = as_map(line(12)), line(10)
    assert metrics.best_f1(metrics.counts(shifted, truth))[0] < 0.1
    assert metrics.best_f1(metrics.counts(shifted, truth, 1.9))[0] < 0.1
    assert metrics.best_f1(metrics.counts(shifted, truth, 2.0))[0] == 1.0


@pytest.mark.parametrize("tolerance", [0.0, 2.0, 5.0])
def test_where_nothing_is_true(tolerance: float) -> None:
    empty = np.zeros((40, 40), np.bool_)
    silent = metrics.counts(as_map(empty), empty, tolerance)
    for metric in (metrics.precision, metrics.recall, metrics.f_score):
        assert metric(silent)[1:].tolist() == [1.0] * 255
    fires = metrics.counts(as_map(line(10)), empty, tolerance)
    for metric in (metrics.precision, metrics.recall, metrics.f_score):
        assert metric(fires).tolist() == [0.0] * 256
    assert metrics.average_precision(silent) == metrics.area_under_curve(silent) == 0.0


def test_iou_where_nothing_is_true() -> None:
    empty = np.zeros((40, 40), np.bool_)
    silent, fires = metrics.counts(as_map(empty), empty), metrics.counts(as_map(line(10)), empty)
    assert metrics.iou(silent)[1] == metrics.mean_iou(silent)[1] == 1.0
    assert metrics.iou(fires)[1] == 0.0
    assert metrics.mean_iou(fires)[1] == pytest.approx((1600 - 30) / 1600 / 2)


@pytest.mark.parametrize("tolerance", [0.0, 2.0, 5.0])
def test_where_nothing_is_predicted(tolerance: float) -> None:
    missed = metrics.counts(np.zeros((40, 40), np.uint8), line(10), tolerance)
    for metric in (metrics.precision, metrics.recall, metrics.f_score):
        assert metric(missed)[1:].tolist() == [0.0] * 255


def test_all_crack_and_all_found_has_no_background_to_get_wrong() -> None:
    everywhere = np.ones((8, 8), np.bool_)
    assert metrics.mean_iou(metrics.counts(as_map(everywhere), everywhere))[255] == 1.0


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0, 4.3, 5.0])
def test_tolerant_counts_are_those_of_distance_transforms(radius: float) -> None:
    for seed in range(3):
        probability, mask = noisy(seed)
        got = metrics.counts(probability, mask, radius)
        for level in (1, 40, 90, 128, 200, 254, 255):
            expected = tolerant_by_distance(probability, mask, level, radius)
            assert (int(got.predicted_hit[level]), int(got.truth_found[level])) == expected, (seed, level)


def test_tolerance_works_up_to_the_border_of_frames_smaller_than_the_disk() -> None:
    probability, mask = np.array([[0, 0, 255]], np.uint8), np.array([[True, False, False]])
    assert metrics.best_f1(metrics.counts(probability, mask, 1.0))[0] == 0.0
    assert metrics.best_f1(metrics.counts(probability, mask, 2.0))[0] == 1.0
    assert metrics.best_f1(metrics.counts(probability, mask, 5.0))[0] == 1.0


def test_views_of_arrays_count_like_copies() -> None:
    probability, mask = noisy(4)
    views = metrics.counts(probability[::2, ::-1], mask[::2, ::-1], 2.0)
    copies = metrics.counts(probability[::2, ::-1].copy(), mask[::2, ::-1].copy(), 2.0)
    assert views.predicted_hit.tolist() == copies.predicted_hit.tolist()
    assert views.truth_found.tolist() == copies.truth_found.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees_at_single_thresholds(seed: int) -> None:
    learn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    probability, mask = noisy(seed)
    counts, truth = metrics.counts(probability, mask), mask.ravel()
    for level in (1, 77, 128, 230):
        predicted = probability.ravel() >= level
        assert metrics.f_score(counts)[level] == pytest.approx(learn.f1_score(truth, predicted))
        aelf = learn.fbeta_score(truth, predicted, beta=0.3**0.5)
        assert metrics.f_score(counts, 0.3)[level] == pytest.approx(aelf)
        assert metrics.iou(counts)[level] == pytest.approx(learn.jaccard_score(truth, predicted))
        both = learn.jaccard_score(truth, predicted, average="macro")
        assert metrics.mean_iou(counts)[level] == pytest.approx(both)


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees_on_the_curve(seed: int) -> None:
    learn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    probability, mask = noisy(seed)
    counts = metrics.counts(probability, mask)
    precision, recall, levels = learn.precision_recall_curve(mask.ravel(), probability.ravel())
    assert np.allclose(metrics.precision(counts)[levels], precision[:-1])
    assert np.allclose(metrics.recall(counts)[levels], recall[:-1])
    step = learn.average_precision_score(mask.ravel(), probability.ravel())
    assert metrics.average_precision(counts) == pytest.approx(step)
    assert metrics.area_under_curve(counts) == pytest.approx(learn.auc(recall, precision))


@pytest.mark.parametrize("tolerance", [0.0, 2.0])
def test_counts_of_frames_add_up(tolerance: float) -> None:
    (first, first_mask), (second, second_mask) = noisy(1), noisy(2)
    gap = np.zeros((61, 3))  # wider than the tolerance, so that the frames do not see each other
    side_by_side = np.hstack([first, gap, second]).astype(np.uint8), np.hstack([first_mask, gap, second_mask]) > 0
    together = metrics.counts(*side_by_side, tolerance)
    pooled = metrics.pool(
        [metrics.counts(first, first_mask, tolerance), metrics.counts(second, second_mask, tolerance)]
    )
    assert pooled.truth == together.truth
    assert pooled.pixels == together.pixels - gap.size
    assert pooled.truth_found[1:].tolist() == together.truth_found[1:].tolist()
    assert pooled.predicted[1:].tolist() == together.predicted[1:].tolist()
    assert pooled.predicted_hit[1:].tolist() == together.predicted_hit[1:].tolist()


def test_counts_of_different_tolerance_do_not_add_up() -> None:
    with pytest.raises(ValueError, match=r"0\.0 and within 2\.0"):
        metrics.counts(*noisy(0)) + metrics.counts(*noisy(0), 2.0)


def test_a_share_of_the_diagonal_is_a_tolerance_of_its_own_in_each_frame() -> None:
    shares = metrics.Diagonal(0.02)
    small, large = noisy(1), noisy(2, 300, 400)
    frames = [metrics.counts(*pair, shares) for pair in (small, large)]
    alike = [metrics.counts(*pair, radius) for pair, radius in ((small, 0.02 * math.hypot(61, 83)), (large, 10.0))]
    for frame, same in zip(frames, alike, strict=True):
        assert frame.predicted_hit.tolist() == same.predicted_hit.tolist()
        assert frame.truth_found.tolist() == same.truth_found.tolist()
    assert metrics.pool(frames).truth == sum(frame.truth for frame in frames)
    with pytest.raises(ValueError, match="do not add up"):
        frames[0] + alike[0]
    with pytest.raises(ValueError, match="strict"):
        metrics.iou(frames[0])
    with pytest.raises(ValueError, match="distance"):
        metrics.counts(*small, metrics.Diagonal(-0.1))


def test_stacked_counts_score_row_by_row_what_each_frame_does() -> None:
    """Empty, missed and silent frames among them: the rules for 0 hold in each row."""
    empty = np.zeros((61, 83), np.bool_)
    pairs = [noisy(0), noisy(1), (as_map(empty), empty), (noisy(2)[0], empty), (as_map(empty), noisy(3)[1])]
    for tolerance in (0.0, 2.0):
        frames = [metrics.counts(*pair, tolerance) for pair in pairs]
        rows = metrics.stack(frames)
        level = metrics.best_level(rows)
        for index, frame in enumerate(frames):
            for metric in (metrics.precision, metrics.recall, metrics.f_score):
                assert metric(rows)[index].tolist() == metric(frame).tolist()
            assert (level[0][index], level[1][index] / 255) == metrics.best_f1(frame)
            assert metrics.average_precision(rows)[index] == pytest.approx(metrics.average_precision(frame))
            assert metrics.area_under_curve(rows)[index] == pytest.approx(metrics.area_under_curve(frame))
    rows = metrics.stack([metrics.counts(*pair) for pair in pairs])
    for index, pair in enumerate(pairs):
        assert metrics.mean_iou(rows)[index].tolist() == metrics.mean_iou(metrics.counts(*pair)).tolist()


def test_a_draw_pools_frames_as_often_as_it_has_them() -> None:
    frames = [metrics.counts(*noisy(seed), 2.0) for seed in range(3)]
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    drawn = metrics.drawn(metrics.stack(frames), weights)
    by_hand = (metrics.pool(frames), metrics.pool([frames[0], frames[0], frames[2]]))
    for index, pooled in enumerate(by_hand):
        assert metrics.f_score(drawn)[index].tolist() == metrics.f_score(pooled).tolist()
        assert (drawn.truth[index, 0], drawn.pixels[index, 0]) == (pooled.truth, pooled.pixels)
    patches = [metrics.patch_counts(*noisy(seed)) for seed in range(3)]
    both = metrics.patch_f1(metrics.drawn(metrics.stack(patches), weights))
    assert both[1].tolist() == metrics.patch_f1(patches[0] + patches[0] + patches[2]).tolist()


def test_only_counts_of_one_tolerance_are_stacked() -> None:
    for parts in ([], [metrics.counts(*noisy(0)), metrics.counts(*noisy(0), 2.0)]):
        with pytest.raises(ValueError, match="of one tolerance"):
            metrics.stack(parts)


@pytest.mark.parametrize("seed", range(2))
def test_scikit_learn_agrees_on_the_aelf_protocol_and_on_means_of_frames(seed: int) -> None:
    learn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    pairs = [noisy(10 * seed + index) for index in range(3)]
    rows = metrics.stack([metrics.counts(*pair) for pair in pairs])
    for level in (60, 128):
        own = [
            learn.fbeta_score(mask.ravel(), probability.ravel() >= level, beta=0.3**0.5) for probability, mask in pairs
        ]
        assert metrics.f_score(rows, 0.3)[:, level].tolist() == pytest.approx(own)
        own = [learn.jaccard_score(mask.ravel(), probability.ravel() >= level) for probability, mask in pairs]
        assert metrics.iou(rows)[:, level].tolist() == pytest.approx(own)


def test_best_f1_tells_the_threshold_at_which_it_is_reached() -> None:
    probability, mask = noisy(0)
    best, threshold = metrics.best_f1(metrics.counts(probability, mask))
    scores = []
    for level in range(1, 256):
        predicted = probability >= level
        scores.append(2 * np.sum(predicted & mask) / (predicted.sum() + mask.sum()))
    assert best == pytest.approx(max(scores))
    assert threshold == (int(np.argmax(scores)) + 1) / 255


def test_best_f1_never_chooses_to_predict_everything() -> None:
    everywhere = np.ones((4, 4), np.bool_)
    assert metrics.best_f1(metrics.counts(np.zeros((4, 4), np.uint8), everywhere))[0] == 0.0


def test_ois_lets_each_frame_choose() -> None:
    faint = metrics.counts((as_map(line(10)) // 255 * 60).astype(np.uint8), line(10))
    glare = np.full((40, 40), 100, np.uint8)  # fires everywhere below 101
    glare[line(20)] = 200
    frames = [faint, metrics.counts(glare, line(20))]
    assert metrics.ois(frames) == 1.0
    assert metrics.best_f1(metrics.pool(frames))[0] == pytest.approx(2 * 30 / (30 + 60))  # the faint one is given up


def test_ois_is_not_below_ods_on_noisy_lines() -> None:
    frames = [metrics.counts(*noisy(seed)) for seed in range(6)]
    assert metrics.ois(frames) > metrics.best_f1(metrics.pool(frames))[0]
    assert metrics.ois(frames[:1]) == metrics.best_f1(frames[0])[0]


def test_ois_fires_least_where_no_threshold_helps() -> None:
    """A frame without cracks that saturates scores 0 everywhere; its choice still costs the pool false positives."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    clean, good = metrics.counts(ramp, np.zeros((4, 256), np.bool_)), metrics.counts(as_map(line(10)), line(10))
    assert metrics.ois([clean, good]) == pytest.approx(2 * 30 / (2 * 30 + 4))


def test_aiu_is_the_mean_over_thresholds_and_frames() -> None:
    faint = (as_map(line(10)) // 255 * 51).astype(np.uint8)  # 0.2: found at 0.01..0.20, not above
    frames = [metrics.counts(faint, line(10)), metrics.counts(as_map(line(10)), line(10))]
    assert metrics.aiu(frames[:1]) == pytest.approx(20 / 99)
    assert metrics.aiu(frames) == pytest.approx((20 / 99 + 1) / 2)


def test_an_iou_within_a_tolerance_is_refused() -> None:
    near = metrics.counts(*noisy(0), 2.0)
    for metric in (metrics.iou, metrics.mean_iou):
        with pytest.raises(ValueError, match="strict"):
            metric(near)


def patch(crack: int, predicted_of_crack: int, predicted_elsewhere: int = 0, side: int = 32) -> tuple[Map, Mask]:
    mask, probability = np.zeros(side * side, np.bool_), np.zeros(side * side, np.uint8)
    mask[:crack] = True
    probability[:predicted_of_crack] = 128
    probability[crack : crack + predicted_elsewhere] = 128
    return probability.reshape(side, side), mask.reshape(side, side)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (patch(100, 49), (0, 1, 0)),
        (patch(100, 50), (1, 0, 0)),
        (patch(100, 49, 900), (0, 1, 0)),  # a true patch is never a false positive
        (patch(52, 26), (1, 0, 0)),
        (patch(51, 0), (0, 0, 0)),  # 5 % of 1024 are 51.2
        (patch(51, 51), (0, 0, 0)),
        (patch(51, 51, 1), (0, 0, 1)),
        (patch(0, 0, 51), (0, 0, 0)),
        (patch(0, 0, 52), (0, 0, 1)),
        (patch(20, 10, side=20), (1, 0, 0)),  # 5 % of 400 are 20
        (patch(19, 0, side=20), (0, 0, 0)),
        (patch(0, 0, 20, side=20), (0, 0, 1)),
    ],
)
def test_patch_rule(case: tuple[Map, Mask], expected: tuple[int, int, int]) -> None:
    got = metrics.patch_counts(*case)
    for level in (1, 128):
        assert (got.true_positive[level], got.false_negative[level], got.false_positive[level]) == expected
    true = expected[0] + expected[1]
    assert (got.true_positive[129], got.false_negative[129], got.false_positive[129]) == (0, true, 0)


def test_patches_are_a_regular_grid_with_smaller_ones_at_the_border() -> None:
    probability, mask = noisy(3, 70, 100)
    mask |= cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for level in (1, 60, 128, 200):
        expected = [0, 0, 0]
        for y in (0, 32, 64):
            for x in (0, 32, 64, 96):
                truth = mask[y : y + 32, x : x + 32]
                predicted = probability[y : y + 32, x : x + 32] >= level
                if truth.mean() >= 0.05:
                    expected[0 if predicted[truth].mean() >= 0.5 else 1] += 1
                elif predicted.mean() >= 0.05:
                    expected[2] += 1
        got = metrics.patch_counts(probability, mask)
        assert [got.true_positive[level], got.false_negative[level], got.false_positive[level]] == expected
        assert metrics.patch_f1(got)[level] == pytest.approx(2 * expected[0] / (2 * expected[0] + sum(expected[1:])))


def test_patches_add_up_and_nothing_is_perfect() -> None:
    found, missed = metrics.patch_counts(*patch(100, 100)), metrics.patch_counts(*patch(100, 0))
    assert metrics.patch_f1(found + missed + missed)[128] == pytest.approx(2 / 4)
    assert metrics.patch_f1(metrics.patch_counts(*patch(0, 0)))[128] == 1.0


@pytest.mark.parametrize("count", [metrics.counts, metrics.patch_counts])
@pytest.mark.parametrize(
    ("probability", "mask", "message"),
    [
        (np.zeros((4, 5), np.float32), np.zeros((4, 5), np.bool_), "probability uint8 .* got float32"),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8), "mask bool .* got uint8"),
        (np.zeros((1, 4, 5), np.uint8), np.zeros((4, 5), np.bool_), r"\(1, 4, 5\)"),
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.bool_), r"\(5, 4\), got \(4, 5\)"),
        (np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.bool_), r"\(0, 5\)"),
        ([[0]], np.zeros((1, 1), np.bool_), "got list"),
    ],
)
def test_other_arrays_are_refused(count: Any, probability: Any, mask: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        count(probability, mask)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_a_tolerance_is_a_distance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="distance"):
        metrics.counts(*noisy(0), tolerance)


def test_counts_do_not_lose_pixels_of_large_frames() -> None:
    """A histogram of float32 stops counting at 2**24."""
    side = 4200
    counts = metrics.counts(np.zeros((side, side), np.uint8), np.zeros((side, side), np.bool_))
    assert (counts.truth, counts.pixels) == (0, side * side)
    assert counts.predicted[0] == side * side > 2**24
