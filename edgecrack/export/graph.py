"""Export of a torch net to an ONNX graph that takes raw frames."""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import edgecrack
from edgecrack.errors import ExportError, SpecError
from edgecrack.export.camera import fitted, scaled_back
from edgecrack.fitting import Fit
from edgecrack.models import CrackNet, model_class, rgb_from_frames
from edgecrack.models.cacpnet import Attention
from edgecrack.onnx_graph import write_onnx
from edgecrack.spec import INPUT, OUTPUT, FrameSpec, ModelSpec

OPSET = 18  # supported by TensorRT 10.3's parser (JetPack 6), and the lowest of torch's exporter


class Deployable(nn.Module):
    """A net with pre- and postprocessing: uint8 (N, H, W, C) frames -> uint8 (N, H, W) crack probability, 0..255.

    C is 3 (BGR) or 4 (BGRx); H and W are those of `fit`, which scales frames to the net's size and the result back.
    """

    def __init__(self, net: CrackNet, fit: Fit) -> None:
        super().__init__()
        self.net = net
        self.fit = fit

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.net(self.net.prepare(rgb_from_frames(fitted(frames, self.fit))))
        levels = scaled_back(torch.sigmoid(logits) * 255, self.fit)
        return (levels[:, 0] + 0.5).clamp(0, 255).to(torch.uint8)


def onnx_from_model(model: CrackNet, spec: ModelSpec, path: str | os.PathLike[str]) -> Path:
    """Write `model` to `path` as ONNX in float32: `frames` uint8 (N, H, W, C) -> `probability` uint8 (N, H, W).

    N, H, W and C are static, from `spec.input_shape`; with a `spec.camera` the graph fits its frames to `spec.frame`
    and scales the result back, as `edgecrack.fitting` does on the host. `model` is not changed; a copy is exported in
    evaluation mode. Weights keep their parameter names at any size, prefixed with "net.".
    Raises SpecError when `model` is not the net that `spec` names or the size does not fit it, ExportError when torch
    or ONNX fails, SourceError when the file cannot be written.
    """
    if not isinstance(model, model_class(spec.name)):
        raise SpecError(f"the spec names {spec.name}, the model is a {type(model).__name__}")
    spec.frame.check_stride(model.stride)
    camera = spec.input_frame
    deployable = Deployable(exportable(model), Fit.of(camera.height, camera.width, spec.frame)).eval()
    spec = replace(
        spec,
        precision="fp32",
        versions={"edgecrack": edgecrack.__version__, "onnx": onnx.__version__, "torch": torch.__version__},
    )
    return write_onnx(_traced(deployable, spec), spec, path)


def reference_from_model(
    model: CrackNet, frame: FrameSpec | None = None
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """The torch reference for an export of `model`: a function from uint8 (N, H, W, 3) BGR to uint8 (N, H, W).

    The net runs at `frame`, to which frames of other sizes are fitted on the host; by default, at the frames' own size.
    """
    net = copy.deepcopy(model)

    def probability(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frames.shape[1:3]
        fit = Fit.of(height, width, frame or FrameSpec(height, width))
        deployable = Deployable(net, Fit.of(fit.frame.height, fit.frame.width, fit.frame)).eval()
        with torch.inference_mode():
            answers = deployable(torch.from_numpy(np.stack([fit.apply(image) for image in frames]))).numpy()
        return np.stack([fit.undo(answer) for answer in answers])

    return probability


def exportable(model: CrackNet) -> CrackNet:
    """A copy of `model`, in evaluation mode, that computes the same without batch norms and pooling indices."""
    net = copy.deepcopy(model).eval()
    unpooling = getattr(net, "unpooling", None)
    if unpooling is not None and unpooling.form == "index":
        unpooling.form = "mask"  # bit-identical, and built from operators that ONNX parsers support
    for module in list(net.modules()):
        if isinstance(module, Attention):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.add_module("norm", nn.Identity())
        elif isinstance(module, nn.Sequential):
            _fold(module)
    return net


def _fold(block: nn.Sequential) -> None:
    """Fold each batch norm of `block` into the convolution before it."""
    for index in range(len(block) - 1):
        conv, norm = block[index], block[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block[index], block[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def _flatten_biases(model: ModelProto) -> None:
    """Make the biases of convolutions one-dimensional: onnxsim 0.7.1 to 0.7.3 folds what it adds as (1, C, 1, 1)."""
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases and len(tensor.dims) != 1:
            tensor.dims[:] = [math.prod(tensor.dims)]


def _traced(deployable: Deployable, spec: ModelSpec) -> ModelProto:
    model: ModelProto
    try:
        frames = torch.zeros(spec.input_shape, dtype=torch.uint8)
        with _quiet():
            program = torch.onnx.export(
                deployable,
                (frames,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
            if program is None:
                raise RuntimeError("torch gave no program")
            model, _ = onnxsim.simplify(program.model_proto)  # what comes out is compared with the net by `parity`
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        for cause in _chain(error):
            if isinstance(cause, KeyboardInterrupt):  # torch's lazy imports swallow it
                raise cause from None
        told = str(error.__cause__ or error).strip().splitlines()[0]  # torch appends pages of advice
        raise ExportError(f"torch {torch.__version__} could not export this net at {spec.frame}: {told}") from error
    _flatten_biases(model)
    return model


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and what it came from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about other packages' operators and its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
