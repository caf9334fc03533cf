"""A net as ONNX: the same answers, the agreed form, and nothing left behind when they differ."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import measure_ranges
from edgecrack.cli.stopping import Terminated
from edgecrack.errors import AccuracyError, ExportError, SpecError
from edgecrack.export import graph
from edgecrack.export.graph import exportable, onnx_from_model, reference_from_model
from edgecrack.export.parity import Parity, check_half, enforce, parity
from edgecrack.export.precision import fp16_from_onnx
from edgecrack.models import MODELS, build_model
from edgecrack.onnx_graph import NET, read_onnx, write_onnx
from edgecrack.rendering import rendered_frame
from edgecrack.spec import METADATA_KEY, FrameSpec, ModelSpec

FRAME = FrameSpec(64, 96)
ROOMY = FrameSpec(128, 160)  # instance norms of a fresh net over a handful of pixels blow rounding up
NAMES = tuple(MODELS)
VARIANTS = [
    ("aelf-unet", {"up": "conv2", "head": "shallow"}),
    ("cacpnet", {"softmax": "spatial", "attention_from": "output", "pyramid": "catcat"}),
    ("scnet", {"prior": "cheap", "norm": "batch", "side_up": "deconv"}),
    ("scnet", {"norm": "instance-affine", "unpool": "bilinear", "levels": 4, "gate_main": False}),
]


def lively(spec: ModelSpec):
    """The net of `spec` with fresh weights, in which no batch norm is an identity and no bias is zero."""
    torch.manual_seed(3)
    net = build_model(spec)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).uniform_(-0.1, 0.1) if "bias" in name else 0)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    return net.eval()


def rendered(frame: FrameSpec = FRAME, count: int = 2):
    return [rendered_frame(seed, frame.height, frame.width)[0] for seed in range(count)]


@pytest.fixture(scope="module")
def nets():
    frames = {name: ROOMY if name == "scnet" else FRAME for name in NAMES}
    specs = {name: ModelSpec(name, 0.125, frame=frames[name]) for name in NAMES}
    return {name: (lively(spec), spec) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def files(nets, tmp_path_factory):
    """name -> precision -> ONNX file."""
    folder = tmp_path_factory.mktemp("onnx")
    found = {}
    for name, (net, spec) in nets.items():
        fp32 = onnx_from_model(net, spec, folder / f"{name}.onnx")
        ranges = measure_ranges(fp32, CalibrationFrames.from_images(rendered(spec.frame), spec.frame))
        int8 = int8_from_onnx(fp32, ranges, folder / f"{name}.int8.onnx")
        fp16 = fp16_from_onnx(fp32, folder / f"{name}.fp16.onnx")
        both = fp16_from_onnx(int8, folder / f"{name}.int8-fp16.onnx")
        found[name] = {"fp32": fp32, "fp16": fp16, "int8": int8, "int8-fp16": both}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_answers_what_the_net_answers(name, nets, files):
    net, spec = nets[name]
    found = parity(reference_from_model(net), files[name]["fp32"], rendered(spec.frame, 4), 0.5)
    assert found.frames == 4
    enforce(found)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_variant_exports_and_answers_the_same(name, options, tmp_path):
    spec = ModelSpec(name, 0.125, options=options, frame=FRAME)
    net = lively(spec)
    path = onnx_from_model(net, spec, tmp_path / "net.onnx")
    enforce(parity(reference_from_model(net), path, rendered(), 0.5))


@pytest.mark.parametrize("name", ["msfnet", "scnet"])
def test_another_size_and_batch_give_the_same_weights_and_the_same_answers(name, nets, files, tmp_path):
    net, spec = nets[name]
    frame = FrameSpec(192, 128)
    path = onnx_from_model(net, replace(spec, frame=frame, batch=2), tmp_path / "net.onnx")
    enforce(parity(reference_from_model(net), path, rendered(frame, 3), 0.5))
    assert weights(path) == weights(files[name]["fp32"])


def weights(path: Path):
    """The weight of each convolution of the net, by name."""
    model, _ = read_onnx(path)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node.input[1] for node in model.graph.node if node.op_type == "Conv" and node.input[1].startswith(NET)]
    assert len(set(layers)) == len(layers)
    return {name: values[name].raw_data for name in layers}


@pytest.mark.parametrize("name", NAMES)
def test_weights_keep_the_names_of_the_parameters(name, nets, files):
    net, _ = nets[name]
    convolutions = {n for n, module in net.named_modules() if isinstance(module, torch.nn.Conv2d)}
    training_only, folded = (
        {"projection.0", "projection.2"},
        {"fuse", "side.0"},
    )  # the fusion becomes factors of the sides
    wanted = {f"{NET}{n}.weight" for n in convolutions - training_only - folded}
    assert set(weights(files[name]["fp32"])) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_form_is_the_one_agreed(name, nets, files):
    model, spec = read_onnx(files[name]["fp32"])
    (frames,), (probability,) = model.graph.input, model.graph.output
    assert (frames.name, probability.name) == ("frames", "probability")
    size = [1, spec.frame.height, spec.frame.width]
    for value, shape in ((frames, [*size, 3]), (probability, size)):
        assert value.type.tensor_type.elem_type == TensorProto.UINT8
        assert [side.dim_value for side in value.type.tensor_type.shape.dim] == shape
    assert [entry.version for entry in model.opset_import] == [18]
    # a uint8 input may only be cast, and a uint8 output only come from a cast, for TensorRT
    assert [node.op_type for node in model.graph.node if "frames" in node.input] == ["Cast"]
    assert model.graph.node[-1].op_type == "Cast"
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "MaxUnpool", "ScatterND", "ScatterElements", "GatherND", "Shape"}
    assert all(len(node.output) == 1 for node in model.graph.node)  # a MaxPool with indices has two
    assert len(model.metadata_props) == 1
    assert replace(spec, versions={}) == nets[name][1]
    assert set(spec.versions) == {"edgecrack", "onnx", "torch"}


@pytest.mark.parametrize("name", ["scnet", "cacpnet"])
def test_the_callers_net_is_not_altered(name):
    spec = ModelSpec(name, 0.125, frame=FRAME)
    net = build_model(spec).train()
    before = copy.deepcopy(net.state_dict())
    other = exportable(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in other.modules())
    reference_from_model(net)(np.zeros((1, 64, 96, 3), np.uint8))
    assert net.training
    assert net.unpooling.form == "index"
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_sizes_and_specs_that_do_not_fit_are_refused(nets, tmp_path):
    net, spec = nets["scnet"]
    with pytest.raises(SpecError, match="multiples of 32, got 100x64; the nearest is 96x64"):
        onnx_from_model(net, replace(spec, frame=FrameSpec(64, 100)), tmp_path / "net.onnx")
    with pytest.raises(SpecError, match="the spec names msfnet, the model is a SCNet"):
        onnx_from_model(net, replace(spec, name="msfnet"), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_net_that_torch_cannot_trace_is_an_export_error_in_one_line(nets, tmp_path):
    net, spec = nets["msfnet"]
    net = copy.deepcopy(net)
    net.forward = lambda x: x if x.max() > 0 else -x
    with pytest.raises(ExportError, match="could not export this net at 96x64") as caught:
        onnx_from_model(net, spec, tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_ctrl_c_that_torch_takes_for_a_failure_is_an_interrupt(nets, tmp_path, monkeypatch, kind):
    """Its lazy imports make an AttributeError of what interrupts them."""

    def interrupted(*arguments, **options):
        try:
            raise kind
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("module 'torch._dynamo' has no attribute 'exc'") from interrupt

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        onnx_from_model(*nets["msfnet"], tmp_path / "net.onnx")
    assert caught.type is kind
    assert not list(tmp_path.iterdir())


def test_memory_that_is_not_there_is_one_line(nets, tmp_path):
    net, spec = nets["msfnet"]
    with pytest.raises(ExportError, match="could not export this net"):
        onnx_from_model(net, dataclasses.replace(spec, batch=10**9), tmp_path / "net.onnx")


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_answers_almost_the_same(name, nets, files):
    net, spec = nets[name]
    found = parity(reference_from_model(net), files[name]["fp16"], rendered(spec.frame, 4), 0.5)
    assert found.spec.precision == "fp16"
    assert found.f1 > (0.85 if name == "scnet" else 0.97)  # of a fresh net, whose mask is all edge


@pytest.mark.parametrize("precision", ["fp16", "int8-fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_where_it_belongs(name, precision, files):
    model, spec = read_onnx(files[name][precision])
    assert spec.precision == precision
    types = tensor_types(model)
    assert types["frames"] == types["probability"] == TensorProto.UINT8
    for node in model.graph.node:
        floats = {types[tensor] for tensor in (*node.input, *node.output) if tensor} - {TensorProto.UINT8}
        if node.op_type == "Conv" and NET in node.input[1]:
            assert floats == {TensorProto.FLOAT16}, node.name
        if node.op_type in ("InstanceNormalization", "Softmax") or node.output[0] in tail(model):
            assert floats - {TensorProto.INT64} == {TensorProto.FLOAT}, node.name
    assert [entry.version for entry in model.opset_import] == [19 if "int8" in precision else 18]
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert len(set(casts)) == len(casts)  # a tensor crosses over once


def tensor_types(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def tail(model):
    """What the last sigmoid writes, and all after it but the probability."""
    (last,) = [node for node in model.graph.node if node.op_type == "Sigmoid"][-1:]
    reached = set(last.output)
    for node in model.graph.node:
        if reached.intersection(node.input) and "probability" not in node.output:
            reached.update(node.output)
    return reached


def test_what_half_precision_cannot_hold_is_refused(nets, files, tmp_path):
    model, spec = read_onnx(files["msfnet"]["fp32"])
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "net.smooth.0.0.bias"]
    values = numpy_helper.to_array(bias).copy()
    values[1] = 7e4
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    huge = write_onnx(model, spec, tmp_path / "huge.onnx")
    with pytest.raises(ExportError, match=r"net\.smooth\.0\.0\.bias reaches from .* to 7e\+04"):
        fp16_from_onnx(huge, tmp_path / "out.onnx")
    for file in (files["msfnet"]["fp16"], files["msfnet"]["int8-fp16"]):
        with pytest.raises(SpecError, match="made of an fp32 graph"):
            fp16_from_onnx(file, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_value_that_half_precision_cannot_hold_is_refused_though_onnx_runtime_holds_it(tmp_path):
    """One convolution scaled up and the next down: the net answers the same, but not in half precision."""
    spec = ModelSpec("aelf-unet", 0.125, frame=FRAME)
    net, frames = lively(spec), rendered()
    for scale, limit in ((1, None), (2**16, "reaches .* and half precision ends at 65504")):
        with torch.no_grad():
            first, second = net.encoder[1][0], net.encoder[1][2]
            first.weight *= scale
            first.bias *= scale
            second.weight /= scale
        fp16 = fp16_from_onnx(onnx_from_model(net, spec, tmp_path / "net.onnx"), tmp_path / "net.fp16.onnx")
        enforce(parity(reference_from_model(net), fp16, frames, 0.5))
        if limit:
            with pytest.raises(ExportError, match=limit):
                check_half(fp16, frames)
        else:
            check_half(fp16, frames)


def shifted(reference, by):
    return lambda frames: np.clip(reference(frames).astype(int) + by, 0, 255).astype(np.uint8)


def test_parity_sees_a_difference_of_two(nets, files):
    net, _ = nets["aelf-unet"]
    found = parity(shifted(reference_from_model(net), 2), files["aelf-unet"]["fp32"], rendered(), 0.5)
    assert found.largest in (2, 3)
    assert found.within < 0.01
    with pytest.raises(AccuracyError, match=r"aelf-unet in fp32 .* share of pixels within 1/255 is"):
        enforce(found)


def test_parity_of_empty_masks_is_whole_and_of_one_empty_mask_is_none(nets, files):
    path = files["aelf-unet"]["fp32"]
    empty, full = (lambda frames, grey=grey: np.full(frames.shape[:3], grey, np.uint8) for grey in (0, 255))
    nothing, everything = (parity(reference, path, rendered(), 1.0) for reference in (empty, full))
    assert (nothing.f1, nothing.cracks) == (1, 0)
    assert everything.f1 == 0
    assert everything.cracks > 0


def test_parity_fills_up_a_short_batch(nets, tmp_path):
    net, spec = nets["msfnet"]
    path = onnx_from_model(net, replace(spec, batch=2), tmp_path / "net.onnx")
    found = parity(reference_from_model(net), path, rendered(count=3), 0.5)
    assert (found.frames, found.within) == (3, 1)
    with pytest.raises(SpecError, match="at least one frame"):
        parity(reference_from_model(net), path, [], 0.5)


@pytest.mark.parametrize(
    ("spec", "within", "f1", "holds"),
    [
        (ModelSpec("msfnet"), 1.0, 1.0, True),
        (ModelSpec("msfnet"), 0.99999, 1.0, False),
        (ModelSpec("scnet"), 0.99999, 1.0, True),
        (ModelSpec("scnet"), 0.998, 1.0, False),
        (ModelSpec("scnet"), 1.0, 0.996, True),
        (ModelSpec("scnet"), 1.0, 0.994, False),
        (ModelSpec("cacpnet", precision="fp16"), 0.1, 0.991, True),
        (ModelSpec("cacpnet", precision="fp16"), 1.0, 0.989, False),
        (ModelSpec("cacpnet", precision="int8"), 0.1, 0.91, True),
        (ModelSpec("cacpnet", precision="int8-fp16"), 1.0, 0.89, False),
    ],
)
def test_bounds(spec, within, f1, holds):
    result = Parity(spec, 8, within, 3, f1, 100)
    if holds:
        enforce(result)
    else:
        with pytest.raises(AccuracyError, match="on 8 frames"):
            enforce(result)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(lambda data: data[: len(data) // 2], "truncated"), (lambda data: b"", "no edgecrack spec")],
)
def test_files_that_are_not_ours_are_refused(damage, words, files, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(damage(files["msfnet"]["fp32"].read_bytes()))
    with pytest.raises(SpecError, match=words):
        read_onnx(path)
    with pytest.raises(SpecError, match="no ONNX file"):
        read_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("name", ["net.json", "net.textproto", "net.onnxtxt"])
def test_a_file_is_read_as_what_it_holds_and_not_as_its_suffix_says(name, files, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(SpecError):
        read_onnx(tmp_path / name)
    (tmp_path / name).write_bytes(files["msfnet"]["fp32"].read_bytes())
    assert read_onnx(tmp_path / name)[1].name == "msfnet"


def test_data_that_a_graph_keeps_elsewhere_and_is_gone_is_one_line(files, tmp_path):
    model, _ = read_onnx(files["msfnet"]["fp32"])
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="data", size_threshold=0)
    (tmp_path / "data").unlink()
    with pytest.raises(SpecError, match="is not an ONNX file, or is truncated"):
        read_onnx(tmp_path / "net.onnx")


def test_a_graph_whose_spec_cannot_be_read_is_named(tmp_path):
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, {METADATA_KEY: "{}"})
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(SpecError, match=r"net\.onnx: not a model spec"):
        read_onnx(tmp_path / "net.onnx")


def test_biases_of_convolutions_have_one_dimension():
    """Of four, ONNX Runtime takes them up to 1.23, and OpenVINO does not."""
    weights = [
        numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel"),
        numpy_helper.from_array(np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1), "bias"),
        numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float32), "scale"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Conv", ["x", "kernel", "bias"], ["z"]), helper.make_node("Mul", ["z", "scale"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights))
    graph._flatten_biases(model)
    assert [list(tensor.dims) for tensor in model.graph.initializer] == [[3, 3, 1, 1], [3], [1, 3, 1, 1]]
    assert numpy_helper.to_array(model.graph.initializer[1]).tolist() == [0, 1, 2]
