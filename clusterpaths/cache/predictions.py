"""Predictions of a cache's examples, by what the model's output is known to be now.

Belongs here: reading raw output rows of examples.parquet and what they mean. The cache stores raw rows, so that the kind can be
checked on real rows, or overruled, without extracting again. The meaning of rows is `models/outputs.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.examples import EXAMPLES, class_type, read_examples, unreadable_examples
from clusterpaths.common.corrupted import reading
from clusterpaths.models.outputs import check_on_rows, decide
from clusterpaths.records import ModelOutputs
from clusterpaths.storage import Storage

_BATCH = 1024
_SOME_ROWS = 50_000


def check_stored(directory: Storage, outputs: ModelOutputs) -> ModelOutputs:
    """The description after a look at the first stored rows.

    Raises:
        ModelError: as `check_on_rows`.
    """
    if not outputs.has_scores:
        return outputs
    rows = next((rows for _, rows in raw_rows(directory) if len(rows)), None)
    return outputs if rows is None else check_on_rows(outputs, rows)


def read_predictions(directory: Storage, ids: NDArray[np.int64], outputs: ModelOutputs) -> NDArray[np.integer]:
    """(n,) prediction of each of these ascending ids, -1 where there is none.

    From the stored column, or where that was decided by another kind, from the raw rows.
    """
    if are_stored(directory, outputs):
        table = read_examples(directory, ["id", "prediction"])
        stored: NDArray[np.integer] = table["prediction"].to_numpy()
        return stored[np.isin(table["id"].to_numpy(), ids)]
    found = np.full(len(ids), -1, class_type(outputs.classes))
    if not outputs.predicts or not len(ids):
        return found
    for of, rows in raw_rows(directory):
        at = np.minimum(np.searchsorted(ids, of), len(ids) - 1)
        ours = ids[at] == of
        found[at[ours]] = decide(outputs, rows[ours]).predictions
    return found


def are_stored(directory: Storage, outputs: ModelOutputs) -> bool:
    """Whether the stored column has the predictions that the raw rows have by this kind; by its first rows.

    False also for another order of classes, which the stored column never has; and for more classes than int16 holds: caches
    from before have the largest score's index modulo 65,536.
    """
    if not outputs.predicts or outputs.order or class_type(outputs.classes) is not np.int16:
        return False
    for known in _with_logits(directory, "prediction"):
        if len(known):
            with _readable(directory):
                rows, stored = as_matrix(known.column("logits")), known.column("prediction").to_numpy()
            return np.array_equal(stored, decide(outputs, rows).predictions)
    return True


def kind_of_predictions(outputs: ModelOutputs) -> str:
    """What of the outputs is part of a set's identity; empty where predictions are as they always were."""
    usual = outputs.kind in ("none", "logits", "log-probabilities", "probabilities")
    if outputs.order:
        return f"{outputs.kind} in the order {','.join(map(str, outputs.order))}"
    return "" if usual and not outputs.asked and class_type(outputs.classes) is np.int16 else outputs.kind


def raw_rows(directory: Storage) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids (m,) and raw output rows (m, width), batch by batch: all of them may be larger than memory."""
    for known in _with_logits(directory, "id"):
        with _readable(directory):
            rows = known.column("id").to_numpy(), as_matrix(known.column("logits"))
        yield rows


def _with_logits(directory: Storage, column: str) -> Iterator[pa.RecordBatch]:
    """Batches of the rows that have raw outputs, with these and another column.

    Raises:
        CacheError: examples.parquet cannot be read.
    """
    with _readable(directory):
        file = pq.ParquetFile(directory.local(EXAMPLES), buffer_size=1 << 20, pre_buffer=False)
    with file:
        if "logits" not in file.schema_arrow.names:
            return
        batches = file.iter_batches(_BATCH, columns=[column, "logits"])
        while True:
            with _readable(directory):
                batch = next(batches, None)
                if batch is None:
                    return
                known = batch.filter(batch.column("logits").is_valid())
            yield known


@contextlib.contextmanager
def _readable(directory: Storage) -> Iterator[None]:
    try:
        with reading():
            yield
    except ValueError as error:
        raise unreadable_examples(directory, error) from error


def read_raw_rows(directory: Storage, ids: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """(n, width) raw output rows of these (n,) ascending ids, NaN where there is none; None where the cache has none.

    Only the cache's first 50,000 rows are looked at.
    """
    found: NDArray[np.float32] | None = None
    for of, rows in islice(raw_rows(directory), _SOME_ROWS // _BATCH):
        if not len(rows) or not len(ids):
            continue
        if found is None:
            found = np.full((len(ids), rows.shape[1]), np.nan, np.float32)
        at = np.minimum(np.searchsorted(ids, of), len(ids) - 1)
        ours = ids[at] == of
        found[at[ours]] = rows[ours]
    return found


def as_matrix(lists: pa.Array) -> NDArray[np.float32]:
    """Lists of one length as rows."""
    if not len(lists):
        return np.empty((0, 0), np.float32)
    values: NDArray[np.float32] = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), -1)
