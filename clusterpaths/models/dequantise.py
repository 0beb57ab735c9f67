"""Values of tensors of bytes: a graph of 8-bit operators (QLinearConv …) has its activations quantised only.

Belongs here: finding a tensor's scale and zero point in the graph, and the node that applies them.
"""

from __future__ import annotations

import onnx

# Operator -> the inputs that are scale and zero point of its output.
_PARAMETERS = {
    "QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearMatMul": (6, 7), "QLinearAdd": (6, 7), "QLinearMul": (6, 7),
    "QLinearAveragePool": (3, 4), "QLinearGlobalAveragePool": (3, 4), "QLinearSigmoid": (3, 4), "QLinearLeakyRelu": (3, 4),
    "QLinearConcat": (0, 1), "QGemm": (7, 8),
}  # fmt: skip
_SAME_SCALE = {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Slice", "Pad"}


def quantisation(graph: onnx.GraphProto, tensor: str) -> tuple[str, ...]:
    """Names of the scale and, if there is one, the zero point of a tensor of bytes; empty for a tensor of values."""
    producer = {name: node for node in graph.node for name in node.output}
    node = producer.get(tensor)
    while node is not None and node.op_type in _SAME_SCALE:
        node = producer.get(node.input[0])
    places = () if node is None else _PARAMETERS.get(node.op_type, ())
    return tuple(node.input[at] for at in places if at < len(node.input) and node.input[at]) if node is not None else ()


def add_dequantisation(model: onnx.ModelProto, tensor: str) -> str:
    """Append the node that makes float32 values of a tensor of bytes; returns the name of its output."""
    name = f"{tensor}__dequantised"
    if not any(name in node.output for node in model.graph.node):
        inputs = [tensor, *quantisation(model.graph, tensor)]
        model.graph.node.append(onnx.helper.make_node("DequantizeLinear", inputs, [name]))
    return name
