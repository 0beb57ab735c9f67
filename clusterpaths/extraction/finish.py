"""After extraction: the examples of all shards in one table, and whether too many of them failed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import join_parts, read_examples
from clusterpaths.cache.extracted import ExtractionRecord, locate
from clusterpaths.cache.manifest import FailedExample, ShardRecord, consolidate, format_ids
from clusterpaths.cache.registry import record_digests
from clusterpaths.common.malloc import return_memory
from clusterpaths.errors import ExtractionError
from clusterpaths.extraction.extract import too_many_failures
from clusterpaths.storage import Storage


def finish_extraction(directory: Storage, wanted: NDArray[np.int64], max_failed: int) -> ExtractionRecord:
    """Join examples.parquet and return which of the wanted examples have activations.

    Raises:
        ExtractionError: more than `max_failed` of them could not be read, or none is left.
        CorruptedShardError: as `read_part`.
    """
    recorded = [shard for shard in consolidate(directory).shards if shard.rows is not None]
    join_parts(directory, recorded)
    record_digests(directory, read_examples(directory, ["id", "digest"]))
    return_memory()  # of all examples' rows
    failed = require_few_failures(recorded, wanted, max_failed)
    usable = wanted[locate(recorded, wanted)[0] >= 0]
    if len(usable) == 0:
        raise ExtractionError(too_many_failures(len(failed), len(failed) - 1, failed))
    return ExtractionRecord(
        directory=directory.address,
        num_examples=len(usable),
        failed=tuple((failure.id, failure.file, failure.reason) for failure in failed),
        ids=format_ids(usable),
    )


def require_few_failures(
    shards: Iterable[ShardRecord], wanted: NDArray[np.int64], max_failed: int
) -> list[FailedExample]:
    """The wanted examples that could not be read, of all shards so far: recorded ones, and planned ones.

    An example that failed and is in a later shard, since its file was repaired, counts as in that shard.

    Raises:
        ExtractionError: more than `max_failed`.
    """
    failed: dict[int, FailedExample] = {}
    for shard in sorted(shards, key=lambda shard: shard.index):
        if failed:
            again = np.intersect1d(list(failed), shard.planned_ids())
            failed = {example: failure for example, failure in failed.items() if example not in again}
        failed |= {failure.id: failure for failure in shard.failed}
    found = [failure for example, failure in failed.items() if np.isin(example, wanted)]
    if len(found) > max_failed:
        raise ExtractionError(too_many_failures(len(found), max_failed, found))
    return found
