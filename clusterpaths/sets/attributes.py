"""attributes.parquet: a set's own copy of its examples' attributes, as the data set had them when paths were traced.

Belongs here: writing it and reading it. One row per example, in the order of paths.parquet; an int8 column for each attribute: 1,
-1, or 0 where it is not known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE
from clusterpaths.cache.registry import attribute_names
from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError

ATTRIBUTES = "attributes.parquet"


def write_attributes(folder: Path, registry: pa.Table, ids: NDArray[np.int64]) -> None:
    """Write those of these ascending ids, all of them registered."""
    own = registry.filter(pa.array(np.isin(registry["id"].to_numpy(), ids)))
    columns = {name: own[f"{ATTRIBUTE}{name}"] for name in attribute_names(registry)}
    pq.write_table(pa.table(columns), folder / ATTRIBUTES, compression="zstd")


def read_own_attributes(path: Path, examples: int) -> dict[str, NDArray[np.int8]]:
    """Attribute -> (examples,), of an existing file.

    Raises:
        CacheError: it cannot be read, or has another number of rows.
    """
    try:
        with reading():
            table = pq.read_table(path)
            if len(table) != examples:
                raise ValueError(f"it has {len(table):,} rows, the set {examples:,} examples")
            if gaps := [name for name in table.column_names if table[name].null_count]:
                raise ValueError(f"it has no value of {gaps[0]} for some examples")
            return {name: table[name].cast(pa.int8()).to_numpy() for name in table.column_names}
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the attributes of a set; publish the set again."
        ) from error
