"""INT8: where the Q/DQ nodes sit, what they hold, and that it runs as INT8."""

from __future__ import annotations

import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edgecrack.calibration import ranges as ranges_module
from edgecrack.calibration.frames import CalibrationFrames
from edgecrack.calibration.qdq import int8_from_onnx
from edgecrack.calibration.ranges import Range, Ranges, measure_ranges
from edgecrack.errors import CalibrationError, SpecError
from edgecrack.export.graph import exportable, onnx_from_model
from edgecrack.export.precision import fp16_from_onnx
from edgecrack.models import MODELS, build_model, rgb_from_frames
from edgecrack.models.checkpoint import load_checkpoint
from edgecrack.onnx_graph import NET, read_onnx, write_onnx
from edgecrack.onnx_session import session
from edgecrack.rendering import rendered_frame
from edgecrack.spec import FrameSpec, ModelSpec
from edgecrack.weights import weights_path

FRAME = FrameSpec(64, 96)
NAMES = tuple(MODELS)
FLOAT_ISLANDS = {
    "aelf-unet": r"encoder\.0\.0|head\.[68]",
    "cacpnet": r"encoder\.0\.0\.0|attention\.0\.conv|decoder\.0\.1",
    "msfnet": r"encoder\.0\.0\.0|side\.[1-4]",
    "scnet": r"encoder\.0\.0\.0|(en|de)coder_attention\.\d\.(gate|response)|side\.[1-4]",
}
MOST_BITS = {"tensorrt": 127, "cpu": 63}


def frames(count=3):
    images = [rendered_frame(seed, FRAME.height, FRAME.width)[0] for seed in range(count)]
    return CalibrationFrames.from_images(images, FRAME)


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(5)
    specs = {name: ModelSpec(name, 0.125, frame=FRAME) for name in NAMES}
    return {name: (build_model(spec).eval(), spec) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def fp32(nets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fp32")
    return {name: onnx_from_model(*nets[name], folder / f"{name}.onnx") for name in NAMES}


@pytest.fixture(scope="module")
def ranges(fp32):
    return {name: measure_ranges(fp32[name], frames()) for name in NAMES}


@pytest.fixture(scope="module")
def int8(fp32, ranges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return {
        (name, target): int8_from_onnx(fp32[name], ranges[name], folder / f"{name}.{target}.onnx", target=target)
        for name in NAMES
        for target in MOST_BITS
    }


class Walk:
    """A graph with its nodes by what they write and read, and its constants as arrays."""

    def __init__(self, path):
        self.model, self.spec = read_onnx(path)
        self.nodes = self.model.graph.node
        self.writer = {name: node for node in self.nodes for name in node.output}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}

    def readers(self, name):
        return [node for node in self.nodes if name in node.input]

    def convolutions(self):
        """Weight name, as the fp32 graph has it -> node."""
        nodes = [node for node in self.nodes if node.op_type == "Conv" and node.input[1].startswith(NET)]
        return {node.input[1].removesuffix(".dequantised"): node for node in nodes}


@pytest.mark.parametrize("target", MOST_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_is_quantised_but_the_float_islands(name, target, fp32, int8):
    walk = Walk(int8[name, target])
    assert (walk.spec.precision, walk.spec.target) == ("int8", target)
    found = walk.convolutions()
    assert set(found) == set(Walk(fp32[name]).convolutions())
    for weight, node in found.items():
        island = re.fullmatch(rf"net\.({FLOAT_ISLANDS[name]})\.weight", weight)
        sources = [walk.writer.get(source) for source in node.input[:2]]
        quantised = [source is not None and source.op_type == "DequantizeLinear" for source in sources]
        assert quantised == ([False, False] if island else [True, True]), weight


def test_empty_filters_live_on_in_half_precision(tmp_path):
    """ONNX Runtime, left to itself, overflows where it rounds their biases."""
    net, spec = load_checkpoint(weights_path("aelf-unet"))
    with torch.no_grad():
        for index, stage in enumerate(net.encoder):
            layer = stage[0 if index else 2]
            layer.weight[0], layer.bias[0] = 0, 0.3
    pruned = onnx_from_model(net, replace(spec, frame=FRAME), tmp_path / "pruned.onnx")
    int8 = int8_from_onnx(pruned, measure_ranges(pruned, frames()), tmp_path / "int8.onnx")
    half = fp16_from_onnx(int8, tmp_path / "half.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(half), options, providers=["CPUExecutionProvider"])
    for image in frames():
        wanted, found = (each.run(None, {"frames": image[None]})[0] for each in (plain, session(half)))
        assert np.abs(wanted.astype(int) - found).max() <= 2


def test_layers_of_equal_weights_may_share_them(nets, tmp_path):
    net, spec = nets["aelf-unet"]
    net = deepcopy(net)
    with torch.no_grad():
        net.head[2].weight.zero_()
        net.head[4].weight.zero_()
    plain = onnx_from_model(net, spec, tmp_path / "plain.onnx")
    weights = [node.input[1] for node in Walk(plain).nodes if node.op_type == "Conv"]
    assert len(set(weights)) < len(weights)
    int8_from_onnx(plain, measure_ranges(plain, frames()), tmp_path / "int8.onnx")  # which checks the graph


@pytest.mark.parametrize("target", MOST_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_quantised_nodes_have_the_agreed_form(name, target, fp32, int8):
    walk, plain = Walk(int8[name, target]), Walk(fp32[name]).constants
    sources = []
    for weight, node in walk.convolutions().items():
        back = walk.writer.get(node.input[0])
        if back is None or back.op_type != "DequantizeLinear":
            continue
        quantise = walk.writer[back.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert list(quantise.input[1:]) == list(back.input[1:])
        sources.append(quantise.input[0])
        scale, zero = (walk.constants[constant] for constant in back.input[1:])
        assert scale.shape == zero.shape == ()
        assert np.isfinite(scale) and scale >= np.finfo(np.float16).tiny
        assert zero.dtype == (np.int8 if target == "tensorrt" else np.uint8)
        assert target == "cpu" or zero == 0
        check_weight(walk, walk.writer[node.input[1]], plain[weight], MOST_BITS[target])
        assert len(node.input) < 3 or walk.constants[node.input[2]].dtype == np.float32  # the bias
    pairs = Counter(node.input[0] for node in walk.nodes if node.op_type == "QuantizeLinear")
    assert set(pairs) == set(sources)  # on the inputs of convolutions, and nowhere else
    assert set(pairs.values()) == {1}  # one pair for all that read a tensor
    for node in walk.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            wanted = "DequantizeLinear" if node.op_type == "QuantizeLinear" else "Conv"
            assert {reader.op_type for reader in walk.readers(node.output[0])} == {wanted}


def check_weight(walk, back, plain, most):
    assert [(attribute.name, attribute.i) for attribute in back.attribute] == [("axis", 0)]
    levels, scale, zero = (walk.constants[constant] for constant in back.input)
    assert levels.dtype == zero.dtype == np.int8
    assert scale.shape == zero.shape == (len(plain),)
    assert not zero.any()
    assert np.abs(levels.astype(int)).max() == most
    scale = scale.reshape(-1, 1, 1, 1)
    assert (np.abs(levels * scale - plain) <= 0.501 * scale).all()


@pytest.mark.parametrize("target", MOST_BITS)
def test_a_shared_tensor_takes_the_widest_range(target, fp32, ranges, tmp_path):
    convolutions = Walk(fp32["cacpnet"]).convolutions()
    tensors = Counter(node.input[0] for node in convolutions.values())
    readers = [w for w, node in convolutions.items() if tensors[node.input[0]] > 1 and w in ranges["cacpnet"].inputs]
    assert len(readers) >= 8
    widened = replace(ranges["cacpnet"], inputs={**ranges["cacpnet"].inputs, readers[-1]: Range(-90.0, 160.0, {})})
    walk = Walk(int8_from_onnx(fp32["cacpnet"], widened, tmp_path / "out.onnx", target=target))
    quantise = walk.writer[walk.writer[walk.convolutions()[readers[-1]].input[0]].input[0]]
    scale, zero = (walk.constants[name] for name in quantise.input[1:])
    assert scale == pytest.approx(160 / 127 if target == "tensorrt" else 250 / 255)
    assert zero == (0 if target == "tensorrt" else 92)


def test_a_percentile_cuts_the_range(fp32, ranges, tmp_path):
    scales = []
    for method, percentile in (("max", 99.99), ("percentile", 99.999), ("percentile", 99.9)):
        path = int8_from_onnx(
            fp32["msfnet"], ranges["msfnet"], tmp_path / "out.onnx", method=method, percentile=percentile
        )
        walk = Walk(path)
        scales.append(sum(walk.constants[n.input[1]] for n in walk.nodes if n.op_type == "QuantizeLinear"))
    assert scales[0] > scales[1] > scales[2]


@pytest.mark.parametrize("target", MOST_BITS)
def test_zeros_get_a_scale_that_half_precision_holds(target, fp32, ranges, tmp_path):
    model, spec = read_onnx(fp32["msfnet"])
    name = "net.smooth.1.0.weight"
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    values = numpy_helper.to_array(tensor).copy()
    values[1] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    nothing = replace(ranges["msfnet"], inputs={**ranges["msfnet"].inputs, name: Range(0.0, 0.0, {})})
    path = int8_from_onnx(write_onnx(model, spec, tmp_path / "a.onnx"), nothing, tmp_path / "b.onnx", target=target)
    walk = Walk(path)
    for scale in (scale for key, scale in walk.constants.items() if key.endswith(".scale")):
        assert (scale >= np.finfo(np.float16).tiny).all() and np.isfinite(scale).all()
    assert not walk.constants[f"{name}.quantised"][1].any()
    assert session(path).run(None, {"frames": np.stack(list(frames(1)))})[0].shape == (1, 64, 96)


@pytest.mark.parametrize("target", MOST_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_int8_answers_near_float(name, target, fp32, int8):
    plain = session(fp32[name])
    for image in frames():
        wanted, found = (
            one.run(None, {"frames": image[None]})[0].ravel() for one in (plain, session(int8[name, target]))
        )
        # max-unpooling moves whole values, and in a fresh net no value stands out; some frames are of night
        assert np.corrcoef(wanted, found)[0, 1] > (0.5 if name in ("scnet", "cacpnet") else 0.95)


@pytest.mark.parametrize("target", MOST_BITS)
@pytest.mark.parametrize("name", NAMES)
def test_openvino_runs_every_quantised_convolution_in_int8(name, target, fp32, int8):
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(
        str(int8[name, target]), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    )
    request = compiled.create_infer_request()
    images = np.stack(list(frames(1)))
    request.infer({0: images})
    kinds = [p.exec_type for p in request.profiling_info if p.node_type == "Convolution"]
    wanted = sum(node.op_type == "QuantizeLinear" for node in Walk(int8[name, target]).nodes)
    assert sum(kind.lower().endswith("_i8") for kind in kinds) >= wanted  # of signed frames lower case, with AMX
    if target == "cpu":
        answer = request.get_output_tensor(0).data.astype(int)
        reference = session(int8[name, target]).run(None, {"frames": images})[0]
        assert np.abs(answer - reference).mean() < 4


# measuring


def test_ranges_are_what_torch_sees(nets, ranges):
    net, _ = nets["aelf-unet"]
    net = exportable(net)
    seen: dict[str, list[float]] = {}

    def note(name):
        return lambda module, inputs: seen.setdefault(name, []).extend([inputs[0].min().item(), inputs[0].max().item()])

    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(note(f"{NET}{name}.weight"))
    with torch.no_grad():
        for image in frames():
            net(net.prepare(rgb_from_frames(torch.from_numpy(image)[None])))
    found = ranges["aelf-unet"]
    assert (found.model, found.frame, found.count) == ("aelf-unet", FRAME, 3)
    assert found.frames_sha256 == frames().sha256
    assert len(found.inputs) == 20
    for weight, span in found.inputs.items():
        assert span.low == pytest.approx(min(0, *seen[weight]), abs=1e-4)
        assert span.high == pytest.approx(max(0, *seen[weight]), rel=1e-4)


def test_ranges_do_not_depend_on_the_batch_or_on_how_tensors_are_grouped(nets, ranges, tmp_path, monkeypatch):
    net, spec = nets["msfnet"]
    pairs = onnx_from_model(net, replace(spec, batch=2), tmp_path / "pairs.onnx")
    monkeypatch.setattr(ranges_module, "_PIECE", 60_000)
    found = measure_ranges(pairs, frames())  # the second batch is short of one frame
    for weight, wanted in ranges["msfnet"].inputs.items():
        assert found.inputs[weight].high == pytest.approx(wanted.high, rel=1e-5)
        assert found.inputs[weight].clips["99.9"] == pytest.approx(wanted.clips["99.9"], rel=1e-2)


def test_what_cannot_be_measured_is_refused(fp32, int8, nets, tmp_path):
    with pytest.raises(CalibrationError, match="measured on the fp32 graph"):
        measure_ranges(int8["msfnet", "cpu"], frames())
    with pytest.raises(CalibrationError, match="the graph takes 96x64, the calibration frames are 32x32"):
        measure_ranges(fp32["msfnet"], CalibrationFrames.from_images(list(frames()), FrameSpec(32, 32)))
    model, spec = read_onnx(fp32["msfnet"])
    for tensor in model.graph.initializer:
        if tensor.name == "net.encoder.1.0.0.weight":
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.inf, np.float32), tensor.name))
    broken = write_onnx(model, spec, tmp_path / "broken.onnx")
    with pytest.raises(CalibrationError, match=r"net\.encoder\.1\.1\.0\.weight reached values that are not finite"):
        measure_ranges(broken, frames())


def test_ranges_with_gaps_of_another_net_and_unknown_options_are_refused(fp32, ranges, int8, tmp_path):
    found, out = ranges["msfnet"], tmp_path / "out.onnx"
    short = {weight: span for weight, span in found.inputs.items() if "smooth" not in weight}
    with pytest.raises(CalibrationError, match=r"miss 5 convolutions of this msfnet: net\.smooth\.\d\.0\.weight, "):
        int8_from_onnx(fp32["msfnet"], replace(found, inputs=short), out)
    with pytest.raises(CalibrationError, match="measured on scnet, the graph is cacpnet"):
        int8_from_onnx(fp32["cacpnet"], ranges["scnet"], out)
    with pytest.raises(SpecError, match="INT8 is written into the fp32 graph"):
        int8_from_onnx(int8["msfnet", "cpu"], found, out)
    for options in ({"target": "gpu"}, {"method": "entropy"}, {"method": "percentile", "percentile": 99}):
        with pytest.raises((SpecError, CalibrationError), match="is one of"):
            int8_from_onnx(fp32["msfnet"], found, out, **options)
    assert not out.exists()


def test_ranges_of_one_size_serve_another(nets, ranges, tmp_path):
    net, spec = nets["msfnet"]
    path = onnx_from_model(net, replace(spec, frame=FrameSpec(96, 64)), tmp_path / "other.onnx")
    ranges["msfnet"].save(tmp_path / "ranges.json")
    quantised = int8_from_onnx(path, Ranges.load(tmp_path / "ranges.json"), tmp_path / "int8.onnx")
    _, written = read_onnx(quantised)
    assert (written.frame, written.precision) == (FrameSpec(96, 64), "int8")
    assert len(written.hashes["ranges"]) == 64
    assert written.versions == read_onnx(path)[1].versions
    assert onnx.load(quantised).graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
