"""Which convolutions run in INT8, and which stay float."""

from __future__ import annotations

from onnx import ModelProto, NodeProto

from edgecrack.onnx_graph import NET, constants, prepared


def quantised_convolutions(model: ModelProto) -> dict[str, NodeProto]:
    """The convolutions to quantise, by the name of their weight, in graph order.

    Those that read the image or have one or two output channels (gates, responses, side and final logits) stay float:
    there, eight bits cost accuracy and save little.
    """
    known, image = constants(model), prepared(model)
    found: dict[str, NodeProto] = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        if weight.startswith(NET) and weight in known and node.input[0] not in image and known[weight].dims[0] > 2:
            found[weight] = node
    return found
