"""Which tensors of a graph are worth a look, and what they are called.

Belongs here: reading the graph. A tap is the activation after a Conv or Gemm/MatMul: its name is
conv1, conv2 … and fc1, fc2 … in graph order, whatever the exporter called the tensor.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import onnx

from clusterpaths.errors import ModelError

_CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"}
_DENSE = {"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"}
# What may stand between the operator and its activation without being a layer of its own.
_PASS_THROUGH = {"Add", "BatchNormalization", "Dropout", "Identity"}
_ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh",
    "Clip", "Gelu", "Softplus", "Softsign", "ThresholdedRelu",
}  # fmt: skip


@dataclass(frozen=True)
class FoundTap:
    """A tensor and the layer name it gets."""

    layer: str
    tensor: str
    operator: str


def find_taps(graph: onnx.GraphProto, logits: str | None) -> list[FoundTap]:
    """The activation after each Conv and Gemm/MatMul before the logits, in graph order."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    constants = {t.name for t in graph.initializer} | {n.output[0] for n in graph.node if n.op_type == "Constant"}
    taps: list[FoundTap] = []
    seen: dict[str, int] = {"conv": 0, "fc": 0}
    for node in graph.node:
        if node.op_type in _CONVOLUTIONS:
            prefix = "conv"
        elif node.op_type in _DENSE and any(name in constants for name in node.input):
            prefix = "fc"  # a MatMul of two activations (attention) is no layer
        else:
            continue
        tensor = _activation(node.output[0], consumers, constants)
        if tensor is None or _leads_only_to(tensor, logits, consumers):
            continue  # the classifier's own last layer
        seen[prefix] += 1
        taps.append(FoundTap(f"{prefix}{seen[prefix]}", tensor, node.op_type))
    return taps


def _activation(tensor: str, consumers: dict[str, list[onnx.NodeProto]], constants: set[str]) -> str:
    """Follow one consumer at a time to the activation; where there is none, the layer's own output."""
    end = tensor
    while len(nodes := consumers.get(end, [])) == 1:
        node = nodes[0]
        if node.op_type in _ACTIVATIONS:
            return str(node.output[0])
        is_bias = node.op_type == "Add" and any(name in constants for name in node.input)
        if node.op_type not in _PASS_THROUGH or (node.op_type == "Add" and not is_bias):
            break
        end = node.output[0]
    return end


def _leads_only_to(tensor: str, logits: str | None, consumers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether nothing but element-wise or shape operators lies between this tensor and the logits."""
    tails = {"Softmax", "LogSoftmax", "Sigmoid", "Flatten", "Reshape", "Squeeze", "Identity", "Cast", "Add", "Dropout"}
    while tensor != logits:
        nodes = consumers.get(tensor, [])
        if len(nodes) != 1 or nodes[0].op_type not in tails:
            return False
        tensor = nodes[0].output[0]
    return True


def find_logits(graph: onnx.GraphProto) -> str | None:
    """The output that holds class scores: the first of shape (batch, classes); None where there is none.

    In an instrumented model that is the original output: exporters put added outputs behind it.
    """
    for output in graph.output:
        shape = output.type.tensor_type.shape
        if output.type.tensor_type.HasField("shape") and len(shape.dim) == 2:
            return str(output.name)
    return None


def choose_taps(found: list[FoundTap], graph: onnx.GraphProto, layers: tuple[str, ...] | None) -> list[FoundTap]:
    """The taps a run looks at: those asked for; else those the model already puts out; else all.

    Raises:
        ModelError: an unknown layer (with the nearest names), or a model without any layer to tap.
    """
    if not found:
        raise ModelError(
            "The model has no layer to look into: no Conv, Gemm or MatMul before its output. "
            "Expected a neural network for images, such as a CNN exported from PyTorch."
        )
    by_name = {tap.layer: tap for tap in found} | {tap.tensor: tap for tap in found}
    if layers is not None:
        for layer in layers:
            if layer not in by_name:
                near = difflib.get_close_matches(layer, by_name, n=3)
                raise ModelError(
                    f"The model has no layer {layer!r}. "
                    + (f"Did you mean {' or '.join(near)}? " if near else "")
                    + f"Its layers are {', '.join(tap.layer for tap in found)}. Name some of these with --layers."
                )
        wanted = {by_name[layer] for layer in layers}
        return [tap for tap in found if tap in wanted]
    outputs = {output.name for output in graph.output}
    return [tap for tap in found if tap.tensor in outputs] or found
