"""The sample model as if it had been trained with another preprocessing, or with its classes in another order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from clusterpaths.preprocessing.prepare import preset_preprocessing
from clusterpaths.records import Preprocessing
from tests.runs import SAMPLE_MODEL

SIZE = (64, 64)


def wrap(path: Path, true: Preprocessing, order: tuple[int, ...] | None = None) -> Path:
    """The sample model (ImageNet, RGB) behind nodes that turn input of the true preprocessing into its own.

    `order` rearranges its five outputs, or leaves some out.
    """
    proto = onnx.load(SAMPLE_MODEL)
    graph, own = proto.graph, preset_preprocessing("imagenet", SIZE)
    # x_true = (p * s_t - m_t) / d_t, and the model wants (p * s - m) / d: linear in x_true, colour by colour
    m_t, d_t, m, d = (np.array(v) for v in (true.mean, true.std, own.mean, own.std))
    factor = d_t * (own.scale / true.scale) / d
    offset = (m_t * (own.scale / true.scale) - m) / d
    constants = {
        "factor": factor.astype(np.float32)[None, :, None, None],
        "offset": offset.astype(np.float32)[None, :, None, None],
        "swap": np.array([0, 1, 2] if true.channels == "RGB" else [2, 1, 0]),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == "input":
                node.input[at] = "own_input"
    for at, node in enumerate(
        [
            helper.make_node("Gather", ["input", "swap"], ["colours"], axis=1),
            helper.make_node("Mul", ["colours", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["own_input"]),
        ]
    ):
        graph.node.insert(at, node)
    if order is not None:
        for node in graph.node:
            node.output[:] = ["own_logits" if name == "logits" else name for name in node.output]
        graph.initializer.append(numpy_helper.from_array(np.array(order), "order"))
        graph.node.append(helper.make_node("Gather", ["own_logits", "order"], ["logits"], axis=1))
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(order)
    del proto.metadata_props[:]
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))
    return path
