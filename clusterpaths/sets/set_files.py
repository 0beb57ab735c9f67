"""Reading a set's folder: its record and its paths, checked against each other.

Belongs here: set.json and paths.parquet, from disk to arrays. Writing them is `publish.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic
from numpy.typing import NDArray

from clusterpaths.errors import CacheError
from clusterpaths.records import SetRecord
from clusterpaths.storage.remote import fetch


@dataclass(frozen=True)
class Rows:
    """What paths.parquet holds, n rows and L layers; file names stay in Arrow until they are shown."""

    ids: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int16]  # (n,)
    predictions: NDArray[np.int16]  # (n,)
    clusters: NDArray[np.int16]  # (n, L)
    distances: NDArray[np.float32]  # (n, L)
    files: Any  # pyarrow.ChunkedArray of n strings


def read_record(set_dir: Path) -> SetRecord:
    """set.json of a set folder.

    Raises:
        CacheError: it is missing or is not a set's record.
    """
    path = fetch(set_dir / "set.json")
    try:
        return SetRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheError(
            f"{path} does not exist. Expected the folder of a published set, with set.json and paths.parquet."
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise CacheError(
            f"{path} is not the record of a set: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']} "
            f"({error.error_count()} problems in all). Expected what this version of the program writes; "
            "publish the set again."
        ) from error


def read_rows(set_dir: Path, record: SetRecord) -> Rows:
    """The columns of paths.parquet.

    Raises:
        CacheError: the file is missing, lacks a column, or holds cluster ids beyond the record's k.
    """
    path = set_dir / "paths.parquet"
    distances = [f"distance.{layer}" for layer in record.layers]
    needed = ["id", "file", "label", "prediction", *record.layers, *distances]
    try:
        stored = pq.read_schema(path).names
        missing = [name for name in needed if name not in stored]
        if missing:
            raise CacheError(
                f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(stored)}. "
                "It does not belong to the set.json beside it; publish the set again."
            )
        table = pq.read_table(path, columns=needed)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the paths of a set; publish the set again."
        ) from error
    clusters = np.stack([_ints(table, layer) for layer in record.layers], axis=1)
    for column, layer in zip(clusters.T, record.layers, strict=True):
        k = record.k_per_layer.get(layer, 0)
        if len(column) and not (column.min() >= 0 and column.max() < k):
            raise CacheError(
                f"{path} has cluster ids {column.min()} to {column.max()} in layer {layer}; "
                f"set.json says k={k}, so 0 to {k - 1} were expected. Publish the set again."
            )
    return Rows(
        ids=table["id"].to_numpy(),
        labels=_ints(table, "label"),
        predictions=_ints(table, "prediction"),
        clusters=clusters,
        distances=np.stack([table[name].to_numpy() for name in distances], axis=1),
        files=table["file"],
    )


def _ints(table: Any, name: str) -> NDArray[np.int16]:
    values: NDArray[np.int16] = pc.fill_null(table[name].cast(pa.int16()), -1).to_numpy()
    return values
