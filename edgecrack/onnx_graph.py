"""ONNX files of edgecrack: reads and writes them with their spec, and inspects their graphs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgecrack.errors import ExportError, SpecError
from edgecrack.files import atomic_path
from edgecrack.spec import INPUT, METADATA_KEY, ModelSpec

NET = "net."  # name prefix of the net's parameters; those of an edge prior do not have it


def read_onnx(path: str | os.PathLike[str]) -> tuple[ModelProto, ModelSpec]:
    """Read an ONNX file and its spec. Raises SpecError if it is missing, truncated or not written by edgecrack."""
    try:
        model = onnx.load(os.fspath(path), format="protobuf")  # and not what the suffix says
    except FileNotFoundError as error:
        raise SpecError(f"no ONNX file {path}") from error
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise SpecError(f"{path} is not an ONNX file, or is truncated: {error}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in metadata:
        raise SpecError(f"{path} has no edgecrack spec inside; wanted an ONNX file written by `edgecrack export`")
    try:
        return model, ModelSpec.from_json(metadata[METADATA_KEY])
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def write_onnx(model: ModelProto, spec: ModelSpec, path: str | os.PathLike[str]) -> Path:
    """Check `model` and write it atomically to `path` with `spec` as metadata. Raises ExportError, SourceError."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{Path(path).name} would not be valid ONNX: {error}") from error
    with atomic_path(path) as temporary:
        onnx.save(model, os.fspath(temporary))
    return Path(path)


def constants(model: ModelProto) -> dict[str, TensorProto]:
    """The initialisers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def array(tensor: TensorProto) -> NDArray[np.generic]:
    """The values of an initialiser as an array."""
    return np.asarray(numpy_helper.to_array(tensor))


def is_layer(node: NodeProto, known: Mapping[str, TensorProto]) -> bool:
    """Whether `node` is a convolution of features, not an upsampling of one-channel maps. `known` are the constants."""
    if node.op_type not in ("Conv", "ConvTranspose"):
        return False
    weight = known.get(node.input[1])  # a quantised weight is not an initialiser
    return weight is None or weight.dims[1 if node.op_type == "Conv" else 0] > 1


def convolution_types(model: ModelProto) -> dict[str, int]:
    """The number of convolutions that compute in each of "int8", "fp16" and "fp32"."""
    half = {name for name, tensor in constants(model).items() if tensor.data_type == TensorProto.FLOAT16}
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return dict(
        Counter(
            "int8" if weight in dequantised else "fp16" if weight in half else "fp32"
            for weight in (node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose"))
        )
    )


def prepared(model: ModelProto) -> set[str]:
    """The tensors computed from the frames before any layer: the normalised image and its edge prior."""
    known = constants(model)
    found = {INPUT}
    for node in model.graph.node:  # in topological order, as ONNX requires
        if not is_layer(node, known) and found.intersection(node.input):
            found.update(node.output)
    return found
