"""Reducing large layers inside the graph, so that the large tensor is never copied out.

Belongs here: the ways to reduce, what `auto` takes, and the nodes. Which layers are tapped is `layers.py`'s.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import onnx
from onnx import helper, numpy_helper

from clusterpaths.errors import ConfigError, ModelError
from clusterpaths.records import Reduce

Asked = Literal["auto", "none", "mean", "max", "gap", "cls", "tokens-mean"]
_WAYS: dict[str, Asked] = {way: way for way in get_args(Asked)}
LARGE = 262_144  # values per example from which auto averages


def parse_reduce(text: str, layers: tuple[str, ...]) -> dict[str, Asked]:
    """The reduction of each layer: "auto", "gap", "conv1=gap,conv2=none" (others auto), or "max,conv1=none".

    Raises:
        ConfigError: an unknown way, or a layer that is not tapped.
    """
    default: Asked = "auto"
    each: dict[str, Asked] = {}
    for part in text.split(","):
        layer, _, name = part.strip().rpartition("=")
        way = _WAYS.get(name)
        if way is None:
            raise ConfigError(
                f"--reduce should name a way for all layers or LAYER=WAY, got {part.strip()!r}. Ways: {', '.join(_WAYS)}."
            )
        if not layer:
            default = way
        elif layer not in layers:
            raise ConfigError(
                f"--reduce names the layer {layer!r}, which this run does not extract. Expected some of "
                f"{', '.join(layers)}. Correct --reduce, or add the layer with --layers."
            )
        else:
            each[layer] = way
    return {layer: each.get(layer, default) for layer in layers}


def resolve_reduce(layer: str, asked: Asked, shape: tuple[int, ...]) -> Reduce:
    """The reduction for a layer of this shape (of one example).

    Raises:
        ModelError: a way that this shape does not have.
    """
    if asked == "auto":
        if math.prod(shape) <= LARGE or len(shape) < 2:
            return "none"
        return "tokens-mean" if len(shape) == 2 else "gap"
    needed = {"gap": (3,), "cls": (2,), "tokens-mean": (2,), "mean": (2, 3, 4), "max": (2, 3, 4)}.get(asked)
    if needed and len(shape) not in needed:
        kind = {2: "tokens (n, width)", 3: "a feature map (channels, height, width)"}
        expected = " or ".join(kind.get(axes, f"{axes} axes") for axes in needed)
        raise ModelError(
            f"Layer {layer} cannot be reduced by {asked}: it has shape {'x'.join(map(str, shape)) or 'of one value'} per "
            f"example, expected {expected}. Use --reduce {layer}=none, or another way."
        )
    return asked


def reduced_axes(reduce: Reduce, shape: tuple[int, ...], channels: int = 0) -> list[int]:
    """Axes of the batched tensor to reduce: all but the batch and the channels.

    Args:
        reduce: the way.
        shape: of one example.
        channels: the axis of channels, as `axes.channels_axis` finds it. Where the graph does not say (0), that of tokens is
            the last one; that of a feature map the one that differs from the other two, (c, h, h) or (h, h, c), else the first.
    """
    axes = list(range(1, len(shape) + 1))
    if reduce == "none" or not shape:
        return []
    if not channels:
        last = len(shape) == 2 or (len(shape) == 3 and shape[0] == shape[1] != shape[2])
        channels = len(shape) if last else 1
    axes.remove(channels)
    return axes


def add_reduction(
    model: onnx.ModelProto, tensor: str, reduce: Reduce, shape: tuple[int, ...], channels: int = 0
) -> str:
    """Append nodes that reduce `tensor`, of this shape without the batch; returns the new tensor's name.

    `channels` as in `reduced_axes`.
    """
    name = f"{tensor}__{reduce}"
    if any(name in node.output for node in model.graph.node):
        return name
    axes = reduced_axes(reduce, shape, channels)
    if reduce == "cls":
        model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), f"{name}__first"))
        model.graph.node.append(helper.make_node("Gather", [tensor, f"{name}__first"], [name], axis=axes[0]))
        return name
    operator = "ReduceMax" if reduce == "max" else "ReduceMean"
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset >= 18:  # from here on axes are an input
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{name}__axes"))
        model.graph.node.append(helper.make_node(operator, [tensor, f"{name}__axes"], [name], keepdims=0))
    else:
        model.graph.node.append(helper.make_node(operator, [tensor], [name], axes=axes, keepdims=0))
    return name
