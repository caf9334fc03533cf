"""Which convolutions run in INT8, and which stay float."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from edgecrack.onnx_graph import constants, is_layer, prepared


def quantised_convolutions(model: ModelProto) -> dict[str, NodeProto]:
    """The convolutions to quantise, by the name of their weight, in graph order.

    Left float: what reads the image, and what has one or two output channels (gates, responses, side and final
    logits): there eight bits cost accuracy and save little.
    """
    known, image = constants(model), prepared(model)
    found: dict[str, NodeProto] = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and is_layer(node, known):
            image_reader, outputs = node.input[0] in image, known[node.input[1]].dims[0]
            if not image_reader and outputs > 2:
                found[node.input[1]] = node
    return found
