"""After extraction: the examples of all shards in one table, and whether too many of them failed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import join_parts, read_examples
from clusterpaths.cache.extracted import ExtractionRecord, locate
from clusterpaths.cache.manifest import consolidate, format_ids
from clusterpaths.cache.registry import record_digests
from clusterpaths.common.malloc import return_memory
from clusterpaths.errors import ExtractionError
from clusterpaths.extraction.extract import too_many_failures
from clusterpaths.storage import Storage


def finish_extraction(directory: Storage, wanted: NDArray[np.int64], max_failed: int) -> ExtractionRecord:
    """Join examples.parquet and return which of the wanted examples have activations.

    Raises:
        ExtractionError: more than `max_failed` of them could not be read, or none is left.
    """
    recorded = [shard for shard in consolidate(directory).shards if shard.rows is not None]
    join_parts(directory, [shard.index for shard in recorded])
    record_digests(directory, read_examples(directory, ["id", "digest"]))
    return_memory()  # of all examples' rows
    there = locate(recorded, wanted)[0] >= 0
    lost = set(wanted[~there].tolist())
    failed = {failure.id: failure for shard in recorded for failure in shard.failed if failure.id in lost}
    if len(failed) > max_failed:
        raise ExtractionError(too_many_failures(len(failed), max_failed, list(failed.values())))
    usable = wanted[there]
    if len(usable) == 0:
        raise ExtractionError(too_many_failures(len(failed), len(failed) - 1, list(failed.values())))
    return ExtractionRecord(
        directory=directory.address,
        num_examples=len(usable),
        failed=tuple((failure.id, failure.file, failure.reason) for failure in failed.values()),
        ids=format_ids(usable),
    )
