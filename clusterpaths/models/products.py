"""What assignment needs of activations, computed inside the graph: products with centroids and axes, and squared lengths.

Belongs here: the nodes, behind a tap or in a graph of their own for activations from a cache. Either way ONNX Runtime runs
the same operators, whose results for a row do not depend on the rows beside it or on its place among them
(tests/clusterpaths/models/test_products.py): so an example is assigned alike wherever and whenever that is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from clusterpaths.records import CacheDtype

# ReduceSum peels a row's first values until its address is a multiple of 64 bytes: then their order depends on the row's place.
_ALIGNED = 16
_OPSET = 18
_PIECE = 2 << 20  # bytes of float32 rows in one run: they stay in a core's cache, and little memory is taken for them


Values = NDArray[np.floating[Any]]  # float32 or float64


@dataclass(frozen=True)
class Products:
    """Of n rows of a layer.

    Attributes:
        squares: (n,) squared lengths; inf or NaN where a row holds such a value.
        with_centroids: (n, k) products with each centroid; None where there are no centroids. All are in the dtype of the
            centroids, float32 without.
        with_axes: (n, d) products with each axis of the layer's map; None where there are no axes.
    """

    squares: Values
    with_centroids: Values | None
    with_axes: Values | None = None

    def first(self, n: int) -> Products:
        """Of the first n rows."""
        return Products(
            self.squares[:n],
            None if self.with_centroids is None else self.with_centroids[:n],
            None if self.with_axes is None else self.with_axes[:n],
        )


def add_products(
    model: onnx.ModelProto,
    layer: str,
    tensor: str,
    dtype: str,
    width: int,
    centroids: Values | None,
    axes: NDArray[Any] | None = None,
) -> list[str]:
    """Append nodes behind a layer's tensor (n, …) of `width` values per row in this dtype.

    Returns the names of their outputs: squared lengths (n,) and, where centroids (k, width) are given, products (n, k), both
    computed in the dtype of the centroids, float32 or float64; where axes (d, width) are given, too, products (n, d) in that
    dtype. Those are a product of their own: columns beside them could change the last bits of the others.

    Raises:
        ValueError: axes without centroids.
    """
    if axes is not None and centroids is None:
        raise ValueError("should be axes with centroids, got axes only")
    graph, prefix = model.graph, f"clusterpaths.{layer}"

    def node(operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(operator, inputs, [f"{prefix}_{name}"], **attributes))
        return f"{prefix}_{name}"

    def constant(name: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{prefix}_{name}"))
        return f"{prefix}_{name}"

    def reduce(operator: str, rows: str) -> str:
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        if opset >= (13 if operator == "ReduceSum" else 18):  # from there on axes are an input
            return node(operator, [rows, constant("axes", np.array([1], np.int64))], "squares", keepdims=0)
        return node(operator, [rows], "squares", axes=[1], keepdims=0)

    double = centroids is not None and centroids.dtype == np.float64
    wanted = "float64" if double else "float32"
    to = TensorProto.DOUBLE if double else TensorProto.FLOAT
    rows = tensor if dtype == wanted else node("Cast", [tensor], wanted, to=to)
    rows = node("Reshape", [rows, constant("shape", np.array([0, -1], np.int64))], "rows")
    if width % _ALIGNED == 0:  # a third less time than ReduceSumSquare
        outputs = [reduce("ReduceSum", node("Mul", [rows, rows], "product"))]
    else:
        outputs = [reduce("ReduceSumSquare", rows)]
    if centroids is not None:
        outputs.append(node("MatMul", [rows, constant("centroids", np.ascontiguousarray(centroids.T))], "products"))
    if axes is not None:
        columns = np.ascontiguousarray(axes.T, wanted)
        outputs.append(node("MatMul", [rows, constant("directions", columns)], "coordinates"))
    return outputs


class ProductSession:
    """The same for activations that are there already, on one thread of the CPU.

    Args:
        width: values per row.
        dtype: of the activations.
        centroids: (k, width) float32 or float64; None: squared lengths only.
        axes: (d, width) with centroids only; None: no products with axes.
    """

    def __init__(
        self, width: int, dtype: CacheDtype, centroids: Values | None, axes: NDArray[Any] | None = None
    ) -> None:
        self._rows = max(_PIECE // (4 * width), 1)
        kind = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
        graph = helper.make_graph([], "assign", [helper.make_tensor_value_info("x", kind, ["n", width])], [])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
        self._names = add_products(model, "x", "x", dtype, width, centroids, axes)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names)
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), one_thread_options(), providers=["CPUExecutionProvider"]
        )

    def run(self, rows: NDArray[Any]) -> Products:
        """Of (n, width) rows in the dtype of the session."""
        starts = range(0, max(len(rows), 1), self._rows)
        return join_products([self._run(rows[start : start + self._rows]) for start in starts])

    def _run(self, rows: NDArray[Any]) -> Products:
        return products_of(self._session.run(self._names, {"x": rows}))


def products_of(outputs: Sequence[Any]) -> Products:
    """The outputs that `add_products` named."""
    squares, centroids, axes, *_ = [*outputs, None, None]
    return Products(squares, centroids, axes)


def one_thread_options() -> onnxruntime.SessionOptions:
    """Options of a session for one of several worker threads: it runs on the caller's thread only."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # it holds a block of its own for each run; its time was not measurable
    return options


def join_products(pieces: Sequence[Products]) -> Products:
    """Of consecutive rows."""
    if len(pieces) == 1:
        return pieces[0]
    return Products(
        np.concatenate([piece.squares for piece in pieces]),
        _joined([piece.with_centroids for piece in pieces]),
        _joined([piece.with_axes for piece in pieces]),
    )


def _joined(pieces: Sequence[Values | None]) -> Values | None:
    found = [piece for piece in pieces if piece is not None]
    return np.concatenate(found) if found else None
