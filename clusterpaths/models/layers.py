"""Which tensors of a graph are candidates for layers, their names, and which of them a run extracts.

Belongs here: from a graph to named layers, and from `--layers` to some of them. In a plain chain a layer is
the activation behind a Conv or Gemm/MatMul: conv1, conv2 … fc1, fc2 …. In a graph of blocks the blocks' outputs and
the last pooled features are proposed, under the graph's own names; conv and fc layers can still be named.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from clusterpaths.errors import ModelError
from clusterpaths.models.blocks import ACTIVATIONS, Block, find_blocks, is_activation
from clusterpaths.models.graph import CONVOLUTIONS, INTEGER, DataPath, Step, read_by
from clusterpaths.models.names import is_within, scope_of, shorten, unique_names

AUTO = "auto"
MOST = 6  # that auto takes
FEWEST_BLOCKS = 2  # a chain with a single sum is not a stack of blocks

Kind = Literal["layer", "block", "pooled", "inner", "outside", "tensor"]
PROPOSED: tuple[Kind, ...] = ("layer", "block", "pooled")

# Operators between a layer's operator and its activation that are no layers themselves.
_PASS_THROUGH = {"Add", "BatchNormalization", "Dropout", "Identity", "QuantizeLinear", "DequantizeLinear"}
_SCALING = {"Cast", "Mul"}  # of an integer layer's sums
_TO_BYTES = {"QuantizeLinear", "DynamicQuantizeLinear"}
_POOLS = {"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool", "ReduceMean", "ReduceMax"}
_RESHAPES = {
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear",
    "DynamicQuantizeLinear",
}  # fmt: skip
_TAILS = _RESHAPES | {"Softmax", "LogSoftmax", "Log", "Sigmoid", "HardSigmoid", "Add", "Sub", "Mul", "Div", "Transpose"}


@dataclass(frozen=True)
class FoundLayer:
    """A tensor and the layer name it gets.

    Attributes:
        name: safe as the name of a directory, unique in its model also ignoring letter case.
        tensor: its name in the graph.
        operator: Conv, Gemm … for a layer of weights; else the operator with this output.
        depth: index in the graph of the node that outputs the tensor.
        kind: layer (of a plain chain), block, pooled (the last features before the classifier), inner (a layer
            of weights in a block), outside (one before or behind the blocks), tensor (requested by its name only).
    """

    name: str
    tensor: str
    operator: str
    depth: int
    kind: Kind


def find_layers(model: onnx.ModelProto, logits: str | None) -> list[FoundLayer]:
    """All layers in graph order; never the logits, nor what leads to nothing but them element by element."""
    path = DataPath(model.graph, logits)
    weighted = _weighted_layers(path, logits)
    blocks = find_blocks(path)
    if len(blocks) < FEWEST_BLOCKS:
        return weighted
    usable = [block for block in blocks if not _leads_only_to(path, path.steps[block.last].end, logits)]
    outputs = [_last_value(path, block) for block in usable]
    found = [
        FoundLayer("", step.end, step.last.op_type, path.position[step.end], "block") for step in outputs
    ]  # fmt: skip
    names = _block_names(path, usable)
    if (pooled := _pooled(path, blocks[-1], logits)) is not None:
        found.append(pooled)
        names.append(pooled.name)
    found = [replace(layer, name=name) for layer, name in zip(found, unique_names(names), strict=True)]
    taken = {layer.tensor for layer in found}
    rest = [layer for layer in weighted if layer.tensor not in taken]
    inside = {
        node.output[0] for block in blocks for step in path.steps[block.first : block.last + 1] for node in step.nodes
    }
    rest_names = unique_names([layer.name for layer in rest], [layer.name for layer in found])
    found += [
        replace(layer, name=name, kind="inner" if layer.tensor in inside else "outside")
        for layer, name in zip(rest, rest_names, strict=True)
    ]
    return sorted(found, key=lambda layer: layer.depth)


def _weighted_layers(path: DataPath, logits: str | None) -> list[FoundLayer]:
    """The activation behind each Conv and Gemm/MatMul before the logits, named by its number."""
    ends = {step.start: step for step in path.steps}
    layers: list[FoundLayer] = []
    seen = {"conv": 0, "fc": 0}
    for node in path.graph.node:
        if not path.is_weighted(node) or node.output[0] not in path.live:
            continue
        tensor = _activation(path, node)
        if (step := ends.get(tensor)) is not None and len(step.nodes) > 1 and is_activation(step):
            tensor = step.end  # an activation that the exporter made of several nodes
        if _leads_only_to(path, tensor, logits):
            continue  # the classifier's own last layer
        prefix = "conv" if node.op_type in CONVOLUTIONS else "fc"
        seen[prefix] += 1
        layers.append(FoundLayer(f"{prefix}{seen[prefix]}", tensor, node.op_type, path.position[tensor], "layer"))
    return layers


def _activation(path: DataPath, node: onnx.NodeProto) -> str:
    """Follow one consumer at a time to a layer's activation; where there is none, the layer's own output.

    The int32 sums of ConvInteger and MatMulInteger are first cast and scaled: no activation lies before that.
    """
    passing = _PASS_THROUGH | (_SCALING if node.op_type in INTEGER else set())
    end = current = str(node.output[0])
    while len(nodes := path.consumers(current)) == 1:
        node = nodes[0]
        if node.op_type in ACTIVATIONS:
            return str(node.output[0])
        if node.op_type not in passing or len(path.live_inputs(node)) > 1:
            break
        current = node.output[0]
        if node.op_type != "QuantizeLinear":  # in float again, as the next layer sees it
            end = current
    return end


def _leads_only_to(path: DataPath, tensor: str, logits: str | None) -> bool:
    """Whether nothing but element-wise or shape operators lies between this tensor and the logits."""
    if logits is None:
        return False
    while tensor != logits:
        nodes = path.consumers(tensor)
        if len(nodes) != 1 or nodes[0].op_type not in _TAILS or len(path.live_inputs(nodes[0])) > 1:
            return False
        tensor = nodes[0].output[0]
    return True


def _last_value(path: DataPath, block: Block) -> Step:
    """The block's last step, but for a quantisation of its output for the next block: bytes are no values."""
    at = block.last
    while at > block.first and path.steps[at].last.op_type in _TO_BYTES:
        at -= 1
    return path.steps[at]


def _block_names(path: DataPath, blocks: Sequence[Block]) -> list[str]:
    """The blocks' own modules, without what they share; where the graph has no names, block1, block2 …."""
    scopes = []
    for block in blocks:
        behind = scope_of(path.steps[block.last].last)
        scopes.append(block.scope or behind)
    if not all(scopes) or len(set(scopes)) < len(scopes):
        return [f"block{number}" for number in range(1, len(blocks) + 1)]
    return shorten(scopes)


def _pooled(path: DataPath, last: Block, logits: str | None) -> FoundLayer | None:
    """The last pooled features: the output of the last pooling behind the blocks, else the classifier's input."""
    behind = path.steps[last.last + 1 :]
    pools = [step for step in behind if len(step.nodes) == 1 and step.last.op_type in _POOLS]
    tensor = pools[-1].end if pools else _classifier_input(path, logits)
    node = path.producer.get(tensor) if tensor is not None else None
    if tensor is None or node is None or path.position[tensor] <= path.position[path.steps[last.last].end]:
        return None
    if tensor == logits or _leads_only_to(path, tensor, logits):
        return None
    name = scope_of(node).rpartition(".")[2]
    if not name[:1].isalpha() or is_within(scope_of(node), last.scope or "-"):
        name = "features"
    return FoundLayer(name, tensor, node.op_type, path.position[tensor], "pooled")


def _classifier_input(path: DataPath, logits: str | None) -> str | None:
    """What the last layer of weights reads, before it was flattened."""
    if logits is None:
        return None
    weighted = [node for step in path.steps for node in step.nodes if path.is_weighted(node)]
    tensor = path.live_inputs(weighted[-1])[0] if weighted else None
    while tensor in path.producer and path.producer[tensor].op_type in _RESHAPES:
        tensor = path.live_inputs(path.producer[tensor])[0]
    return tensor


def choose_layers(
    found: list[FoundLayer],
    model: onnx.ModelProto,
    asked: tuple[str, ...] | None,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
) -> list[FoundLayer]:
    """The layers that a run extracts, in graph order, each once.

    Args:
        found: what `find_layers` gave.
        model: the same model.
        asked: any mixture of "auto", "auto:N", names, patterns (conv*, layer?.1) and tensor names. None: the
            outputs of the model beside its logits, where a layer is among them, else "auto".
        shapes: tensor -> shape of one example, as `inferred_shapes` gives them. `auto` skips layers of a single
            value, and layers without one row per image (None).

    Raises:
        ModelError: an unknown layer (with the nearest names), a pattern without a match, auto:0, a tensor that does not
            depend on the image, or a model without any layer to tap.
    """
    if asked is None:
        own = _own_outputs(found, model)
        if own:
            return own
    if not found and (asked is None or any(_is_auto(text) for text in asked)):
        raise ModelError(
            "The model has no layer to extract: no Conv, Gemm or MatMul before its output. "
            "Expected a neural network for images, such as a CNN exported from PyTorch."
        )
    chosen: dict[str, FoundLayer] = {}
    for text in asked if asked is not None else (AUTO,):
        for layer in _resolve(text, found, model, shapes or {}, [*found, *chosen.values()]):
            chosen.setdefault(layer.tensor, layer)
    return sorted(chosen.values(), key=lambda layer: (layer.depth, layer.tensor))


def _own_outputs(found: list[FoundLayer], model: onnx.ModelProto) -> list[FoundLayer]:
    """Layers that were added as outputs: the graph goes on behind one of them at least.

    Where it does not, they are what the graph is for, such as a detector's heads: not layers over its depth.
    """
    outputs = {output.name for output in model.graph.output}
    read = {name for node in model.graph.node for name in read_by(node)}
    own = [layer for layer in found if layer.tensor in outputs]
    return own if any(layer.tensor in read for layer in own) else []


def _is_auto(text: str) -> bool:
    return text == AUTO or text.startswith(f"{AUTO}:")


def _resolve(
    text: str,
    found: list[FoundLayer],
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...] | None],
    named: list[FoundLayer],
) -> list[FoundLayer]:
    """The layers named by one word of --layers."""
    if same := [layer for layer in found if text in (layer.name, layer.tensor)]:
        return [next((layer for layer in same if layer.name == text), same[0])]
    if _is_auto(text):
        return propose_layers(found, how_many(text), shapes)
    tensors = {name: index for index, node in enumerate(model.graph.node) for name in node.output if name}
    if text in tensors:
        if text not in DataPath(model.graph, None).live:
            raise ModelError(
                f"The tensor {text!r} does not depend on the image: it is the same for all of them. "
                "Expected an activation. Leave it out of --layers; `clusterpaths inspect` lists the model's layers."
            )
        name = unique_names([text], [layer.name for layer in named])[0]
        return [FoundLayer(name, text, model.graph.node[tensors[text]].op_type, tensors[text], "tensor")]
    names = [layer.name for layer in found]
    if any(sign in text for sign in "*?["):
        if matching := [layer for layer in found if fnmatch.fnmatchcase(layer.name, text)]:
            return matching
        raise ModelError(f"No layer of the model matches the pattern {text!r}. {_listed(found)} Change it in --layers.")
    near = difflib.get_close_matches(text, dict.fromkeys([*names, *(layer.tensor for layer in found), *tensors]), n=3)
    raise ModelError(
        f"The model has no layer {text!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + f"{_listed(found)} Name some of these with --layers."
    )


def _listed(found: list[FoundLayer], most: int = 20) -> str:
    """The proposed layers first, limited to a readable number."""
    if not found:
        return "It has no layers of its own; any tensor of its graph may be named."
    names = [layer.name for layer in found if layer.kind in PROPOSED]
    names += [layer.name for layer in found if layer.kind not in PROPOSED]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"Its layers are {', '.join(names[:most])}{more}."


def how_many(text: str) -> int:
    """The number of auto:N.

    Raises:
        ModelError: it is none.
    """
    count = text.removeprefix(AUTO).removeprefix(":")
    if text == AUTO:
        return MOST
    if not re.fullmatch(r"[1-9]\d*", count):
        raise ModelError(
            f"--layers {text} should be auto:N with a number N of layers >= 1, got {count!r}. Try auto:{MOST}."
        )
    return int(count)


def propose_layers(
    found: Sequence[FoundLayer], most: int = MOST, shapes: Mapping[str, tuple[int, ...] | None] | None = None
) -> list[FoundLayer]:
    """At most `most` layers: the last pooled features, and block outputs (plain chains: layers) evenly over the depth.

    The last one is always among them. Layers of a single value, or without one row per image,
    are skipped.
    """
    known = shapes or {}
    usable = [layer for layer in found if _is_usable(known.get(layer.tensor, (2,)))]
    pooled = [layer for layer in usable if layer.kind == "pooled"]
    spread = [layer for layer in usable if layer.kind in ("layer", "block")]
    count = min(most - len(pooled), len(spread))
    # the middle of each of `count` equal parts would leave out the end: the last of each is taken
    picked = [spread[((i + 1) * len(spread) * 2 + count) // (2 * count) - 1] for i in range(count)]
    return sorted([*picked, *pooled], key=lambda layer: layer.depth)


def _is_usable(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and math.prod(shape) > 1
