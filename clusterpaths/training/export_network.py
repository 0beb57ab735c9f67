"""From a trained network to the bytes of one ONNX file, checked by running it.

Belongs here: torch's exporter, cleaning up its output, and the metadata. Training is `train.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.errors import ModelError


def export_network(model: Any, size: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """The ONNX file's bytes: weights inside, float32 [batch, 3, height, width] in, opset 18, and the metadata."""
    import onnx
    import torch

    program = torch.onnx.export(
        model,
        (torch.zeros(2, 3, *size),),
        input_names=["input"],
        output_names=["logits"],
        opset_version=18,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    proto = program.model_proto
    strip_traces(proto)
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def strip_traces(proto: Any, *keep: str) -> None:
    """Remove the exporter's notes (stack traces with this machine's directories): they would change the file's hash.

    `keep`: keys of notes that stay.
    """
    graph = proto.graph
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info, graph):
        kept = {entry.key: entry.value for entry in item.metadata_props if entry.key in keep}
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
        for key, value in kept.items():
            item.metadata_props.add(key=key, value=value)


def check_export(content: bytes, x: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    """Run the file on x, (n, 3, height, width), as every later stage will.

    Raises:
        ModelError: its logits differ from torch's, (n, classes), by more than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (computed,) = session.run(["logits"], {"input": x})
    difference = float(np.abs(computed - logits).max())
    if not difference <= 1e-3 * max(1.0, float(np.abs(logits).max())):
        raise ModelError(
            f"The exported ONNX file does not compute the same as the trained network: logits differ by up to "
            f"{difference:.3g}, expected rounding only. Nothing was written. Please report this with the versions of "
            "torch, onnxscript and onnxruntime."
        )
