"""After extraction: the examples of all shards in one table, and whether too many of them failed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import join_parts, read_examples
from clusterpaths.cache.manifest import format_ids, require_manifest
from clusterpaths.errors import ExtractionError
from clusterpaths.extraction.extract import too_many_failures
from clusterpaths.storage import Storage, StoredRecord


class ExtractionRecord(StoredRecord):
    """Result of extraction: the examples of this run, and those of them that could not be read."""

    num_examples: int
    failed: tuple[tuple[int, str, str], ...]
    ids: str


def finish_extraction(directory: Storage, wanted: NDArray[np.int64], max_failed: int) -> ExtractionRecord:
    """Join examples.parquet and return which of the wanted examples have activations.

    Raises:
        ExtractionError: more than `max_failed` of them could not be read, or none is left.
    """
    manifest = require_manifest(directory)
    recorded = [shard for shard in manifest.shards if shard.rows is not None]
    join_parts(directory, [shard.index for shard in recorded])
    examples = read_examples(directory, ["id", "row"])
    ids = examples["id"].to_numpy()
    with_rows = ids[examples["row"].is_valid().to_numpy()]
    failures = [failure for shard in recorded for failure in shard.failed]
    lost = set(wanted[~np.isin(wanted, with_rows)].tolist())
    failed = {failure.id: failure for failure in failures if failure.id in lost}
    if len(failed) > max_failed:
        raise ExtractionError(too_many_failures(len(failed), max_failed, list(failed.values())))
    usable = wanted[np.isin(wanted, with_rows)]
    if len(usable) == 0:
        raise ExtractionError(too_many_failures(len(failed), len(failed) - 1, list(failed.values())))
    return ExtractionRecord(
        directory=directory.address,
        num_examples=len(usable),
        failed=tuple((failure.id, failure.file, failure.reason) for failure in failed.values()),
        ids=format_ids(usable),
    )
