"""Graphs that fit a camera's frames themselves: the answers of host fitting, in every precision, and untouched frames."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from onnx import TensorProto, shape_inference

from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Ranges, measure_ranges
from edgecrack.errors import CalibrationError, FrameError, SpecError
from edgecrack.export.camera import fitted, scaled_back
from edgecrack.export.graph import onnx_from_model
from edgecrack.export.parity import FITTED, bound_of
from edgecrack.export.precision import fp16_from_onnx
from edgecrack.fitting import Fit
from edgecrack.metrics import counts, f_score, pool
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.onnx_graph import is_layer, read_onnx
from edgecrack.onnx_session import session
from edgecrack.rendering import rendered_frame
from edgecrack.runtime import CrackDetector, Frame, MaskImages, OverlayImages, OverlayVideo
from edgecrack.spec import INPUT, FrameSpec, ModelSpec
from edgecrack.weights import ranges_path, weights_path

NET = FrameSpec(256, 256)
CAMERA = FrameSpec(360, 640)
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16", "int8-cpu")
# 1080p and 720p; a side that is odd at every halving; the net's own size; one that only wants padding, by more than its
# own height; upscaling; the most extreme aspects
CAMERAS = [
    "1920x1080",
    "1280x720",
    "1921x1081",
    "2047x1151",
    "1000x37",
    "640x480",
    "256x256",
    "256x100",
    "120x64",
    "32x16384",
    "8000x32",
]
EVEN = ["1920x1080", "1280x720", "1024x1024", "256x256", "256x100", "128x64"]  # scaled by simple ratios
AGREE = 0.99


def frame_of(camera: FrameSpec, seed: int = 0):
    return rendered_frame(seed, camera.height, camera.width)[0]


def with_fourth(image, seed: int = 0):
    """The BGR `image` as BGRx, with noise at x."""
    return np.dstack([image, np.random.default_rng(seed).integers(0, 256, image.shape[:2], np.uint8)])


@pytest.fixture(scope="module")
def shipped():
    net, spec = load_checkpoint(weights_path("msfnet"))
    return net, replace(spec, frame=NET, threshold=0.4)


@pytest.fixture(scope="module")
def exported(shipped, tmp_path_factory):
    """(camera, pixels, precision) -> ONNX file; each is made once."""
    folder, made = tmp_path_factory.mktemp("camera"), {}
    net, spec = shipped
    ranges = Ranges.load(ranges_path("msfnet"))

    def export(camera: FrameSpec | None = None, pixels: str = "bgr", precision: str = "fp32"):
        key = (camera, pixels, precision)
        if key in made:
            return made[key]
        path = folder / f"{len(made)}.onnx"
        if precision == "fp32":
            onnx_from_model(net, replace(spec, camera=camera, pixels=pixels), path)
        elif precision.endswith("fp16"):
            fp16_from_onnx(export(camera, pixels, "int8" if "int8" in precision else "fp32"), path)
        else:
            target = "cpu" if precision == "int8-cpu" else "tensorrt"
            int8_from_onnx(export(camera, pixels), ranges, path, target=target)
        return made.setdefault(key, path)

    return export


def agreement(path, host_fitted, frames, backend: str = "onnxruntime"):
    """Mask F1 of the two files, whose detectors see the same frames, and how many pixels are crack."""
    found = []
    with CrackDetector(path, backend=backend) as one, CrackDetector(host_fitted, backend=backend) as other:
        for frame in frames:
            answer, truth = one.run(frame), other.run(frame)
            assert answer.fit.is_exact and truth.fit.frame == NET
            found.append(counts(answer.mask.view(np.uint8), truth.mask))
    pooled = pool(found)
    return float(f_score(pooled)[1]), pooled.truth


# the arithmetic


@pytest.mark.parametrize("camera", [FrameSpec.parse(text) for text in CAMERAS], ids=str)
def test_frames_are_fitted_as_on_the_host(camera):
    noise = np.random.default_rng(0).integers(0, 256, (camera.height, camera.width, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2)
    fit = Fit.of(camera.height, camera.width, NET)
    got = fitted(torch.from_numpy(image)[None], fit)[0].numpy()
    apart = np.abs(got - fit.apply(image))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 1e-3 * apart.size


@pytest.mark.parametrize("camera", [FrameSpec.parse(text) for text in EVEN], ids=str)
def test_frames_of_common_cameras_are_fitted_bit_by_bit(camera):
    image = frame_of(camera)
    image[:, 40:-40:25] = image[:, 41:-39:25] = 40  # lines two pixels wide
    fit = Fit.of(camera.height, camera.width, NET)
    np.testing.assert_array_equal(fitted(torch.from_numpy(with_fourth(image))[None], fit)[0].numpy(), fit.apply(image))


@pytest.mark.parametrize("camera", [FrameSpec.parse(text) for text in CAMERAS], ids=str)
def test_answers_are_scaled_back_as_on_the_host(camera):
    levels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8), (0, 0), 2)
    fit = Fit.of(camera.height, camera.width, NET)
    got = scaled_back(torch.from_numpy(levels)[None, None].float(), fit)[0, 0].numpy()
    assert got.shape == (camera.height, camera.width)
    apart = np.abs(np.floor(got + 0.5) - fit.undo(levels))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 0.05 * apart.size


# the graph


@pytest.mark.parametrize(
    ("camera", "backend"),
    [(text, "onnxruntime") for text in ["1920x1080", "1281x719", "1000x37", "256x256", "200x120"]]
    + [(text, "openvino") for text in ["1920x1080", "200x120"]],
)
def test_masks_are_those_of_host_fitting(camera, backend, exported):
    camera = FrameSpec.parse(camera)
    frames = [frame_of(camera, seed) for seed in range(4)]
    f1, crack = agreement(exported(camera), exported(), frames, backend)
    assert crack > 20
    assert f1 >= AGREE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_agrees_with_itself_behind_host_fitting(precision, exported):
    frames = [frame_of(CAMERA, seed) for seed in range(4)]
    f1, crack = agreement(exported(CAMERA, "bgrx", precision), exported(None, "bgr", precision), frames)
    assert crack > 100
    assert f1 >= AGREE


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_fitting_stays_float32_and_takes_no_quantisation(precision, exported):
    model, spec = read_onnx(exported(CAMERA, "bgrx", precision))
    assert (spec.camera, spec.pixels, spec.frame) == (CAMERA, "bgrx", NET)
    shapes = [
        [side.dim_value for side in end.type.tensor_type.shape.dim] for end in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 360, 640, 4], [1, 360, 640]]
    values = shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    nodes = list(model.graph.node)
    first = next(index for index, node in enumerate(nodes) if is_layer(node, {}))
    kinds = [node.op_type for node in nodes[:first] if types[node.output[0]] != TensorProto.FLOAT16]
    # 640x360 to 256x144, halved once; then padded, and prepared as any frame is
    fitting = ["Cast", "Slice", "Transpose", "AveragePool", "Add", "Floor", "Resize", "Add", "Floor", "Gather"]
    assert kinds == [*fitting, "Slice", "Div", "Sub", "Div"]
    assert [node.op_type for node in nodes if INPUT in node.input] == ["Cast"]  # else TensorRT refuses it
    *tail, last = nodes[-8:]
    assert [node.op_type for node in tail] == ["Slice", "Add", "Floor", "Resize", "Gather", "Add", "Clip"]
    assert {types[node.output[0]] for node in tail} == {TensorProto.FLOAT}
    assert last.op_type == "Cast"


def test_a_camera_of_the_nets_size_adds_nothing(exported):
    plain, same = (read_onnx(exported(camera))[0].graph for camera in (None, NET))
    assert [node.op_type for node in same.node] == [node.op_type for node in plain.node]


def test_the_fourth_byte_is_not_read(exported):
    image = frame_of(CAMERA)
    bgr, bgrx = session(exported(CAMERA)), session(exported(CAMERA, "bgrx"))
    wanted = bgr.run(None, {INPUT: image[None]})[0]
    assert wanted.any()
    for seed in range(2):
        np.testing.assert_array_equal(bgrx.run(None, {INPUT: with_fourth(image, seed)[None]})[0], wanted)


def test_bgrx_goes_without_a_camera_too(exported):
    image = frame_of(NET)
    wanted = session(exported()).run(None, {INPUT: image[None]})[0]
    np.testing.assert_array_equal(
        session(exported(None, "bgrx")).run(None, {INPUT: with_fourth(image)[None]})[0], wanted
    )


def test_a_batch_of_camera_frames_is_fitted_frame_by_frame(shipped, exported, tmp_path):
    net, spec = shipped
    path = onnx_from_model(net, replace(spec, camera=CAMERA, batch=2), tmp_path / "pairs.onnx")
    frames = [frame_of(CAMERA, seed) for seed in range(3)]
    with CrackDetector(path, backend="onnxruntime") as pairs, CrackDetector(exported(CAMERA)) as single:
        for (_, found), frame in zip(pairs.stream(frames), frames, strict=True):
            assert np.abs(found.probability.astype(int) - single.run(frame).probability).max() <= 2


@pytest.mark.parametrize("precision", PRECISIONS[:-1])
def test_tensorrt_builds_it(precision, exported, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from edgecrack.engine_file import read_record
    from edgecrack.export.engine import engine_from_onnx

    engine = engine_from_onnx(exported(CAMERA, "bgrx", precision), tmp_path / "net.engine", capabilities=["sm86"])
    assert read_record(engine).spec.input_shape == (1, 360, 640, 4)


# the ranges


def test_ranges_of_a_camera_graph_are_those_of_host_fitting(exported):
    images = [frame_of(CAMERA, seed) for seed in range(2)]
    plain = measure_ranges(exported(), CalibrationFrames.from_images(images, NET))
    camera = measure_ranges(exported(CAMERA, "bgrx"), CalibrationFrames.from_images(images, CAMERA))
    assert camera.frame == plain.frame == NET
    assert camera.inputs.keys() == plain.inputs.keys()
    for weight, wanted in plain.inputs.items():
        assert camera.inputs[weight].high == pytest.approx(wanted.high, rel=0.02)
    with pytest.raises(CalibrationError, match="the graph takes 640x360, the calibration frames are 256x256"):
        measure_ranges(exported(CAMERA), CalibrationFrames.from_images(images, NET))


def test_a_camera_graph_is_held_to_its_own_bound(shipped):
    _, spec = shipped
    assert bound_of(replace(spec, camera=CAMERA)) == FITTED
    assert bound_of(spec) != FITTED
    for precision in ("fp16", "int8"):  # which moves masks more than fitting does
        assert bound_of(replace(spec, camera=CAMERA, precision=precision)) == bound_of(
            replace(spec, precision=precision)
        )


# the detector


class Keeper:
    """A backend that keeps what it is given and answers with zeros."""

    name, depth = "keeper", 1

    def __init__(self, **about):
        self.spec = ModelSpec("scnet", frame=FrameSpec(64, 64), **about)
        self.given = []

    def submit(self, frames):
        assert frames.shape == self.spec.input_shape
        self.given.append(frames)

    def collect(self):
        return np.zeros(self.spec.input_shape[:3], np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("pixels", ["bgr", "bgrx"])
def test_a_frame_of_the_camera_goes_in_without_a_copy(pixels):
    keeper = Keeper(camera=FrameSpec(90, 160), pixels=pixels)
    frame = np.ones((90, 160, 3 if pixels == "bgr" else 4), np.uint8)
    detection = CrackDetector(keeper).run(frame)
    assert np.shares_memory(keeper.given[0], frame)
    assert np.shares_memory(detection.probability, detection.answer)
    assert detection.probability.shape == (90, 160)


def test_frames_of_another_size_or_without_a_fourth_byte_are_made_to_fit():
    keeper = Keeper(camera=FrameSpec(90, 160), pixels="bgrx")
    image = np.random.default_rng(0).integers(0, 256, (180, 320, 3), np.uint8)
    detector = CrackDetector(keeper)
    for frame in (image, with_fourth(image)):
        assert detector.run(frame).probability.shape == (180, 320)
    small = Fit.of(180, 320, FrameSpec(90, 160)).apply(image)
    for given in keeper.given:
        np.testing.assert_array_equal(given[0, :, :, :3], small)


@pytest.mark.parametrize(
    ("pixels", "shape", "words"),
    [
        ("bgr", (90, 160, 4), r"wanted a frame uint8 \(H, W, 3\) BGR, got an image with alpha"),
        ("bgrx", (90, 160), r"wanted a frame uint8 \(H, W, 3\) BGR or \(H, W, 4\) BGRx, got a grey image"),
        ("bgrx", (90, 160, 2), r"\(H, W, 4\) BGRx, got uint8 \(90, 160, 2\)"),
        ("bgrx", (90, 160, 5), r"\(H, W, 4\) BGRx, got uint8 \(90, 160, 5\)"),
    ],
)
def test_frames_with_other_pixels_are_refused(pixels, shape, words):
    detector = CrackDetector(Keeper(pixels=pixels))
    with pytest.raises(FrameError, match=words):
        detector.run(np.zeros(shape, np.uint8))
    with pytest.raises(FrameError, match=words):
        list(detector.stream([np.zeros(shape, np.uint8)]))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_bgrx_frames_go_through_every_sink(backend, exported, tmp_path):
    frame = Frame(with_fourth(frame_of(CAMERA)), 0, None, "camera")
    with CrackDetector(exported(CAMERA, "bgrx"), backend=backend) as detector:
        detection = detector.run(frame.image)
    assert detection.crack_pixels
    np.testing.assert_array_equal(detection.plot(frame.image), detection.plot(frame.image[:, :, :3].copy()))
    with (
        OverlayVideo(tmp_path / "a.mp4", 10) as video,
        OverlayImages(tmp_path) as images,
        MaskImages(tmp_path) as masks,
    ):
        for sink in (video, images, masks):
            sink.write(frame, detection)
    for name in ("000000.jpg", "000000.png"):
        assert cv2.imread(str(tmp_path / name)).shape == (360, 640, 3)


def test_silly_cameras_and_pixels_are_refused(shipped):
    _, spec = shipped
    for side in (31, 16385):
        with pytest.raises(SpecError, match="32 to 16384 pixels a side"):
            replace(spec, camera=FrameSpec(side, 640))
    with pytest.raises(SpecError, match="pixels are one of bgr, bgrx, got 'rgb'"):
        replace(spec, pixels="rgb")
