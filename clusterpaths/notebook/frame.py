"""A set as a table: one row per example.

Belongs here: the columns. Which package makes the table is the caller's choice: pandas, polars or pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.errors import ConfigError
from clusterpaths.explore.index import SetIndex
from clusterpaths.notebook.optional import first_installed, require_package
from clusterpaths.sets.published import PublishedSet

KINDS = ("pandas", "polars", "pyarrow")


def to_frame(published: PublishedSet, kind: str | None = None) -> Any:
    """As `PublishedSet.to_frame`."""
    kind = kind or first_installed(*KINDS)
    if kind not in KINDS:
        raise ConfigError(f"to_frame() should be asked for one of {', '.join(KINDS)}, got {kind!r} instead.")
    package = require_package(kind, f"to_frame(kind={kind!r})")
    table = to_table(published)
    if kind == "pandas":
        return table.to_pandas()
    return package.from_arrow(table) if kind == "polars" else table


def to_table(published: PublishedSet) -> pa.Table:
    """The columns of `PublishedSet.to_frame`; what is not known is null.

    Clusters are int16 columns with the names of the layers, distances distance.LAYER, attributes attribute.NAME. A column
    that has the name of a layer (path, say) is left to the layer.

    Raises:
        CacheError: the set's files are missing or inconsistent.
    """
    index: SetIndex = published.index
    n, right = len(index), index.right
    columns: dict[str, Any] = {
        "id": index.ids,
        "file": published.files,
        "split": _names(index.splits, lambda i: index.split_names[i]),
        "label": _names(index.labels, index.label_name),
        "prediction": _names(index.predictions, index.class_name),
        "right": pa.array(right == 1, mask=right < 0),
        "path": pa.array(["-".join(map(str, path)) for path in index.paths.paths.tolist()], pa.string()).take(
            pa.array(index.paths.of_example)
        ),
        "path_count": index.paths.counts[index.paths.of_example],
        "ood_score": pa.nulls(n, pa.float64()) if index.ood is None else index.ood,
        "confidence": _confidence(published, n),
    }
    for layer, clusters in zip(index.layers, index.clusters.T, strict=True):
        columns[layer] = np.ascontiguousarray(clusters)
    for layer, distances in zip(index.layers, published.distances.T, strict=True):
        columns[f"distance.{layer}"] = np.ascontiguousarray(distances)
    for name, values in index.attributes.items():
        columns[f"attribute.{name}"] = pa.array(values == 1, mask=values == 0)
    return pa.table(columns)


def _names(classes: NDArray[np.integer], name: Callable[[int], str]) -> pa.Array:
    """(n,) strings of class indices, null where it is -1."""
    names = pa.array([name(i) for i in range(int(classes.max(initial=-1)) + 1)], pa.string())
    return names.take(pa.array(classes.astype(np.int64), mask=classes < 0))


def _confidence(published: PublishedSet, n: int) -> Any:
    """(n,) probability of the most probable class; null without class scores, as of models that output other values."""
    found = published.read_top_scores(1)
    if found is None:
        return pa.nulls(n, pa.float32())
    classes, shares = found
    return pa.array(shares[:, 0], mask=classes[:, 0] < 0)
