"""Attributes and class scores of a set's examples, from its cache.

Belongs here: joining columns of examples.parquet to a set by id. The table is `cache/examples.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import ATTRIBUTE, EXAMPLES, read_examples
from clusterpaths.cache.predictions import check_stored, raw_rows
from clusterpaths.cache.registry import REGISTRY
from clusterpaths.common.corrupted import reading
from clusterpaths.errors import CacheError
from clusterpaths.models.outputs import decide
from clusterpaths.records import ModelOutputs
from clusterpaths.storage import Storage

TopScores = tuple[NDArray[np.int32], NDArray[np.float32]]  # (n, top) class, -1 where not known, and probability


def read_attributes(cache: Storage, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int8]]:
    """Attribute -> (n,) of these ids, as the last run found them; 0 for examples that the cache does not have.

    Raises:
        CacheError: they are there and cannot be read.
    """
    return _read_attributes(cache, REGISTRY, ids) or read_stored_attributes(cache, ids)


def read_stored_attributes(cache: Storage, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int8]]:
    """As `read_attributes`, as they were stored with the activations before 2026-11-29. Empty where there are none.

    Raises:
        CacheError: examples.parquet is there and cannot be read.
    """
    return _read_attributes(cache, EXAMPLES, ids)


def _read_attributes(cache: Storage, file: str, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int8]]:
    path = cache.local(file)
    if not path.is_file():
        return {}
    try:
        with reading():
            names = [name for name in pq.read_schema(path).names if name.startswith(ATTRIBUTE)]
            if not names:
                return {}
            table = pq.read_table(path, columns=["id", *names])
            stored = table["id"].to_numpy()
            columns = {name: pc.fill_null(table[name].cast(pa.int8()), 0).to_numpy() for name in names}
    except FileNotFoundError:  # removed meanwhile
        return {}
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the cache's examples; run the flow again."
        ) from error
    at, known = _rows_of(stored, ids)
    return {
        name.removeprefix(ATTRIBUTE): np.where(known, values[at], 0).astype(np.int8) for name, values in columns.items()
    }


def read_top_scores(
    cache: Storage, ids: NDArray[np.int64], top: int, outputs: ModelOutputs | None = None
) -> TopScores | None:
    """The most probable classes of each of these ids: (n, top) class, -1 where not known, and (n, top) probability.

    Read in batches: all class scores of a cache may be larger than memory. None if the cache has none.

    Args:
        cache: with examples.parquet.
        ids: ascending.
        top: how many classes.
        outputs: what the rows mean; None: not recorded, so logits, or probabilities if they sum to 1.

    Raises:
        CacheError: examples.parquet is there and cannot be read.
    """
    path = cache.local(EXAMPLES)
    classes = np.full((len(ids), top), -1, np.int32)
    shares = np.zeros((len(ids), top), np.float32)
    try:
        meaning = outputs or check_stored(cache, ModelOutputs(name="logits", kind="logits"))
        for stored, rows in raw_rows(cache):
            at, ours = _rows_of(ids, stored)
            best, values = _most_probable(meaning, rows[ours], top)
            finite = np.isfinite(values).all(axis=1)
            known = at[ours][finite]
            classes[known, : best.shape[1]], shares[known, : best.shape[1]] = best[finite], values[finite]
    except FileNotFoundError:  # there is none, or it was removed meanwhile
        return None
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the cache's examples; run the flow again."
        ) from error
    return (classes, shares) if (classes >= 0).any() else None


def read_sizes(cache: Storage, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) bytes of each image as the cache recorded it; -1 if not recorded."""
    try:
        table = read_examples(cache, ["id", "size"])
    except (CacheError, OSError, pa.ArrowInvalid):
        return np.full(len(ids), -1, np.int64)
    at, known = _rows_of(table["id"].to_numpy(), ids)
    if not known.any():
        return np.full(len(ids), -1, np.int64)
    found: NDArray[np.int64] = np.where(known, table["size"].to_numpy()[at], -1)
    return found


def _most_probable(
    outputs: ModelOutputs, rows: NDArray[np.float32], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `top` most probable classes of n raw rows, and their probabilities: (n, top) each, or fewer."""
    shares = decide(outputs, rows).probabilities
    if shares is None:
        return np.empty((len(rows), 0), np.int64), np.empty((len(rows), 0), np.float32)
    width = shares.shape[1]
    some = (
        np.argpartition(shares, width - top, axis=1)[:, width - top :]
        if top < width
        else np.tile(np.arange(width), (len(rows), 1))
    )
    best = np.take_along_axis(
        some, np.argsort(-np.take_along_axis(shares, some, axis=1), axis=1, kind="stable"), axis=1
    )
    return best, np.take_along_axis(shares, best, axis=1).astype(np.float32)


def _rows_of(stored: NDArray[np.int64], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Position of each id in `stored`, which is ascending and not empty, and whether it is present."""
    if not len(stored):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(stored, ids), len(stored) - 1)
    return at, stored[at] == ids
