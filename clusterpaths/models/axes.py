"""Which axis of a layer holds its channels: the graph says so, where a shape such as 128x128x96 does not.

Belongs here: following a tensor back to an operator that defines its axes. What is averaged is `reduce.py`.
"""

from __future__ import annotations

from collections import deque

import onnx

from clusterpaths.models.blocks import ACTIVATIONS
from clusterpaths.models.graph import CONVOLUTIONS, DataPath
from clusterpaths.records import Layout

# Operators that ONNX defines on (batch, channels, …).
_CHANNELS_FIRST = CONVOLUTIONS | {
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace",
    "SpaceToDepth",
}  # fmt: skip
_NORMS = {"LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}
# Operators whose output has the axes of their inputs.
_SAME_AXES = ACTIVATIONS | {
    "Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Pow", "Sqrt", "Neg", "Exp", "Log", "Erf", "Abs", "Reciprocal",
    "Softmax", "LogSoftmax", "Concat", "Split", "Slice", "Pad", "Resize", "Upsample", "Identity", "Cast", "Dropout", "Where",
    "ReduceMean", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearAdd", "QLinearMul", "QLinearConcat",
    "QLinearSigmoid", "QLinearLeakyRelu",
}  # fmt: skip


def channels_axis(path: DataPath, tensor: str, rank: int, layout: Layout) -> int:
    """The axis of channels of a tensor with `rank` axes, the batch included; 0: the graph does not say.

    Args:
        path: of the graph.
        tensor: a name in it.
        rank: number of axes.
        layout: of the images that go in.
    """
    if rank < 3:
        return 0
    waiting = deque(
        [(tensor, tuple(range(rank)))]
    )  # axes of the tensor asked for, as those of the one that is looked at
    seen = {tensor}
    while waiting:
        name, axes = waiting.popleft()
        node = path.producer.get(name)
        if node is None:
            found = (1 if layout == "NCHW" else rank - 1) if name in path.inputs and rank == 4 else 0
        else:
            found = _defined_by(path, node, rank)
        if found:
            return axes.index(found)
        if node is None:
            continue
        if node.op_type == "Transpose":
            order = next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), ())
            if len(order) != rank:
                continue
            axes = tuple(order[axis] for axis in axes)
        elif node.op_type not in _SAME_AXES:
            continue
        for before in path.live_inputs(node):
            if before not in seen:
                seen.add(before)
                waiting.append((before, axes))
    return 0


def _defined_by(path: DataPath, node: onnx.NodeProto, rank: int) -> int:
    """The axis of channels in the output of an operator that defines it, else 0."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type in _CHANNELS_FIRST:
        return rank - 1 if given.get("channels_last") else 1
    if node.op_type in _NORMS:
        return rank - 1 if given.get("axis", -1) in (-1, rank - 1) else 0
    return rank - 1 if path.multiplies_weights(node) else 0
