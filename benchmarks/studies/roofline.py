"""What a convolutional graph asks of a GPU, and the least milliseconds that one could take by its data sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says: dense rates in operations a second, where a multiply-add is two, and bytes a second."""

    name: str
    int8: float
    half: float
    memory: float


# "Up to 40 (Sparse) INT8 TOPs and 20 (Dense)", 625 MHz; 128 bits of LPDDR5, 68 GB/s. Half precision is half the rate.
ORIN_NANO = Gpu("Jetson Orin Nano 8GB, 15 W", int8=20e12, half=10e12, memory=68e9)


@dataclass(frozen=True)
class Layer:
    """A convolution: multiply-adds, the elements it reads and writes, weights included, and whether it computes in INT8."""

    multiply_adds: int
    elements: int
    int8: bool

    def seconds(self, gpu: Gpu) -> float:
        """At the rate of its arithmetic or of the memory, whichever is slower: one byte an element in INT8, else two."""
        arithmetic = 2 * self.multiply_adds / (gpu.int8 if self.int8 else gpu.half)
        return max(arithmetic, self.elements * (1 if self.int8 else 2) / gpu.memory)


def layers(path: Path) -> list[Layer]:
    """The convolutions of the ONNX file, at the batch and size it was exported for."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True)
    shapes = _shapes(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    return [_layer(node, shapes, makers) for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]


def floor_milliseconds(path: Path, gpu: Gpu = ORIN_NANO) -> float:
    """The least time of a call: every convolution at its own roof, and all else free."""
    return 1e3 * sum(layer.seconds(gpu) for layer in layers(path))


def multiply_adds(path: Path) -> int:
    """Of all convolutions."""
    return sum(layer.multiply_adds for layer in layers(path))


def _layer(node: NodeProto, shapes: dict[str, tuple[int, ...]], makers: dict[str, NodeProto]) -> Layer:
    given, weight, answer = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    # of either kind a weight meets as many places as the side of the convolution has that its second axis is not of
    places = answer if node.op_type == "Conv" else given
    work = math.prod(weight) * math.prod(places[2:]) * places[0]
    source = makers.get(node.input[0])
    int8 = source is not None and source.op_type == "DequantizeLinear"
    return Layer(work, math.prod(given) + math.prod(weight) + math.prod(answer), int8)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
    return found
