"""How the image travels through a graph: what depends on it, and where the graph is one tensor wide.

Belongs here: reading an ONNX graph's edges. Which tensors are layers is `layers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

# Those of com.microsoft are written by ONNX Runtime's optimizer: an operator with its activation, bias or sum inside.
CONVOLUTIONS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"}
DENSE = {
    "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "FusedGemm", "FusedMatMul", "FusedMatMulActivation",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits", "QGemm",
}  # fmt: skip
INTEGER = {"ConvInteger", "MatMulInteger"}  # their int32 output is cast and scaled to a value
_FACTORS = {"QLinearMatMul": (0, 3), "QGemm": (0, 3)}  # inputs that are multiplied, where they are not the first two
_ABOUT_SHAPES = {"Shape", "Size"}  # their output depends on the image's size, not on its pixels


@dataclass(frozen=True)
class Step:
    """From one tensor that carries all of the image to the next such tensor: one node, or branches that meet again."""

    start: str
    end: str
    nodes: tuple[onnx.NodeProto, ...]

    @property
    def last(self) -> onnx.NodeProto:
        """The node with the output `end`: where branches meet."""
        return self.nodes[-1]


class DataPath:
    """The part of a graph between the image and its scores.

    Attributes:
        graph: as given; not changed.
        target: logits or, where there are none, the last output in the graph; None: no output depends
            on the image.
        live: tensors that depend on the image's pixels. All others are constants for a layer.
        producer: tensor -> the node that outputs it.
        position: tensor -> that node's index in the graph, which ONNX requires in topological order.
    """

    def __init__(self, graph: onnx.GraphProto, logits: str | None) -> None:
        self.graph = graph
        weights = {tensor.name for tensor in graph.initializer}
        self.inputs = [entry.name for entry in graph.input if entry.name not in weights]
        self.live = set(self.inputs)
        self.producer: dict[str, onnx.NodeProto] = {}
        self.position: dict[str, int] = {}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for index, node in enumerate(graph.node):
            names = set(read_by(node))
            for name in names:
                self._consumers.setdefault(name, []).append(node)
            for name in node.output:
                self.producer[name], self.position[name] = node, index
            if node.op_type not in _ABOUT_SHAPES and names & self.live:
                # of dynamic quantisation the scale and the zero point are parameters, not the image
                carrying = node.output[:1] if node.op_type == "DynamicQuantizeLinear" else node.output
                self.live.update(name for name in carrying if name)
        outputs = [entry.name for entry in graph.output if entry.name in self.live]
        self.target = logits or max(outputs, key=lambda name: self.position.get(name, -1), default=None)

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """The nodes that read this tensor, without those that only read its shape."""
        return [node for node in self._consumers.get(tensor, []) if node.op_type not in _ABOUT_SHAPES]

    def is_weighted(self, node: onnx.NodeProto) -> bool:
        """A convolution, or a product with weights; a product of two activations (attention) is none."""
        if node.op_type in CONVOLUTIONS:
            return True
        return node.op_type in DENSE and any(name and name not in self.live for name in _factors(node))

    def multiplies_weights(self, node: onnx.NodeProto) -> bool:
        """Whether it is a product of rows with weights behind them: its output's last axis has one value per unit."""
        return node.op_type in DENSE and [name in self.live for name in _factors(node)] == [True, False]

    def live_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Its inputs that depend on the image, each once."""
        return [name for name in dict.fromkeys(read_by(node)) if name in self.live]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps from the image to the target.

        A tensor ends a step if no way from the image to the target goes past it. Every node is then before or
        behind it, so that one walk in graph order, counting the tensors still to be read, finds them all.
        """
        needed = self._needed()
        nodes = [node for node in self.graph.node if self._on_path(node, needed)]
        readers = dict.fromkeys(needed, 0)
        for node in nodes:
            for name in self.live_inputs(node):
                readers[name] += 1
        open_tensors = {name for name in self.inputs if name in needed}
        start = next(iter(open_tensors)) if len(open_tensors) == 1 else ""
        steps: list[Step] = []
        between: list[onnx.NodeProto] = []
        for node in nodes:
            between.append(node)
            for name in self.live_inputs(node):
                readers[name] -= 1
                if readers[name] == 0:
                    open_tensors.discard(name)
            open_tensors.update(name for name in node.output if name in needed)
            if len(open_tensors) == 1:
                end = next(iter(open_tensors))
                if end in node.output:
                    steps.append(Step(start, end, tuple(between)))
                    start, between = end, []
        return tuple(steps)

    def _needed(self) -> set[str]:
        """Live tensors that the target depends on, itself included."""
        if self.target is None:
            return set()
        needed = {self.target}
        for node in reversed(self.graph.node):
            if self._on_path(node, needed):
                needed.update(self.live_inputs(node))
        return needed & self.live

    def _on_path(self, node: onnx.NodeProto, needed: set[str]) -> bool:
        return node.op_type not in _ABOUT_SHAPES and any(name in needed and name in self.live for name in node.output)


def _factors(node: onnx.NodeProto) -> list[str]:
    return [node.input[at] for at in _FACTORS.get(node.op_type, (0, 1)) if at < len(node.input)]


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, also from within its subgraphs (If, Loop)."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            made = {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                yield from (name for name in read_by(inner) if name not in made)
            yield from (output.name for output in graph.output if output.name not in made)
