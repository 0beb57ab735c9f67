"""Random small ONNX graphs: image classifiers of a few operators, most of them valid.

Belongs here: drawing graphs. What is done to valid ones is `models.py`.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Abs",
    "Neg",
    "Exp",
    "Softplus",
    "Erf",
    "HardSigmoid",
    "Identity",
    "Floor",
    "Sqrt",
    "Elu",
)
_BINARY = ("Add", "Mul", "Sub", "Max", "Min")
_AXES = ("Softmax", "LogSoftmax")
_KINDS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT,
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.DOUBLE,
)


class _Graph:
    """A graph that grows: nodes, weights, and the shape that is believed of each tensor."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.count = rng, 0
        self.draw = np.random.default_rng(rng.randrange(2**32))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}

    def weight(self, *shape: int, values: Any = None, dtype: Any = np.float32) -> str:
        """A new initializer."""
        self.count += 1
        name = f"w{self.count}"
        found = self.draw.standard_normal(shape) * 0.3 if values is None else np.array(values)
        self.weights.append(numpy_helper.from_array(found.astype(dtype), name))
        return name

    def node(self, operator: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        """A new node with one output of this shape."""
        self.count += 1
        name = f"/{self.rng.choice(('features', 'layer1/0', 'head', 'blocks.3'))}/{operator}_{self.count}_output_0"
        self.nodes.append(helper.make_node(operator, inputs, [name], name.removesuffix("_output_0"), **attributes))
        self.shapes[name] = shape
        return name


def random_model(rng: random.Random) -> onnx.ModelProto:
    """A graph from an image input to one or two outputs."""
    graph = _Graph(rng)
    size, batch = rng.choice((8, 12, 16)), rng.choice((None, None, "N", 1, 2))
    kind = rng.choice(_KINDS)
    last = "x"
    graph.shapes[last] = (2, 3, size, size)
    if kind != TensorProto.FLOAT:
        last = graph.node("Cast", [last], graph.shapes[last], to=TensorProto.FLOAT)
    nhwc = rng.random() < 0.2
    entry = [batch, size, size, 3] if nhwc else [batch, 3, size, size]
    if rng.random() < 0.2:
        entry = [value if value in (3, batch) else rng.choice(("H", None, size)) for value in entry]
    if nhwc:
        last = graph.node("Transpose", [last], (2, 3, size, size), perm=[0, 3, 1, 2])
    for _ in range(rng.randrange(1, 8)):
        last = _step(graph, last)
    outputs = [_head(graph, last)]
    if rng.random() < 0.3:
        outputs.append(rng.choice([name for node in graph.nodes for name in node.output]))
    found = helper.make_graph(
        graph.nodes, "random", [helper.make_tensor_value_info("x", kind, entry)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(outputs)], graph.weights,
    )  # fmt: skip
    return helper.make_model(found, ir_version=8, opset_imports=[helper.make_opsetid("", rng.choice((13, 15, 17, 18)))])


def _step(graph: _Graph, last: str) -> str:
    rng, shape = graph.rng, graph.shapes[last]
    if len(shape) != 4:
        return graph.node(rng.choice(_UNARY), [last], shape)
    batch, channels, height, width = shape
    match rng.randrange(12):
        case 0 | 1 | 2:
            out, kernel, stride = rng.choice((2, 4, 8)), rng.choice((1, 3)), rng.choice((1, 2))
            sides = [(side - 1) // stride + 1 for side in (height, width)]
            inputs = [last, graph.weight(out, channels, kernel, kernel), graph.weight(out)]
            pad = kernel // 2
            return graph.node(
                "Conv", inputs, (batch, out, *sides), pads=[pad] * 4, strides=[stride] * 2, kernel_shape=[kernel] * 2
            )
        case 3 if min(height, width) >= 2:
            kind = rng.choice(("MaxPool", "AveragePool"))
            return graph.node(
                kind, [last], (batch, channels, height // 2, width // 2), kernel_shape=[2, 2], strides=[2, 2]
            )
        case 4:
            weights = [
                graph.weight(channels, values=np.abs(graph.draw.standard_normal(channels)) + 0.1) for _ in range(4)
            ]
            return graph.node("BatchNormalization", [last, *weights], shape, epsilon=rng.choice((1e-5, 1e-3)))
        case 5:
            return graph.node(rng.choice(_BINARY), [last, graph.node(rng.choice(_UNARY), [last], shape)], shape)
        case 6:
            other = graph.node(rng.choice(_UNARY), [last], shape)
            return graph.node("Concat", [last, other], (batch, 2 * channels, height, width), axis=1)
        case 7:
            return graph.node(rng.choice(_AXES), [last], shape, axis=rng.choice((1, -1)))
        case 8:
            scales = graph.weight(values=[1, 1, 2, 2])
            if height > 16:
                return last
            return graph.node("Resize", [last, "", scales], (batch, channels, 2 * height, 2 * width), mode="nearest")
        case 9:
            pads = graph.weight(values=[0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64)
            return graph.node(
                "Pad", [last, pads], (batch, channels, height + 2, width + 2), mode=rng.choice(("constant", "edge"))
            )
        case 10:
            low, high = graph.weight(values=0), graph.weight(values=6)
            return graph.node("Clip", [last, low, high], shape)
        case _:
            return graph.node(rng.choice(_UNARY), [last], shape)


def _head(graph: _Graph, last: str) -> str:
    rng, shape = graph.rng, graph.shapes[last]
    if len(shape) == 4:
        if rng.random() < 0.6:
            last = graph.node("GlobalAveragePool", [last], (*shape[:2], 1, 1))
        shape = graph.shapes[last]
        last = graph.node("Flatten", [last], (shape[0], int(np.prod(shape[1:]))), axis=1)
    width, classes = graph.shapes[last][1], rng.choice((1, 2, 5, 10))
    last = graph.node("Gemm", [last, graph.weight(classes, width), graph.weight(classes)], (2, classes), transB=1)
    if rng.random() < 0.4:
        last = graph.node(rng.choice(("Softmax", "Sigmoid", "LogSoftmax")), [last], (2, classes))
    return last
