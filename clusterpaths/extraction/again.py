"""A shard that was extracted before: assigned from the cache or, where it stores pixels only, by running the model again.

ONNX Runtime's results may depend on which images share a run (its size chooses kernels; dynamic quantization looks at all
of it), so the very runs of the extraction are made again.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.manifest import ShardRecord
from clusterpaths.cache.pixels import PixelStore
from clusterpaths.cache.rows import UNREADABLE, block_rows, require_checksum, stored_rows, unreadable
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import slots
from clusterpaths.clustering.assign import FitRecord, assigner_of
from clusterpaths.errors import CacheError
from clusterpaths.extraction.extract import Progress
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.sessions import shared_session
from clusterpaths.extraction.writer import SampleWriter, ShardLabels
from clusterpaths.preprocessing.prepare import normalise


def assign_shard(
    job: ExtractionJob,
    shard: ShardRecord,
    fits: tuple[FitRecord, ...],
    sample: ShardRecord | None = None,
    progress: Progress = None,
) -> None:
    """Assign every row of a recorded shard, of all layers in one pass.

    Args:
        job: settings.
        shard: as recorded.
        fits: of the layers.
        sample: format none only: the record of its activations in the cache of the sample, where that has all of them.
        progress: called with the number of examples that were done since its last call.

    Raises:
        CorruptedShardError: bytes on disk differ from their checksum.
    """
    if job.cache.format != "none" or sample is not None:
        _assign_stored(job, shard, sample or shard, fits)
        if progress:
            progress(len(shard.planned_ids()))
    else:
        run_again(job, shard, fits, None, progress)


def _assign_stored(job: ExtractionJob, shard: ShardRecord, record: ShardRecord, fits: tuple[FitRecord, ...]) -> None:
    directory = stored_rows(job.storage)
    labels = ShardLabels(job.storage, fits)
    store = open_store(directory, "zarr" if job.cache.format == "none" else job.cache.format, job.cache.layers)
    ids = record.row_ids()
    for fit in fits:
        assigner, digest = assigner_of(job.storage, fit), xxhash.xxh3_64()
        step = slots(block_rows(assigner.centroids.shape[1]))  # complete chunks, or some would be decompressed twice
        for start in range(0, len(ids), step):
            rows = record.start + np.arange(start, min(start + step, len(ids)))
            try:
                values = store.read(fit.layer, ids[start : start + step], rows)
            except UNREADABLE as error:
                raise unreadable(directory, fit.layer, record.index, error) from error
            digest.update(values.data)
            labels.add({fit.layer: assigner.products(values)})
            del values  # before the next ones are read
        require_checksum(directory, fit.layer, record, digest.hexdigest())
    labels.write(shard)


def run_again(
    job: ExtractionJob,
    shard: ShardRecord,
    fits: tuple[FitRecord, ...],
    sample: ShardRecord | None,
    progress: Progress = None,
) -> None:
    """Run the model on a recorded shard's pixels, to assign its rows or to keep activations of some.

    Args:
        job: settings.
        shard: as recorded.
        fits: of the layers to assign.
        sample: its examples whose activations are kept, as planned in the cache of the sample.
        progress: called with the number of examples that were done since its last call.

    Raises:
        CorruptedShardError: the pixels differ from their checksum.
        CacheError: the shard does not record how its images were batched.
    """
    pixels = PixelStore(job.storage, job.preprocessing.size).shard(shard)
    pixels.check()
    labels, ids = ShardLabels(job.storage, fits), shard.row_ids()
    kept = SampleWriter(job, sample) if sample else None
    wanted = sample.planned_ids() if sample and not fits else ids
    session = shared_session(job, fits, keep=kept is not None)
    for first, last in pairwise(run_edges(shard).tolist()):
        if np.isin(ids[first:last], wanted).any():
            outputs = session.run(normalise(pixels.read(first, last), job.preprocessing))
            labels.add(outputs.products)
            if kept:
                kept.add(ids[first:last], outputs.layers)
            del outputs  # before the next ones are made
        if progress:
            progress(last - first)
    if kept:
        kept.finish()
    labels.write(shard)


def run_edges(record: ShardRecord) -> NDArray[np.int64]:
    """Where the runs of a shard's extraction began and ended, in its rows: [0, 8, 15, 16] for runs of 8, 7 and 1 image.

    A run took `record.batch` planned examples, without those that could not be read.
    """
    if record.batch is None:
        raise CacheError(
            f"Shard {record.index} does not record how its images were batched. Run the flow with --refresh."
        )
    ids = record.planned_ids()
    readable = ~np.isin(ids, [failure.id for failure in record.failed])
    counts = np.add.reduceat(readable, np.arange(0, len(ids), record.batch), dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts[counts > 0])])
