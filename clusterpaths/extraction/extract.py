"""One shard: from images to activations (or, without a cache of them, pixels) and cluster labels, in one pass.

Belongs here: the work on a shard, from decoding to its record. Which shards there are is `plan.py`; how rows are stored is
`cache/stores.py`; what assignment computes is `clustering/assign.py`; a shard that was extracted before is `again.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.examples import make_part, write_part
from clusterpaths.cache.manifest import PIXELS, FailedExample, ShardRecord, record_shard
from clusterpaths.cache.registry import present_examples, require_registry
from clusterpaths.clustering.assign import FitRecord
from clusterpaths.common.lru import LRUCache
from clusterpaths.datasets import ExampleTable, open_dataset
from clusterpaths.errors import ExtractionError
from clusterpaths.extraction.checks import ROUNDING_IMAGES, Rounding, check_finite, check_scores
from clusterpaths.extraction.decode import decode_batches
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.sessions import shared_session
from clusterpaths.extraction.writer import SampleWriter, ShardLabels, ShardWriter
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.records import ModelOutputs

Progress = Callable[[int], None] | None
_tables: LRUCache[ExampleTable] = LRUCache(2)  # of this process


def extract_shard(
    job: ExtractionJob,
    shard: ShardRecord,
    fits: tuple[FitRecord, ...] = (),
    sample: ShardRecord | None = None,
    progress: Progress = None,
) -> ShardRecord:
    """Extract one planned shard, write its rows, assign them, then record it; returns that record.

    Rows are the activations, or the pixels where the cache's format is "none".

    Args:
        job: settings.
        shard: as planned.
        fits: layers to assign while their activations are in memory.
        sample: format none only: those of its examples whose activations are kept too, as planned in the cache of the sample.
        progress: called with the number of examples that were done since its last call.

    Raises:
        Float16OverflowError: float16 cannot hold a layer's values (`begin.widen_layers` and again).
        ExtractionError: non-finite activations, or more than `job.max_failed` unreadable images in this shard.
        DiskError: no room; files of this shard may exist, unrecorded, and are overwritten by the next run.
    """
    directory, table = job.storage, _examples_of(job, shard)
    examples, labels = _ShardExamples(table, shard, job.model.outputs), ShardLabels(directory, fits)
    writer = ShardWriter(directory, job.cache, shard)
    kept = SampleWriter(job, sample) if sample else None
    pixels_only = job.cache.format == "none"
    exact, file_of = functools.partial(_run_exact, job), functools.partial(_file_of, job)
    rounding = Rounding(job.dtypes, ROUNDING_IMAGES if shard.index == 0 else 0, exact)
    session = shared_session(job, fits, keep=not pixels_only or kept is not None)
    for batch in decode_batches(open_dataset(job.dataset), table, job.preprocessing, job.batch_size):
        examples.fail(batch.failed)
        if len(examples.failures) > job.max_failed:
            failures = list(examples.failures.values())
            raise ExtractionError(too_many_failures(len(failures), job.max_failed, failures))
        if len(batch.positions):
            ids = table.ids[batch.positions]
            outputs = session.run(batch.images)
            check_finite(outputs, batch.images, ids, job.dtypes, exact, file_of)
            check_scores(outputs, ids, job.model.outputs, file_of)
            rounding.add(outputs, batch.images, len(ids))
            examples.add(batch.positions, writer.rows, batch.digests, outputs.logits)
            writer.add(ids, {PIXELS: batch.pixels} if pixels_only else outputs.layers)
            if kept:
                kept.add(ids, outputs.layers)
            labels.add(outputs.products)
            del outputs  # before the next ones are made
        if progress:
            progress(len(batch.positions) + len(batch.failed))
    rounding.check()
    record = writer.finish().model_copy(update={"failed": examples.failed})
    if pixels_only:
        record = record.model_copy(update={"batch": job.batch_size})
    write_part(directory, shard.index, examples.part())
    if kept:
        kept.finish()
    labels.write(record)  # before the shard counts: then it is assigned as well
    record_shard(directory, job.cache, record)
    return record


def too_many_failures(count: int, allowed: int, failures: list[FailedExample]) -> str:
    """The message for a run with too many unreadable images."""
    shown = "; ".join(f"{failure.file} ({failure.reason})" for failure in failures[:3])
    return (
        f"{count} images cannot be read, and at most {allowed} may fail: {shown}{' …' if count > 3 else ''}. "
        "Repair or remove these files, or allow a larger share with --max-failures."
    )


def _examples(job: ExtractionJob) -> ExampleTable:
    """What the registry says of the data set's files, as the run that planned this job found them."""
    return _tables.get((job.directory, job.registry), lambda: present_examples(require_registry(job.storage)))


def _file_of(job: ExtractionJob, example: int) -> str:
    table = _examples(job)
    return table.files[int(np.searchsorted(table.ids, example))]


def _run_exact(job: ExtractionJob, batches: list[NDArray[np.float32]]) -> list[Outputs]:
    session = TapSession(job.model)
    return [session.run(images) for images in batches]


def _examples_of(job: ExtractionJob, shard: ShardRecord) -> ExampleTable:
    table = _examples(job)
    ids = shard.planned_ids()
    positions = np.searchsorted(table.ids, ids)
    if len(ids) and (positions[-1] >= len(table) or not np.array_equal(table.ids[positions], ids)):
        raise ExtractionError(
            f"Shard {shard.index} was planned for images that are no longer in {job.dataset.root}. Run the flow again: it "
            "plans again."
        )
    return table.take(positions)


class _ShardExamples:
    """What examples.parquet will say of a shard's n examples."""

    def __init__(self, table: ExampleTable, shard: ShardRecord, outputs: ModelOutputs) -> None:
        self._table, self._shard, self._outputs = table, shard, outputs
        self._rows = np.full(len(table), -1, np.int64)
        self._digests = np.zeros(len(table), np.uint64)
        self._logits: NDArray[np.float32] | None = None
        self.failures: dict[int, FailedExample] = {}

    def fail(self, failed: list[tuple[int, str]]) -> None:
        for position, reason in failed:
            example, file = int(self._table.ids[position]), self._table.files[position]
            self.failures[position] = FailedExample(id=example, file=file, reason=reason)

    def add(
        self,
        positions: NDArray[np.int64],
        first_row: int,
        digests: NDArray[np.uint64],
        logits: NDArray[np.float32] | None,
    ) -> None:
        self._rows[positions] = self._shard.start + first_row + np.arange(len(positions))
        self._digests[positions] = digests
        if logits is not None:
            if self._logits is None:
                self._logits = np.full((len(self._table), logits.shape[1]), np.nan, np.float32)
            self._logits[positions] = logits

    @property
    def failed(self) -> tuple[FailedExample, ...]:
        return tuple(self.failures[position] for position in sorted(self.failures))

    def part(self) -> Any:
        errors = [self.failures[p].reason if p in self.failures else None for p in range(len(self._table))]
        return make_part(self._table, self._shard.index, self._rows, errors, self._logits, self._outputs, self._digests)
