"""Conversion of an ONNX graph to half precision."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecrack.errors import ExportError, SpecError
from edgecrack.onnx_graph import array, constants, is_layer, prepared, read_onnx, write_onnx
from edgecrack.spec import OUTPUT

QDQ_OPSET = 19  # the first opset in which scales may be float16
# sums over the image or over channels, which would lose too much in half precision
WIDE = {"InstanceNormalization", "Softmax", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "Exp", "Log"}
_LIMITS = np.finfo(np.float16)


def fp16_from_onnx(onnx_path: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write the fp32 or int8 graph in `onnx_path` to `path` with float16 in place of float32.

    Frames and probabilities stay uint8. Image preparation, instance norms, softmaxes and all that follows the last
    layers (upsampling, sigmoid, scaling to 0..255) stay float32. An int8 graph keeps its Q/DQ nodes, with float16
    scales, and becomes "int8-fp16".
    Raises SpecError for a graph that cannot be converted, ExportError when a weight or a scale does not fit float16.
    """
    model, spec = read_onnx(onnx_path)
    if spec.precision not in ("fp32", "int8") or (spec.precision == "int8" and spec.target == "cpu"):
        kind = f"{spec.precision} for {spec.target}"
        raise SpecError(
            f"half precision is made of an fp32 graph or of an int8 one for tensorrt; {onnx_path} is {kind}"
        )
    if spec.precision == "int8":
        model = onnx.version_converter.convert_version(model, QDQ_OPSET)
    _convert(model)
    return write_onnx(model, replace(spec, precision="fp16" if spec.precision == "fp32" else "int8-fp16"), path)


def _convert(model: ModelProto) -> None:
    """Convert what all nodes but the wide ones read and write to float16, with one cast per tensor that crosses."""
    floats, wide, known = _float_tensors(model), _wide_tensors(model), constants(model)
    half: set[str] = set()
    crossed: set[str] = set()
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        narrow = node.output[0] not in wide
        for index, name in enumerate(node.input):
            if name not in floats or (name in half) == narrow or (node.op_type == "Resize" and index > 0):
                continue  # the scales of a Resize are float32 by definition
            node.input[index] = other = f"{name}.{'half' if narrow else 'float'}"
            if other in crossed:
                continue
            crossed.add(other)
            if name in known:
                model.graph.initializer.append(_halved(known[name], other, node))
            else:
                to = TensorProto.FLOAT16 if narrow else TensorProto.FLOAT
                nodes.append(helper.make_node("Cast", [name], [other], name=other, to=to))
        if narrow:
            half.update(name for name in node.output if name in floats)
            _retype_cast(node)
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def _float_tensors(model: ModelProto) -> set[str]:
    """The names of all float32 tensors, constants included."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return values | {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _wide_tensors(model: ModelProto) -> set[str]:
    """The names of the tensors written by nodes that stay float32."""
    wide, known = prepared(model), constants(model)
    tail = {OUTPUT}
    for node in reversed(model.graph.node):
        after = bool(tail.intersection(node.output)) and not is_layer(node, known)
        if after:
            tail.update(node.input)
        if after or node.op_type in WIDE:
            wide.update(node.output)
    return wide


def _retype_cast(node: NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _halved(tensor: TensorProto, name: str, node: NodeProto) -> TensorProto:
    """A float16 copy. Raises ExportError when a value is too large, or a scale too small to be exact."""
    values = array(tensor).astype(np.float32)
    scale = node.op_type in ("QuantizeLinear", "DequantizeLinear")
    if np.abs(values).max(initial=0) > _LIMITS.max or (scale and values.min() < _LIMITS.tiny):
        raise ExportError(f"{tensor.name} reaches from {values.min():.3g} to {values.max():.3g}, beyond half precision")
    return numpy_helper.from_array(values.astype(np.float16), name)
