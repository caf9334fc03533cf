"""A stand-in detector over a small data set: pooled scores, their names, and the curve."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgecrack import metrics
from edgecrack.dataset import Dataset, LabelledFrame, open_dataset
from edgecrack.errors import FrameError, MissingDependency, SourceError
from edgecrack.evaluation import evaluate, save_precision_recall
from edgecrack.evaluation.bootstrap import sampled
from edgecrack.evaluation.protocols import BLOCKS, LABELS
from edgecrack.evaluation.table import table
from edgecrack.spec import ModelSpec

Image = NDArray[np.uint8]


class Answer(NamedTuple):
    probability: Image


class Darkness:
    """Takes the dark for crack."""

    spec = ModelSpec("scnet")
    threshold = 0.6

    def run(self, frame: Image) -> Answer:
        return Answer(255 - frame[:, :, 1])


class Cropped(Darkness):
    def run(self, frame: Image) -> Answer:
        return Answer(255 - frame[1:, :, 1])


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[bool], Dataset]:
    """A maker of five small frames of two sizes with a dark line each (the last: none), with masks or without."""

    def make(masks: bool) -> Dataset:
        rng = np.random.default_rng(0)
        for name in ("images", "masks") if masks else ("images",):
            (tmp_path / "walls" / name).mkdir(parents=True)
        for index in range(5):
            drawn = np.zeros((50 + 10 * (index % 2), 70), np.uint8)
            if index < 4:
                cv2.line(drawn, (5, int(rng.integers(40))), (60, int(rng.integers(40))), 255, 4)
            grey = 200 - cv2.GaussianBlur(drawn, (0, 0), 1) * (0.3 + 0.15 * index) + rng.normal(0, 35, drawn.shape)
            image = cv2.cvtColor(grey.clip(0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
            cv2.imwrite(str(tmp_path / "walls" / "images" / f"{index}.png"), image)
            if masks:
                cv2.imwrite(str(tmp_path / "walls" / "masks" / f"{index}.png"), drawn)
        return open_dataset(tmp_path / "walls")

    return make


def test_scores_are_those_of_the_pooled_frames(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    scores = evaluate(Darkness(), dataset).scores
    pairs = [(255 - frame.image[:, :, 1], frame.mask) for frame in dataset if frame.mask is not None]
    probability = np.concatenate([p.ravel() for p, _ in pairs])
    truth = np.concatenate([m.ravel() for _, m in pairs])

    def f1(predicted: NDArray[np.bool_], beta_squared: float = 1.0) -> float:
        """(1 + b2) TP / ((1 + b2) TP + b2 FN + FP), the form without precision and recall."""
        hit = (1 + beta_squared) * np.sum(predicted & truth)
        return float(hit / (hit + beta_squared * np.sum(truth & ~predicted) + np.sum(predicted & ~truth)))

    assert scores["best_f1"] == pytest.approx(max(f1(probability >= level) for level in range(1, 256)))
    assert scores["best_f1"] == pytest.approx(f1(probability >= 255 * scores["best_f1_threshold"] - 1e-6))
    assert scores["f1"] == pytest.approx(f1(probability >= 153))  # the detector's threshold, 0.6
    assert scores["f1_at_0.5"] == pytest.approx(f1(probability >= 128))
    assert scores["f0.3"] == pytest.approx(f1(probability >= 128, 0.3))
    best = probability >= 255 * scores["best_f1_threshold"] - 1e-6
    assert scores["iou"] == pytest.approx(np.sum(best & truth) / np.sum(best | truth))


def test_each_score_is_taken_at_its_own_threshold_and_tolerance(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    scores = evaluate(Darkness(), dataset).scores
    pairs = [(255 - frame.image[:, :, 1], frame.mask) for frame in dataset if frame.mask is not None]
    strict, near, far = (metrics.pool(metrics.counts(*pair, tolerance) for pair in pairs) for tolerance in (0, 2, 5))
    assert (scores["best_f1_2px"], scores["best_f1_2px_threshold"]) == metrics.best_f1(near)
    assert (scores["best_f1_5px"], scores["best_f1_5px_threshold"]) == metrics.best_f1(far)
    assert scores["best_f1_5px_threshold"] != scores["best_f1_2px_threshold"] != scores["best_f1_threshold"]
    assert scores["f1_2px"] == metrics.f_score(near)[153]
    labelled = sum(np.sum(mask) for _, mask in pairs)
    marked = [sum(np.sum(dark >= level) for dark, _ in pairs) for level in range(256)]
    assert scores["area_ratio"] == marked[153] / labelled
    nearest = marked[round(255 * scores["area_threshold"])]
    assert abs(nearest - labelled) == min(abs(area - labelled) for area in marked[1:])
    assert (scores["precision_2px"], scores["recall_2px"]) == (
        metrics.precision(near)[153],
        metrics.recall(near)[153],
    )
    level = round(255 * scores["best_f1_2px_threshold"])
    assert scores["best_f1_2px_precision"] == metrics.precision(near)[level]
    assert scores["best_f1_2px_recall"] == metrics.recall(near)[level]
    for ending, tolerance in (("", 0.0), ("_2px", 2.0), ("_5px", 5.0), ("_diagonal", metrics.Diagonal(0.0075))):
        frames = [metrics.counts(*pair, tolerance) for pair in pairs]
        assert scores[f"ois{ending}"] == pytest.approx(metrics.ois(frames))
        pooled = metrics.pool(frames)
        assert scores[f"average_precision{ending}"] == pytest.approx(metrics.average_precision(pooled))
        assert scores[f"area_under_curve{ending}"] == pytest.approx(metrics.area_under_curve(pooled))
        assert scores[f"f1{ending}_at_0.5"] == metrics.f_score(pooled)[128]
    level = round(255 * scores["best_f1_threshold"])
    assert level not in (128, 153)
    assert scores["mean_iou"] == metrics.mean_iou(strict)[level]
    patches = [metrics.patch_counts(*pair) for pair in pairs]
    assert scores["patch_f1"] == metrics.patch_f1(sum(patches[1:], patches[0]))[level]


def test_means_are_of_frames_whatever_their_size(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    result = evaluate(Darkness(), dataset)
    singles = [metrics.counts(255 - frame.image[:, :, 1], frame.mask) for frame in dataset if frame.mask is not None]
    mean = np.mean([metrics.f_score(single, 0.3)[128] for single in singles])
    assert result.scores["f0.3_frame_mean"] == pytest.approx(mean)
    assert result.scores["f0.3_frame_mean"] != pytest.approx(result.scores["f0.3"], abs=1e-4)
    for name, metric in (("precision", metrics.precision), ("recall", metrics.recall)):
        mean = np.mean([metric(single)[128] for single in singles])
        assert result.scores[f"f0.3_{name}_frame_mean"] == pytest.approx(mean)
    assert result.scores["aiu"] == pytest.approx(np.mean([metrics.aiu([single]) for single in singles]))
    assert result.scores["f1_frame_mean"] == pytest.approx(np.mean([metrics.f_score(one)[153] for one in singles]))
    level = round(255 * result.scores["best_f1_threshold"])
    own = [float(metrics.iou(single)[level]) for single in singles]
    assert result.scores["iou_frame_mean"] == pytest.approx(np.mean(own))
    own = [float(metrics.f_score(single)[level]) for single in singles]
    assert result.scores["best_f1_frame_mean"] == pytest.approx(np.mean(own))


def test_a_wider_tolerance_never_scores_lower(folder: Callable[[bool], Dataset]) -> None:
    scores = evaluate(Darkness(), folder(True)).scores
    assert scores["best_f1"] < scores["best_f1_2px"] <= scores["best_f1_5px"] <= 1
    assert scores["f1"] < scores["f1_2px"]
    assert scores["ois"] > scores["best_f1"]


def test_the_table_and_the_json_say_the_same(folder: Callable[[bool], Dataset]) -> None:
    result = evaluate(Darkness(), folder(True))
    written = json.loads(json.dumps(result.to_json()))
    assert written == result.to_json()
    named = ("dataset", "model", "net", "precision", "size", "threshold", "frames", "pixels", "draws", "seed")
    assert {name: written[name] for name in named} == {
        "dataset": "walls",
        "model": "scnet",
        "net": "scnet",
        "precision": "fp32",
        "size": "512x512",
        "threshold": 0.6,
        "frames": 5,
        "pixels": (50 + 60 + 50 + 60 + 50) * 70,
        "draws": 1000,
        "seed": 0,
    }
    assert 0.02 < written["crack_share"] < 0.1
    assert list(written["scores"]) == [name for name in LABELS if name != "fired_share"]
    assert all(0 <= value <= 1 for value in written["scores"].values())
    text = table([result])
    assert "scnet on walls: 5 frames" in text
    for name, value in written["scores"].items():
        low, high = written["intervals"][name]
        shown = f"{value:.3f}" if name.endswith("threshold") else f"{value:.4f}"
        assert any(
            line.split("  ")[-1].strip() == f"{shown} [{low:.3f}, {high:.3f}]" and LABELS[name].strip() in line
            for line in text.splitlines()
        ), name


def test_every_label_is_said_once_a_block() -> None:
    for block in BLOCKS.values():
        mains = [label for label in block.values() if not label.startswith(" ")]
        assert len(set(mains)) == len(mains)


def test_without_masks_only_what_fires_is_known(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(False)
    result = evaluate(Darkness(), dataset)
    fired = np.concatenate([255 - frame.image[:, :, 1].ravel() for frame in dataset]) >= 153
    assert result.to_json()["scores"] == {"fired_share": pytest.approx(fired.mean())}
    assert "crack_share" not in result.to_json()
    assert f"{fired.mean():.4%} [" in table([result])
    assert "best F1" not in table([result])


def test_masks_without_any_crack_are_refused_before_the_net_runs(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    assert dataset.masks is not None
    detector = Darkness()
    detector.run = None  # type: ignore[assignment]
    with pytest.raises(FrameError, match=r"none of the 1 masks of walls has a crack; .* a folder without masks"):
        evaluate(detector, Dataset("walls", dataset.images[4:], dataset.masks[4:]))


def test_intervals_hold_the_score_and_come_again(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    result, again, other = (evaluate(Darkness(), dataset, draws=200, seed=seed) for seed in (3, 3, 4))
    for name in ("best_f1", "f1_2px", "iou_frame_mean", "patch_f1", "aiu", "ois_5px"):
        low, high = result.intervals[name]
        assert low < result.scores[name] < high, name
        assert len(result.samples[name]) == 200
    assert result.intervals == again.intervals != other.intervals
    assert evaluate(Darkness(), dataset, draws=0).intervals == {}


def test_a_draw_scores_what_its_frames_do(folder: Callable[[bool], Dataset]) -> None:
    """The first draw of the bootstrap, put together by hand: frames as often as it has them."""
    result = evaluate(Darkness(), folder(True), draws=1, seed=5)
    often = np.random.default_rng(5).multinomial(5, np.full(5, 0.2), size=1)[0]
    assert max(often) > 1
    frames = [frame for frame, times in zip(result.frames, often, strict=True) for _ in range(times)]
    near, strict = metrics.pool(frame.near for frame in frames), [frame.strict for frame in frames]
    drawn = {name: values[0] for name, values in result.samples.items()}
    assert (drawn["best_f1_2px"], drawn["best_f1_2px_threshold"]) == metrics.best_f1(near)
    assert drawn["f1_2px_frame_mean"] == pytest.approx(np.mean([metrics.f_score(frame.near)[153] for frame in frames]))
    assert drawn["average_precision_2px"] == pytest.approx(metrics.average_precision(near))
    assert drawn["ois"] == pytest.approx(metrics.ois(strict))
    assert drawn["aiu"] == pytest.approx(metrics.aiu(strict))
    level = round(255 * drawn["best_f1_threshold"])
    patches = [frame.patches for frame in frames]
    assert drawn["patch_f1"] == pytest.approx(metrics.patch_f1(sum(patches[1:], patches[0]))[level])
    assert drawn["iou_frame_mean"] == pytest.approx(np.mean([metrics.iou(frame)[level] for frame in strict]))


def test_a_draw_without_any_crack_counts_for_nothing() -> None:
    """It would score 1 or 0 whatever the model does; and of 40 frames with two cracks one draw in eight is one."""
    cracked = np.zeros(40)
    cracked[:2] = 1
    (found,) = sampled(lambda weights: {"cracks": weights @ cracked}, 40, 1000, 0, cracked).values()
    assert found.min() >= 1
    assert 800 < len(found) < 950
    (found,) = sampled(lambda weights: {"frames": weights.sum(axis=1)}, 40, 1000, 0, np.zeros(40)).values()
    assert len(found) == 1000


def test_one_frame_has_no_interval(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    assert dataset.masks is not None
    one = evaluate(Darkness(), Dataset("walls", dataset.images[:1], dataset.masks[:1]))
    assert one.intervals == {}
    assert "[" not in table([one])


def test_models_are_told_apart_on_the_same_draws(folder: Callable[[bool], Dataset]) -> None:
    dataset = folder(True)
    good, poor = (evaluate(detector(), dataset, name=detector.__name__) for detector in (Darkness, Blinking))
    apart, ends = poor.difference(good, "best_f1_2px")
    assert apart == poor.scores["best_f1_2px"] - good.scores["best_f1_2px"] < 0
    assert ends is not None
    assert ends[0] < apart < ends[1] <= 0  # each frame is harder for the poorer one
    assert good.difference(good, "f1") == (0.0, (0.0, 0.0))
    text = table([good, poor])
    assert "Darkness, Blinking on walls" in text
    assert "above Darkness on the same frames" in text
    assert f"{apart:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]" in text
    fewer = evaluate(Darkness(), dataset.every(2))
    with pytest.raises(ValueError, match="same frames"):
        good.difference(fewer, "f1")


class Blinking(Darkness):
    """Sees nothing in every other row."""

    def run(self, frame: Image) -> Answer:
        probability = 255 - frame[:, :, 1]
        probability[::6] = 0
        probability[1::6] = 0
        probability[2::6] = 0
        probability[3::6] = 0
        return Answer(probability)


def test_the_net_and_the_metrics_are_timed_apart(folder: Callable[[bool], Dataset]) -> None:
    result = evaluate(Darkness(), folder(True))
    assert len(result.samples["f1"]) == result.draws
    assert set(result.seconds) == {"reading", "net", "metrics", "intervals"}
    assert "seconds" not in result.to_json()  # which comes out the same each time
    assert all(seconds > 0 for seconds in result.seconds.values())


def test_each_frame_has_a_row(folder: Callable[[bool], Dataset]) -> None:
    result = evaluate(Darkness(), folder(True))
    rows = result.frame_rows()
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert sum(row["crack_pixels"] for row in rows) == result.strict.truth
    assert sum(row["fired_pixels"] for row in rows) == result.strict.predicted[153]
    assert rows[4]["f1"] == rows[4]["crack_pixels"] == 0
    assert rows[0]["f1"] < rows[0]["f1_2px"] <= rows[0]["f1_5px"]


def test_frames_keep_their_names_and_pass_through_the_tracker(folder: Callable[[bool], Dataset]) -> None:
    seen = []

    def track(frames: Iterable[LabelledFrame]) -> Iterable[LabelledFrame]:
        for frame in frames:
            seen.append(frame.name)
            yield frame

    result = evaluate(Darkness(), folder(True), track)
    assert seen == [frame.name for frame in result.frames] == ["0", "1", "2", "3", "4"]


def test_an_answer_of_another_size_is_refused(folder: Callable[[bool], Dataset]) -> None:
    with pytest.raises(FrameError, match=r"\(50, 70\), got \(49, 70\)"):
        evaluate(Cropped(), folder(True))


def test_a_curve_is_drawn(folder: Callable[[bool], Dataset], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    result = evaluate(Darkness(), folder(True))
    save_precision_recall(tmp_path / "curve.svg", {"scnet": result.strict, "scnet, 2 px": result.near})
    save_precision_recall(tmp_path / "curve.png", {"scnet": result.strict})
    save_precision_recall(tmp_path / "curve", {"scnet": result.strict})
    assert (tmp_path / "curve").read_bytes() == (tmp_path / "curve.png").read_bytes()
    empty = metrics.counts(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.bool_))
    save_precision_recall(tmp_path / "empty.png", {"nothing": empty})
    image = cv2.imread(str(tmp_path / "curve.png"))
    assert image is not None
    blue = (image[:, :, 0].astype(int) - image[:, :, 2]) > 60  # the curve's colour; axes and text are grey
    assert 500 < blue.sum() < 30_000
    assert "<svg" in (tmp_path / "curve.svg").read_text()
    assert not list(tmp_path.glob(".*"))


def test_a_format_that_is_none_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    with pytest.raises(SourceError, match=r"curve\.docx"):
        save_precision_recall(tmp_path / "curve.docx", {})
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"pip install .edgecrack\[evaluate\]."):
        save_precision_recall(tmp_path / "curve.png", {})
