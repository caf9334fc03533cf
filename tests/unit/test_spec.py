"""The contract of frames and models: sizes, thresholds, and a JSON that comes back as it went."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgecrack import errors
from edgecrack.errors import EdgecrackError, FrameError, SpecError
from edgecrack.spec import FrameSpec, ModelSpec, check_frame, check_threshold, threshold_level
from edgecrack.training.augment import SCALES

FULL = ModelSpec(
    "scnet",
    0.25,
    {"levels": 4, "prior": "cheap", "gate_main": False},
    FrameSpec(640, 1024),
    camera=FrameSpec(1080, 1920),
    pixels="bgrx",
    batch=3,
    precision="int8",
    target="cpu",
    threshold=0.4,
    trained_on=("road", "rendered"),
    scales=(0.5, 2.0),
    scores={"road/test": {"f1": 0.5}},
    versions={"torch": "2.13.0"},
    hashes={"weights": "ab12"},
)


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [("1024x640", 640, 1024), (" 512X512\n", 512, 512), ("1x99999", 99999, 1)],
)
def test_a_size_is_written_width_first_and_kept_height_first(text: str, height: int, width: int) -> None:
    frame = FrameSpec.parse(text)
    assert frame == FrameSpec(height, width)
    assert FrameSpec.parse(str(frame)) == frame


@pytest.mark.parametrize(
    "text", ["", "512", "512x", "x512", "512*512", "-4x4", "1.5x2", "0x512", "512x512x3", "123456x1"]
)
def test_other_texts_are_no_size(text: str) -> None:
    with pytest.raises(SpecError, match="size"):
        FrameSpec.parse(text)


@pytest.mark.parametrize("sides", [(0, 4), (4, 0), (-1, 4), (4.0, 4), ("4", 4), (None, 4)])
def test_sides_are_positive_whole_numbers(sides: tuple[Any, Any]) -> None:
    with pytest.raises(SpecError, match="positive whole numbers"):
        FrameSpec(*sides)


def test_a_frame_of_the_right_kind_passes() -> None:
    FrameSpec(4, 6).check(np.zeros((4, 6, 3), np.uint8))
    FrameSpec(4, 6).check(np.zeros((8, 12, 3), np.uint8)[::2, ::2])  # a view is a frame too


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((6, 4, 3), np.uint8), "wanted a frame of 6x4, got 4x6"),
        (np.zeros((4, 6), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((4, 6, 1), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((4, 6, 4), np.uint8), r"image\[:, :, :3\]"),
        (np.zeros((4, 6, 2), np.uint8), r"uint8 \(4, 6, 2\)"),
        (np.zeros((3, 4, 6), np.uint8), r"uint8 \(3, 4, 6\)"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"uint8 \(1, 4, 6, 3\)"),
        (np.zeros((4, 6, 3), np.uint16), "uint16"),
        (np.zeros((4, 6, 3), np.float32), r"astype\(numpy.uint8\)"),
        (np.zeros((4, 6, 3), np.bool_), "bool"),
        (np.zeros((0, 6, 3), np.uint8), "empty"),
        (np.zeros((), np.uint8), "empty"),
        (None, "NoneType; cv2.imread gives None for a file that it cannot read"),
        (SimpleNamespace(shape=(4, 6, 3), dtype="torch.uint8"), "wanted a numpy array, uint8"),
        ([[0, 0, 0]], "list"),
        ("frame.png", "str"),
    ],
)
def test_other_images_are_refused_with_what_was_wanted_and_what_was_there(image: Any, said: str) -> None:
    with pytest.raises(FrameError, match=said):
        FrameSpec(4, 6).check(image)


def test_the_size_does_not_matter_where_none_is_asked_for() -> None:
    check_frame(np.zeros((5, 7, 3), np.uint8))


def test_a_fourth_channel_passes_only_where_it_is_wanted() -> None:
    for channels in (3, 4):
        check_frame(np.zeros((5, 7, channels), np.uint8), "bgrx")
    with pytest.raises(FrameError, match=r"image\[:, :, :3\]"):
        check_frame(np.zeros((5, 7, 4), np.uint8))
    with pytest.raises(FrameError, match=r"wanted a frame uint8 \(H, W, 3\) BGR or \(H, W, 4\) BGRx, got uint16"):
        check_frame(np.zeros((5, 7, 4), np.uint16), "bgrx")


@pytest.mark.parametrize(
    ("frame", "stride", "near"),
    [(FrameSpec(640, 1000), 32, "992x640"), (FrameSpec(500, 512), 16, "512x496"), (FrameSpec(5, 5), 32, "32x32")],
)
def test_a_size_off_the_stride_is_refused_with_the_nearest_that_works(frame: FrameSpec, stride: int, near: str) -> None:
    with pytest.raises(SpecError, match=f"the nearest is {near}"):
        frame.check_stride(stride)
    FrameSpec.parse(near).check_stride(stride)


@pytest.mark.parametrize("threshold", [1e-3, 0.2, 0.5, 1, 1.0])
def test_a_threshold_is_above_0_and_at_most_1(threshold: float) -> None:
    assert check_threshold(threshold) == threshold


@pytest.mark.parametrize("threshold", [0, 0.0, -0.1, 1.001, float("nan"), float("inf"), "0.5", None])
def test_other_thresholds_are_refused(threshold: Any) -> None:
    with pytest.raises(SpecError, match="threshold"):
        check_threshold(threshold)
    with pytest.raises(SpecError, match="threshold"):
        ModelSpec("scnet", threshold=threshold)


def test_every_level_is_the_threshold_that_it_came_from() -> None:
    # The trainer stores level / 255: floats must not move it up by one.
    assert [threshold_level(level / 255) for level in range(1, 256)] == list(range(1, 256))


@pytest.mark.parametrize(
    ("threshold", "level"), [(0.5, 128), (0.2, 51), (0.1 * 6, 153), (0.001, 1), (1 / 255 + 1e-6, 2), (1.0, 255)]
)
def test_a_level_is_the_smallest_probability_at_or_above_the_threshold(threshold: float, level: int) -> None:
    assert threshold_level(threshold) == level


def test_json_comes_back_as_the_same_spec() -> None:
    assert ModelSpec.from_json(FULL.to_json()) == FULL
    assert ModelSpec.from_json(ModelSpec("msfnet").to_json()) == ModelSpec("msfnet")
    assert FULL.to_json() != ModelSpec("scnet").to_json()


def test_equal_specs_give_equal_bytes() -> None:
    turned = json.loads(FULL.to_json())
    turned = dict(reversed(turned.items()))
    turned["options"] = dict(reversed(turned["options"].items()))
    assert ModelSpec.from_json(json.dumps(turned)).to_json() == FULL.to_json()
    assert "\n" not in FULL.to_json()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precision", "int4"),
        ("target", "tpu"),
        ("batch", 0),
        ("batch", 1.5),
        ("width", 0),
        ("width", -1),
        ("width", 4.01),
        ("width", float("nan")),
        ("threshold", 0),
        ("frame", {"height": 0, "width": 4}),
        ("frame", {"height": 4}),
        ("frame", None),
        ("frame", {"height": 4, "width": 4, "depth": 4}),
        ("camera", {"height": 1080}),
        ("camera", {}),
        ("camera", {"height": 20, "width": 1920}),
        ("camera", {"height": 1080, "width": 20000}),
        ("camera", 5),
        ("pixels", "rgb"),
        ("pixels", None),
        ("pixels", ["bgr"]),
        ("scales", [3.0, 0.3]),
        ("scales", [0, 1]),
        ("scales", [0.3]),
        ("scales", ["a", "b"]),
        ("scales", [0.3, float("nan")]),
        ("scales", 0.3),
        ("colour", "blue"),
    ],
)
def test_a_json_with_one_thing_wrong_is_refused_in_one_line(key: str, value: Any) -> None:
    values = json.loads(FULL.to_json()) | {key: value}
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_json(json.dumps(values))
    assert "\n" not in str(caught.value)


def test_a_spec_from_before_there_were_cameras_takes_frames_of_the_nets_size() -> None:
    values = json.loads(FULL.to_json())
    del values["camera"], values["pixels"]
    spec = ModelSpec.from_json(json.dumps(values))
    assert (spec.input_frame, spec.input_shape) == (spec.frame, (3, 640, 1024, 3))


def test_a_spec_that_does_not_say_its_scales_was_trained_as_all_were() -> None:
    values = json.loads(FULL.to_json())
    del values["scales"]
    assert ModelSpec.from_json(json.dumps(values)).scales == (0.3, 3.0) == SCALES


def test_what_a_graph_takes_is_what_the_camera_gives() -> None:
    assert FULL.input_frame == FrameSpec(1080, 1920)
    assert FULL.input_shape == (3, 1080, 1920, 4)


def test_an_unknown_key_is_named() -> None:
    values = json.loads(FULL.to_json()) | {"colour": "blue"}
    with pytest.raises(SpecError, match="colour"):
        ModelSpec.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"scnet"', "{}", '{"frame": {"height": 4, "width": 4}}'])
def test_other_texts_are_no_spec(text: str) -> None:
    with pytest.raises(SpecError, match="not a model spec"):
        ModelSpec.from_json(text)


def test_exit_codes_are_those_of_the_house() -> None:
    codes = {"EngineMismatch": 4, "SourceLost": 5, "AccuracyError": 3}
    known = error_classes()
    assert {name: kind.exit_code for name, kind in known.items()} == {name: codes.get(name, 1) for name in known}


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.SpecError, ValueError),
        (errors.FrameError, ValueError),
        (errors.MissingDependency, ImportError),
        (errors.CalibrationError, ValueError),
        (errors.SourceError, OSError),
    ],
)
def test_an_error_is_also_the_builtin_that_callers_expect(kind: type[Exception], also: type[Exception]) -> None:
    assert issubclass(kind, EdgecrackError)
    assert issubclass(kind, also)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    tree = (errors.__doc__ or "").split("A message")[0]
    depth = {line.split("+-- ")[1].split()[0]: line.index("+--") // 4 for line in tree.splitlines() if "+--" in line}
    known = {name: kind.__mro__.index(EdgecrackError) for name, kind in error_classes().items()}
    assert depth | {"EdgecrackError": 0} == known


def error_classes() -> dict[str, type[EdgecrackError]]:
    return {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
