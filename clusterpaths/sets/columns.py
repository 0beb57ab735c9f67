"""paths.parquet of a set, from disk to arrays.

Belongs here: its columns. Whether they match the set's record is checked in `published.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.common.corrupted import reading, shortened
from clusterpaths.errors import CacheError

Classes = NDArray[np.int16] | NDArray[np.int32]  # the latter if there are more than 32,767


@dataclass(frozen=True)
class Columns:
    """What paths.parquet holds: n examples, ids ascending, and L layers. Classes are -1 where not known."""

    ids: NDArray[np.int64]  # (n,)
    labels: Classes  # (n,)
    predictions: Classes  # (n,)
    clusters: NDArray[np.int16]  # (n, L)
    distances: NDArray[np.float32]  # (n, L) to the own centroid
    splits: NDArray[np.int16]  # (n,) index into split_names, -1: not known
    split_names: tuple[str, ...]
    files: Any  # pyarrow.Array of n strings


def read_columns(path: Path, layers: tuple[str, ...]) -> Columns:
    """All of paths.parquet that every reader needs.

    Raises:
        CacheError: the file is missing, cannot be read, or lacks a column.
    """
    distances = [f"distance.{layer}" for layer in layers]
    needed = ["id", "file", "label", "prediction", *layers, *distances]
    try:
        with reading():
            stored = pq.read_schema(path).names
            missing = [name for name in needed if name not in stored]
            if missing:
                raise CacheError(
                    f"{path} lacks the columns {', '.join(missing)}; it has {shortened(', '.join(stored))}. "
                    "It does not match set.json; publish the set again."
                )
            table = pq.read_table(path, columns=[*needed, *({"split"} & set(stored))])
            splits, split_names = _splits(table)
            return Columns(
                ids=table["id"].to_numpy(),
                labels=_classes(table, "label"),
                predictions=_classes(table, "prediction"),
                clusters=np.stack([_ints(table, layer) for layer in layers], axis=1),
                distances=np.stack([table[name].to_numpy() for name in distances], axis=1),
                splits=splits,
                split_names=split_names,
                files=table["file"].cast(pa.string()).combine_chunks(),
            )
    except (FileNotFoundError, ValueError) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the paths of a set; publish the set again."
        ) from error


def _classes(table: Any, name: str) -> Classes:
    """As the file has them."""
    wide = table.schema.field(name).type in (pa.int32(), pa.int64())
    values: Classes = pc.fill_null(table[name].cast(pa.int32() if wide else pa.int16()), -1).to_numpy()
    return values


def _ints(table: Any, name: str) -> NDArray[np.int16]:
    values: NDArray[np.int16] = pc.fill_null(table[name].cast(pa.int16()), -1).to_numpy()
    return values


def _splits(table: Any) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    """(n,) index into the names, -1: not known; and the names, ascending."""
    if "split" not in table.column_names:
        return np.full(len(table), -1, np.int16), ()
    values = pc.fill_null(table["split"].cast(pa.string()), "").combine_chunks().dictionary_encode()
    stored = values.dictionary.to_pylist()
    names = tuple(sorted(name for name in stored if name))
    rank = np.array([names.index(name) if name else -1 for name in stored], np.int16)
    indices = values.indices.to_numpy()
    return (rank[indices] if len(rank) else np.empty(0, np.int16)), names
