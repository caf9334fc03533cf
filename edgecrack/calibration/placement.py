"""Which convolutions run in INT8, and which stay float."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from edgecrack.onnx_graph import constants, prepared, weight_of


def quantised_convolutions(model: ModelProto) -> dict[str, NodeProto]:
    """The convolutions to quantise, by the name of their weight, in graph order.

    Left float: what reads the image, since 8 bits of it are all there is, and what has one or two output channels (gates,
    responses, side and final logits), where eight bits cost accuracy and save nothing.
    """
    known, image = constants(model), prepared(model)
    found = {}
    for node in model.graph.node:
        weight = weight_of(node, known) if node.op_type == "Conv" else None
        if weight is not None and node.input[0] not in image and known[weight].dims[0] > 2:
            found[weight] = node
    return found
