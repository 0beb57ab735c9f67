"""Activations as arrays in memory, or memory-mapped: checked, read in blocks, and sampled while they arrive.

Belongs here: what `ClusterPaths` accepts, and rows as k-means reads them. Blocks have the sizes of a cache's
(`cache/rows.py`), so that both give the same centroids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from clusterpaths.cache.fit_sample import draw_ids
from clusterpaths.cache.rows import block_rows, to_float32
from clusterpaths.clustering.reading import Where
from clusterpaths.common.text import did_you_mean
from clusterpaths.errors import ArraysError

SINGLE = "layer"  # the name of the layer where one array is given


def check_layers(X: Any) -> dict[str, NDArray[Any]]:
    """Layer -> (n, …) array of real numbers, of a dict of arrays or of one array; n is the same for all, and at least 1.

    float16 and float32 stay as they are; others become float32 where they are read. Values are checked when they are read.

    Raises:
        ArraysError: no such arrays.
    """
    if not isinstance(X, Mapping) or issparse(X):  # one kind of scipy's sparse matrices is a dict
        return {SINGLE: _check_array(SINGLE, X)}
    if not X or not all(isinstance(layer, str) and layer for layer in X):
        raise ArraysError(
            f"X should be a dict of layer names to arrays, got the keys {list(X)!r}. "
            "Expected such as {'layer3': X3, 'avgpool': X4}, or one array."
        )
    found = {layer: _check_array(layer, values) for layer, values in X.items()}
    counts = {layer: len(values) for layer, values in found.items()}
    if len(set(counts.values())) > 1:
        raise ArraysError(
            "Every layer should have the activations of the same examples, but the arrays differ in length: "
            f"{', '.join(f'{layer} {n:,}' for layer, n in counts.items())}. Give one row per example in each, in one order."
        )
    return found


def _check_array(layer: str, values: Any) -> NDArray[Any]:
    if issparse(values):
        raise ArraysError(f"{layer} is a sparse matrix. Expected a dense array; convert it with its toarray().")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a GPU, or with gradients
        raise ArraysError(
            f"{layer} cannot be read as an array: {error} Expected an array of numbers (examples, …); of a tensor of "
            "PyTorch, its detach().cpu()."
        ) from error
    if array.dtype.kind == "c":
        raise ArraysError(f"{layer} has the dtype {array.dtype}. Complex data not supported: expected real numbers.")
    if array.dtype.kind not in "fiub":
        raise ArraysError(
            f"{layer} has the dtype {array.dtype}. Expected real numbers, such as float32; convert it with astype, and look "
            "for rows of different lengths, texts or missing values in it."
        )
    if array.ndim < 2:
        raise ArraysError(
            f"{layer} has the shape {array.shape}. Expected 2 or more dimensions: examples first, then the values of each. "
            "Reshape your data: with reshape(-1, 1) if every example has one value, with reshape(1, -1) if it is one example."
        )
    if 0 in array.shape:
        what = "0 sample(s)" if not len(array) else "0 feature(s)"
        raise ArraysError(f"{layer} has {what} (shape={array.shape}) while a minimum of 1 is required.")
    return array


def select_layers(X: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """The arrays of these layers, of which each example has this shape; other layers are ignored.

    Raises:
        ArraysError: a layer is missing, or has another shape.
    """
    for layer, shape in shapes.items():
        if layer not in X:
            raise ArraysError(
                f"X has no layer {layer!r}, on which this estimator was fitted; it has {', '.join(X)}."
                f"{did_you_mean(layer, X)} Expected all of {', '.join(shapes)}."
            )
        given = X[layer].shape[1:]
        if given != shape and len(given) == len(shape) == 1:  # as scikit-learn says it
            raise ArraysError(
                f"X has {given[0]} features, but ClusterPaths is expecting {shape[0]} features as input (layer {layer})."
            )
        if given != shape:
            raise ArraysError(
                f"{layer} has examples of shape {given}, but the estimator was fitted on {shape}. Expected activations of "
                "the same layer of the same model, reduced alike."
            )
    return {layer: X[layer] for layer in shapes}


def check_ids(ids: Any, n: int, first: int = 0) -> NDArray[np.int64]:
    """(n,) ascending ids of the examples: those given, or counted from `first`.

    Raises:
        ArraysError: not as many, or not ascending.
    """
    if ids is None:
        return np.arange(first, first + n, dtype=np.int64)
    found = np.asarray(ids)
    if found.shape != (n,) or found.dtype.kind not in "iu" or (np.diff(found) <= 0).any():
        raise ArraysError(
            f"ids should be {n:,} ascending integers, one per example, got {found.dtype} of shape {found.shape}. "
            "Leave them out to count the examples."
        )
    return found.astype(np.int64)


def check_classes(predictions: Any, n: int) -> NDArray[np.int64]:
    """(n,) class indices, -1 where there is none.

    Raises:
        ArraysError: not as many, or no integers of at least -1.
    """
    found = np.asarray(predictions)
    if found.shape != (n,):
        raise ArraysError(
            f"predictions should have one class per example: shape ({n},), got {found.shape} instead. Of class scores "
            "(n, classes), take argmax(axis=1)."
        )
    if found.dtype.kind not in "iu" or found.min() < -1:
        raise ArraysError(
            f"predictions should be class indices: integers from 0 on, or -1 for none; got {found.dtype} from {found.min()} on."
        )
    return found.astype(np.int64)


def read_block(layer: str, values: NDArray[Any]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Examples (m, …) as rows (m, width), float16 or float32, a copy or a view; all finite.

    Raises:
        ArraysError: NaN or infinity, or values beyond float32.
    """
    rows = values.reshape(len(values), -1)
    with np.errstate(over="ignore"):
        found = rows if rows.dtype in (np.float16, np.float32) else rows.astype(np.float32)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        kind = "NaN" if np.isnan(found).any() else "infinity, or values too large for float32"
        raise ArraysError(
            f"{layer} contains {kind} in {int((~finite).sum()):,} of {len(finite):,} examples read at once. Expected finite "
            "activations: leave these examples out, or look for the layer in which the model overflows."
        )
    return np.ascontiguousarray(found)


class ArrayRows:
    """Some of the examples of an array as rows of float32: `clustering.reading.Rows`.

    Args:
        layer: its name, for messages.
        values: (n, …).
        positions: (m,) of the examples that are the rows, in their order; all, if left out.

    Attributes:
        width: values per row.
    """

    def __init__(self, layer: str, values: NDArray[Any], positions: NDArray[np.int64] | None = None) -> None:
        self.width = int(np.prod(values.shape[1:]))
        self._layer, self._values = layer, values
        self._positions = np.arange(len(values)) if positions is None else positions

    def __len__(self) -> int:
        return len(self._positions)

    def blocks(self, positions: NDArray[np.int64] | None = None) -> Iterator[tuple[Where, NDArray[np.float32]]]:
        """As `Rows.blocks`.

        Raises:
            ArraysError: as `read_block`.
        """
        step = block_rows(self.width)
        for start in range(0, len(self) if positions is None else len(positions), step):
            stop = min(start + step, len(self))
            where: Where = slice(start, stop) if positions is None else positions[start : start + step]
            rows = read_block(self._layer, self._values[self._positions[where]])  # indexed by an array: a copy
            yield where, to_float32(rows)


class ArrivingSample:
    """The rows of one layer that `draw_ids` draws of all examples, while these arrive in batches.

    Args:
        size: most rows that are stored: memory is that of so many rows, however many arrive.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids = np.empty(0, np.int64)  # (s,) of the stored rows, in no order
        self._rows: NDArray[Any] = np.empty((0, 0), np.float16)

    def add(self, layer: str, ids: NDArray[np.int64], values: NDArray[Any]) -> None:
        """A batch of examples (m, …) with these (m,) ascending ids.

        Raises:
            ArraysError: as `read_block`.
        """
        rows = read_block(layer, values)
        drawn = draw_ids(np.sort(np.concatenate([self._ids, ids])), self._size)
        new = np.flatnonzero(np.isin(ids, drawn, assume_unique=True))
        free = np.flatnonzero(np.isin(self._ids, drawn, assume_unique=True, invert=True))
        replaced, added = new[: len(free)], new[len(free) :]
        stored = len(self._ids) + len(added)
        self._make_room(stored, rows)
        self._ids[free], self._rows[free] = ids[replaced], rows[replaced]
        self._rows[len(self._ids) : stored] = rows[added]
        self._ids = np.append(self._ids, ids[added])

    def _make_room(self, count: int, rows: NDArray[Any]) -> None:
        """For so many rows like these: twice as many as before, so that each is copied about once more."""
        kept = self._rows if len(self._rows) else rows[:0]
        dtype = np.result_type(kept, rows)  # float32 after float16
        if count <= len(kept) and dtype == kept.dtype:
            return
        capacity = max(len(kept), min(max(count, 2 * len(kept)), self._size))
        self._rows = np.empty((capacity, rows.shape[1]), dtype)
        self._rows[: len(kept)] = kept

    def require_new(self, ids: NDArray[np.int64]) -> None:
        """Check that none of these (m,) ids is stored.

        Raises:
            ArraysError: one is.
        """
        if len(repeated := np.intersect1d(ids, self._ids)):
            raise ArraysError(
                f"Example {repeated[0]} was in an earlier batch. Give each example once; leave ids out to count the examples."
            )

    def rows(self, layer: str) -> ArrayRows:
        """The sample, by ascending id."""
        return ArrayRows(layer, self._rows, np.argsort(self._ids))  # room that is not filled is in no position
