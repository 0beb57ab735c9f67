"""The nodes of a path model: nearest centroids behind a classifier's taps, in ONNX operators of the classifier's opset.

Belongs here: the arithmetic of `kmeans.nearest` as a graph, arranged for speed. What goes into the file besides is
`path_model.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clusterpaths.clustering.kmeans import comparable, first_alike
from clusterpaths.errors import ModelError
from clusterpaths.models.products import Values
from clusterpaths.records import Distance

LEAST_OPSET = 9  # Where
WIDE = 1024  # width of a layer from which the choice of operator for its products matters
FEW = 4  # images up to which one dot product at a time is quicker than a matrix product
INT64, FLOAT, DOUBLE, FLOAT16, BOOL = (
    onnx.TensorProto.INT64,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BOOL,
)


@dataclass(frozen=True)
class LayerCentroids:
    """One layer of a path.

    Attributes:
        tensor: the tap's name in the graph.
        centroids: (k, width) float32, in the order of the flattened tap.
        rounded: round the activations to float16 first, as the cache's were.
        shape: of one example, (channels, height, width), where a convolution made it; else empty.
    """

    tensor: str
    centroids: NDArray[np.float32]
    rounded: bool = False
    shape: tuple[int, ...] = ()


@dataclass
class GraphBuilder:
    """Adds nodes to a model's graph, each in the form that the model's opset knows.

    Raises:
        ModelError: an opset before 9.
    """

    proto: onnx.ModelProto
    opset: int = field(init=False)
    taken: set[str] = field(init=False)
    nodes: list[onnx.NodeProto] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.opset = next(entry.version for entry in self.proto.opset_import if entry.domain in ("", "ai.onnx"))
        if self.opset < LEAST_OPSET:
            raise ModelError(
                f"The model is of opset {self.opset}; a path model needs {LEAST_OPSET} or later. Export it again with a "
                "newer opset, run the flow with it, and take that set."
            )
        graph = self.proto.graph
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self.taken |= {item.name for group in (graph.input, graph.output, graph.initializer) for item in group}

    def free_name(self, wanted: str) -> str:
        """`wanted`, or with underscores appended until it is new."""
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = self.free_name("clusterpaths/constant")
        self.proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or self.free_name(f"clusterpaths/{operator.lower()}")
        node = onnx.helper.make_node(operator, list(inputs), [name], name, **attributes)
        (self.proto.graph.node if self.nodes is None else self.nodes).append(node)
        return name

    def branch(self, build: Any, argument: str, kind: int) -> onnx.GraphProto:
        """What build(argument) adds, as the body of an If, with the returned name as its output, of this type."""
        self.nodes = []
        name = build(argument)
        nodes, self.nodes = self.nodes, None
        value = onnx.helper.make_tensor_value_info(name, kind, [None, None])
        return onnx.helper.make_graph(nodes, self.free_name("clusterpaths/branch"), [], [value])

    def reduce(self, operator: str, value: str, axis: int, *, keep: bool = False, output: str | None = None) -> str:
        """Over one axis. Axes became an input with opset 13 (ReduceSum) and 18 (the others)."""
        if self.opset >= (13 if operator == "ReduceSum" else 18):
            return self.add(operator, value, self.constant([axis], np.int64), keepdims=int(keep), output=output)
        return self.add(operator, value, axes=[axis], keepdims=int(keep), output=output)

    def reshape(self, value: str, *shape: int) -> str:
        """0: as it was; -1: what is left."""
        return self.add("Reshape", value, self.constant(shape, np.int64))


def add_nearest(
    graph: GraphBuilder,
    layers: Sequence[LayerCentroids],
    distance: Distance,
    image: str,
    batch: int | None,
    names: tuple[str, str],
) -> None:
    """Output the cluster ids, int64 (n, layers), and distances, float32 (n, layers).

    They are those of `kmeans.assign`. Each layer has its sums of squares and products; what follows is small and done
    for all layers at once, padded to the largest k: an operator costs more than its arithmetic there. It is done in
    float64 where one of the layers needs that (`kmeans.comparable`).

    Args:
        graph: where to.
        layers: at least one.
        distance: of the set.
        image: the name of the graph's input.
        batch: its fixed size, or None.
        names: of the two outputs.
    """
    number, k = len(layers), max(len(layer.centroids) for layer in layers)
    wide = any(layer.centroids.shape[1] >= WIDE for layer in layers)
    few = _add_few(graph, image) if wide and batch is None else ""
    compared = [comparable(layer.centroids, distance) for layer in layers]
    double = any(centroids.dtype == np.float64 for centroids in compared)
    dtype = np.float64 if double else np.float32
    pairs = [
        _add_layer(graph, layer, centroids, few, bool(batch and batch <= FEW))
        for layer, centroids in zip(layers, compared, strict=True)
    ]
    if double:
        pairs = [(graph.add("Cast", sums, to=DOUBLE), graph.add("Cast", product, to=DOUBLE)) for sums, product in pairs]
    squares = graph.add("Concat", *(sums for sums, _ in pairs), axis=1)  # (n, layers)
    products = graph.add("Concat", *(product for _, product in pairs), axis=1)  # (n, sum of k)
    lengths = np.full((number, k), np.inf, dtype)  # padding is never the nearest
    places = np.zeros((number, k), np.int64)
    firsts = np.zeros((number, k), np.int64)
    start = 0
    for i, layer in enumerate(layers):
        own = len(layer.centroids)
        lengths[i, :own] = np.einsum("ij,ij->i", compared[i], compared[i])
        places[i, :own] = start + np.arange(own)
        firsts[i, :own] = first_alike(layer.centroids)
        start += own
    if start < number * k:
        products = graph.add("Gather", products, graph.constant(places.ravel(), np.int64), axis=1)
    products = graph.reshape(products, -1, number, k)
    zero, one, two = (graph.constant([value], dtype) for value in (0, 1, 2))
    directed = ""
    if distance == "cosine":
        directed = graph.add("Cast", squares, to=BOOL)
        norms = graph.add("Where", directed, graph.add("Sqrt", squares), one)
        products = graph.add("Div", products, graph.reshape(norms, -1, number, 1))
        squares = one
    gaps = graph.add("Sub", graph.constant(lengths, dtype), graph.add("Mul", products, two))  # (n, layers, k)
    euclidean = distance == "euclidean"
    alike = bool((firsts != np.arange(k))[np.isfinite(lengths)].any())
    last = names[0] if euclidean and not alike else None
    nearest = graph.add("ArgMin", gaps, axis=2, keepdims=0, output=last)  # (n, layers), the first of equals
    if alike:
        at = graph.add("Add", nearest, graph.constant(np.arange(number) * k, np.int64))
        nearest = graph.add(
            "Gather", graph.constant(firsts.ravel(), np.int64), at, axis=0, output=names[0] if euclidean else None
        )
    squared = graph.add("Max", graph.add("Add", graph.reduce("ReduceMin", gaps, 2), squares), zero)
    if euclidean:
        far = graph.add("Sqrt", squared, output=None if double else names[1])
    else:
        graph.add("Where", directed, nearest, graph.constant([0], np.int64), output=names[0])
        halved = graph.add("Div", squared, two)  # |u - c|^2 = 2 (1 - cos)
        far = graph.add("Where", directed, halved, one, output=None if double else names[1])
    if double:
        graph.add("Cast", far, to=FLOAT, output=names[1])


def _add_few(graph: GraphBuilder, image: str) -> str:
    """Name of a bool: whether the batch is of at most FEW images."""
    number = graph.add("Gather", graph.add("Shape", image), graph.constant(0, np.int64), axis=0)
    return graph.add("Less", number, graph.constant(FEW + 1, np.int64))


def _add_layer(
    graph: GraphBuilder,
    layer: LayerCentroids,
    centroids: Values,
    few: str,
    always_few: bool,
) -> tuple[str, str]:
    """Names of the sums of squares, (n, 1), and of the products with the centroids, (n, k), in their dtype."""
    rows, dtype = layer.tensor, centroids.dtype
    kind = DOUBLE if dtype == np.float64 else FLOAT
    if len(layer.shape) == 3:
        # ONNX Runtime computes convolutions in blocks of channels: moving channels last costs little more than a copy.
        rows = graph.add("Transpose", rows, perm=[0, 2, 3, 1])
        centroids = centroids.reshape(-1, *layer.shape).transpose(0, 2, 3, 1).reshape(len(centroids), -1)
    if layer.rounded:
        rows = graph.add("Cast", rows, to=FLOAT16)
    rows = graph.add("Flatten", graph.add("Cast", rows, to=kind), axis=1)  # (n, width)
    weights = graph.constant(centroids, dtype)

    def matrix(rows: str) -> str:
        # The few centroids times the rows: ONNX Runtime pads the second factor to 16.
        nothing = graph.constant([0], dtype)  # a bias is optional only from opset 11 on
        return graph.add("Transpose", graph.add("Gemm", weights, rows, nothing, transB=1))

    def dots(rows: str) -> str:
        return graph.add("Flatten", graph.add("MatMul", weights, graph.reshape(rows, 0, -1, 1)), axis=1)

    if centroids.shape[1] < WIDE:
        return graph.reduce("ReduceSum", graph.add("Mul", rows, rows), 1, keep=True), matrix(rows)
    # A row times itself, as a matrix product, is one pass: 250 us for 32 rows of 65,536, where Mul and ReduceSum take 560.
    single = graph.reshape(rows, 0, 1, -1)
    itself = graph.add("MatMul", single, graph.add("Transpose", single, perm=[0, 2, 1]))
    squares = graph.add("Flatten", itself, axis=1)
    if always_few or not few:
        return squares, (dots if always_few else matrix)(rows)
    products = graph.add(
        "If", few, then_branch=graph.branch(dots, rows, kind), else_branch=graph.branch(matrix, rows, kind)
    )
    return squares, products


def add_score(
    graph: GraphBuilder,
    means: Sequence[NDArray[np.float64]],
    spreads: Sequence[NDArray[np.float64]],
    names: Mapping[str, str],
) -> None:
    """Output names["ood_score"], float32 (n,), from path and distances: as `DistanceScale.score`."""
    starts = np.cumsum([0, *(len(mean) for mean in means[:-1])])
    at = graph.add("Add", names["path"], graph.constant(starts[None], np.int64))  # (n, layers) into all clusters
    mean = graph.add("Gather", graph.constant(np.concatenate(means)), at, axis=0)
    spread = graph.add("Gather", graph.constant(np.concatenate(spreads)), at, axis=0)
    standardised = graph.add("Div", graph.add("Sub", names["distances"], mean), spread)
    graph.reduce("ReduceMean", standardised, 1, output=names["ood_score"])
