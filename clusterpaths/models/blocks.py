"""The blocks of a graph: residual sums, concatenations, inverted residuals, the layers of a transformer.

Belongs here: grouping steps of the data path into blocks. Which of them are proposed is `layers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from clusterpaths.models.graph import CONVOLUTIONS, DataPath, Step
from clusterpaths.models.names import common_scope, is_within, scope_of

ACTIVATIONS = {
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Mish", "Tanh",
    "Clip", "Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Softplus", "Softsign", "ThresholdedRelu",
}  # fmt: skip
# Out of these an exporter builds an activation that its opset does not have: SiLU, GELU, Hardswish.
_PARTS = ACTIVATIONS | {"Add", "Div", "Erf", "Exp", "Max", "Min", "Mul", "Neg", "Pow", "Sub", "Cast"}
_JOINS = {"Add", "Sum", "Concat", "QLinearAdd", "QLinearConcat", "FusedConv"}  # a fused convolution may add a branch
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")
# A transformer layer adds twice, a Conformer or a cross-attending one up to four times; more is a module of several blocks.
_MOST_JOINS = 4


@dataclass(frozen=True)
class Block:
    """Steps first … last, both included; `scope` is their module, empty where the graph has none."""

    first: int
    last: int
    scope: str


def find_blocks(path: DataPath) -> list[Block]:
    """The outermost blocks in graph order.

    A block is the part between two tensors that carry all of the image, if branches with weights meet in it
    by a sum or a concatenation. The scope names show its extent, and which of its neighbours without branches
    (MobileNet's blocks with a stride) are of its kind. Without them each sum is a block, and attention with the
    block of dense layers behind it one.
    """
    steps, scopes = path.steps, [scope_of(step.last) for step in path.steps]
    blocks: list[Block] = []
    at = 0
    while at < len(steps):
        if is_joined(path, steps[at]):
            blocks.append(_scoped(path, scopes, at, blocks) or Block(at, _behind_activation(path, at), ""))
            at = blocks[-1].last
        at += 1
    return _with_siblings(path, scopes, _merge_attention(path, blocks))


def is_joined(path: DataPath, step: Step) -> bool:
    """Whether branches, one with weights at least, meet in this step by a sum or a concatenation."""
    if step.last.op_type not in _JOINS or len(path.live_inputs(step.last)) < 2:
        return False
    return any(path.is_weighted(node) for node in step.nodes)


def is_activation(step: Step) -> bool:
    """Whether a step is one activation, or element-wise nodes that make one (x * sigmoid(x))."""
    if len(step.nodes) == 1:
        return step.last.op_type in ACTIVATIONS
    kinds = {node.op_type for node in step.nodes}
    return kinds <= _PARTS and bool(kinds & {*ACTIVATIONS, "Erf", "Exp"})


def _behind_activation(path: DataPath, at: int) -> int:
    """The index of the activation behind a step, else the step's own; nodes of 8-bit graphs in between are skipped."""
    end, following = at, at + 1
    while following < len(path.steps):
        step = path.steps[following]
        if is_activation(step):
            return following
        if len(step.nodes) > 1 or step.last.op_type not in _QUANTISED:
            break
        if step.last.op_type == _QUANTISED[1]:
            end = following  # a value in float again, as the next layer sees it
        following += 1
    return end


def _scoped(path: DataPath, scopes: Sequence[str], at: int, before: Sequence[Block]) -> Block | None:
    """The block of the module in which the branches of step `at` meet; None where no module has known bounds."""
    scope = scopes[at]
    if not scope:
        return None
    inside = [node for node in path.steps[at].nodes[:-1] if is_within(scope_of(node), scope)]
    first = last = at
    while last + 1 < len(scopes) and is_within(scopes[last + 1], scope):
        last += 1
    lowest = before[-1].last + 1 if before else 0
    while first > lowest and is_within(scopes[first - 1], scope):
        first -= 1
    joins = sum(is_joined(path, step) for step in path.steps[at : last + 1])
    if not inside or joins > _MOST_JOINS:  # Keras: the sum is a layer of its own; or the scope is the entire network
        return None
    return Block(first, _behind_activation(path, last), scope)


def _merge_attention(path: DataPath, blocks: list[Block]) -> list[Block]:
    """One block of a sum with attention and the sum with dense layers behind it, where no module has both."""
    merged: list[Block] = []
    for block in blocks:
        if merged and _is_attention(path, merged[-1]) and _is_dense(path, block):
            scope = common_scope(merged[-1].scope, block.scope)
            block = Block(merged[-1].first, block.last, scope)
            merged.pop()
        merged.append(block)
    return merged


def _nodes(path: DataPath, block: Block) -> list[onnx.NodeProto]:
    return [node for step in path.steps[block.first : block.last + 1] for node in step.nodes]


def _joins(path: DataPath, block: Block) -> int:
    return sum(is_joined(path, step) for step in path.steps[block.first : block.last + 1])


def _is_attention(path: DataPath, block: Block) -> bool:
    return _joins(path, block) == 1 and any(node.op_type == "Softmax" for node in _nodes(path, block))


def _is_dense(path: DataPath, block: Block) -> bool:
    kinds = {node.op_type for node in _nodes(path, block)}
    return _joins(path, block) == 1 and not kinds & {"Softmax", *CONVOLUTIONS}


def _with_siblings(path: DataPath, scopes: Sequence[str], blocks: list[Block]) -> list[Block]:
    """And modules whose name differs from a block's in numbers only, of two layers with weights at least."""
    patterns = {(block.scope.count(".") + 1, _pattern(block.scope)) for block in blocks if block.scope}
    inside = {at for block in blocks for at in range(block.first, block.last + 1)}
    found = list(blocks)
    at = 0
    while at < len(scopes):
        parts = scopes[at].split(".")
        prefixes = [".".join(parts[:depth]) for depth, _ in patterns if depth <= len(parts)]
        scope = next((p for p in prefixes if (p.count(".") + 1, _pattern(p)) in patterns), None)
        if at in inside or scope is None:
            at += 1
            continue
        last = at
        while last + 1 < len(scopes) and last + 1 not in inside and is_within(scopes[last + 1], scope):
            last += 1
        if sum(path.is_weighted(node) for step in path.steps[at : last + 1] for node in step.nodes) >= 2:
            found.append(Block(at, last, scope))
        at = last + 1
    return sorted(found, key=lambda block: block.first)


def _pattern(scope: str) -> str:
    return re.sub(r"\d+", "#", scope)
