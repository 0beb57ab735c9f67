"""Small classifiers that end in every way that exporters write: a convolution, a dense layer, and their tail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.clusterpaths.conftest import save_model

SIZE = (16, 16)
node = helper.make_node


def write_tail(
    path: Path,
    *tail: onnx.NodeProto,
    classes: int = 3,
    outputs: dict[str, list[Any]] | None = None,
    types: dict[str, int] | None = None,
    weights: dict[str, NDArray[Any]] | None = None,
    first: int | str = "batch",
    factor: float = 1.0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Images (n, 3, 16, 16) to "score" (n, classes), then `tail`, which reads it; "y" (batch, classes) by default."""
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32)

    own: dict[str, NDArray[Any]] = {
        "w1": normal(4, 3, 3, 3), "w2": normal(4 * 4 * 4, 10) / 8, "w3": normal(10, classes) * np.float32(factor)
    }  # fmt: skip
    nodes = [
        node("Conv", ["image", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Flatten", ["p1"], ["f1"]),
        node("MatMul", ["f1", "w2"], ["g1"]),
        node("Relu", ["g1"], ["r2"]),
        node("MatMul", ["r2", "w3"], ["score"]),
        *tail,
    ]
    shapes = outputs or {"y": [first, classes]}
    graph = helper.make_graph(
        nodes,
        "tail",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [first, 3, *SIZE])],
        [
            helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), shape)
            for name, shape in shapes.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in (own | (weights or {})).items()],
    )
    return save_model(path, graph, metadata=metadata)


def softmax(x: str = "score", y: str = "y") -> onnx.NodeProto:
    return node("Softmax", [x], [y], axis=1)


def sigmoid(x: str = "score", y: str = "y") -> onnx.NodeProto:
    return node("Sigmoid", [x], [y])
