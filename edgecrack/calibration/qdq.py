"""INT8 quantisation of an ONNX graph with quantise and dequantise (Q/DQ) nodes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgecrack.calibration.placement import quantised_convolutions
from edgecrack.calibration.ranges import METHODS, PERCENTILES, Ranges
from edgecrack.errors import CalibrationError, SpecError
from edgecrack.onnx_graph import array, constants, read_onnx, write_onnx
from edgecrack.spec import TARGETS

SMALLEST_SCALE = 2.0**-14  # the smallest normal number in half precision; also the scale of an all-zero channel


@dataclass(frozen=True)
class _Grid:
    """Integer grid: activations `signed` and symmetric, or unsigned with a zero point; weights within +-`weight`."""

    signed: bool
    weight: int

    def activation(self, low: float, high: float) -> tuple[float, int]:
        """(scale, zero point) for values in low <= 0 <= high."""
        if self.signed:
            return max(max(-low, high) / 127, SMALLEST_SCALE), 0
        scale = max((high - low) / 255, SMALLEST_SCALE)
        return scale, round(-low / scale)


# TensorRT takes symmetric int8 only. On a CPU without VNNI the sum of two uint8 x int8 products saturates at 16 bits,
# which weights of seven bits cannot reach: 2 x 255 x 63 < 32768.
_GRIDS = {"tensorrt": _Grid(signed=True, weight=127), "cpu": _Grid(signed=False, weight=63)}


def int8_from_onnx(
    onnx_path: str | os.PathLike[str],
    ranges: Ranges,
    path: str | os.PathLike[str],
    *,
    target: str = "tensorrt",
    method: str = "max",
    percentile: float = 99.99,
) -> Path:
    """Write the float32 graph in `onnx_path` to `path` with INT8 convolutions, for the engine that `target` names.

    Q/DQ nodes are on the inputs of convolutions only: activations per tensor, one pair for all convolutions that read
    the same tensor; weights int8 per output channel, symmetric; biases stay float. "tensorrt" has int8 activations with
    zero point 0, "cpu" uint8 ones. `method` "max" uses ranges as measured, "percentile" clips them at `percentile`; the
    default is "max", since the response to a thin crack is the very tail that a percentile clips.
    Raises SpecError for an unknown option or a graph that is not float32, CalibrationError when `ranges` are of
    another net or do not cover every convolution to be quantised.
    """
    _check_options(target, method, percentile)
    model, spec = read_onnx(onnx_path)
    if spec.precision != "fp32":
        raise SpecError(f"INT8 is written into the fp32 graph, {onnx_path} is {spec.precision}")
    convolutions = quantised_convolutions(model)
    ranges.check(spec.name, convolutions)
    limits: dict[str, list[tuple[float, float]]] = {}
    for weight, node in convolutions.items():
        limits.setdefault(node.input[0], []).append(ranges.inputs[weight].limits(method, percentile))
    widest = {name: (min(low for low, _ in all_), max(high for _, high in all_)) for name, all_ in limits.items()}
    _insert(model, convolutions, widest, _GRIDS[target])
    hashes = {**spec.hashes, "ranges": hashlib.sha256(ranges.to_json().encode()).hexdigest()}
    return write_onnx(model, replace(spec, precision="int8", target=target, hashes=hashes), path)


def _check_options(target: str, method: str, percentile: float) -> None:
    for name, value, known in (("target", target, TARGETS), ("method", method, METHODS)):
        if value not in known:
            raise SpecError(f"a {name} is one of {', '.join(known)}, got {value!r}")
    if method == "percentile" and percentile not in PERCENTILES:
        raise CalibrationError(f"a percentile is one of {', '.join(map(str, PERCENTILES))}, got {percentile}")


def _insert(
    model: ModelProto, convolutions: dict[str, NodeProto], limits: dict[str, tuple[float, float]], grid: _Grid
) -> None:
    """Rewire each convolution to dequantised inputs, keeping the nodes in topological order."""
    known = constants(model)
    readers = {node.output[0]: weight for weight, node in convolutions.items()}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in model.graph.node:
        weight = readers.get(node.output[0])
        if weight is not None:
            source = node.input[0]
            if source not in done:
                nodes += _activation(model, source, limits[source], grid)
                done.add(source)
            nodes.append(_weight(model, known[weight], grid))
            node.input[0], node.input[1] = f"{source}.dequantised", f"{weight}.dequantised"
        nodes.append(node)
    used = {name for node in nodes for name in node.input}  # two layers of equal weights share them
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def _activation(model: ModelProto, name: str, limits: tuple[float, float], grid: _Grid) -> list[NodeProto]:
    scale, zero = grid.activation(*limits)
    scales = _constant(model, f"{name}.scale", np.asarray(scale, np.float32))
    zeros = _constant(model, f"{name}.zero", np.asarray(zero, np.int8 if grid.signed else np.uint8))
    quantised, back = f"{name}.quantised", f"{name}.dequantised"
    return [
        helper.make_node("QuantizeLinear", [name, scales, zeros], [quantised], name=quantised),
        helper.make_node("DequantizeLinear", [quantised, scales, zeros], [back], name=back),
    ]


def _weight(model: ModelProto, tensor: TensorProto, grid: _Grid) -> NodeProto:
    weights = array(tensor).astype(np.float64)
    reach = np.abs(weights).max(axis=tuple(range(1, weights.ndim)))
    scale = np.maximum(reach / grid.weight, SMALLEST_SCALE).astype(np.float32)
    levels = np.round(weights / scale.reshape(-1, *[1] * (weights.ndim - 1))).clip(-grid.weight, grid.weight)
    quantised = _constant(model, f"{tensor.name}.quantised", levels.astype(np.int8))
    scales = _constant(model, f"{tensor.name}.scale", scale)
    zeros = _constant(model, f"{tensor.name}.zero", np.zeros(len(scale), np.int8))
    back = f"{tensor.name}.dequantised"
    return helper.make_node("DequantizeLinear", [quantised, scales, zeros], [back], name=back, axis=0)


def _constant(model: ModelProto, name: str, values: NDArray[np.generic]) -> str:
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name
