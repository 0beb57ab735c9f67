"""One shard: from images to activations (or, without a cache of them, pixels) and cluster labels, in one pass.

Belongs here: the work on a shard, from decoding to its record. Which shards there are is `plan.py`; how rows are stored is
`cache/stores.py`; what assignment computes is `clustering/assign.py`; a shard that was extracted before is `again.py`.
"""

from __future__ import annotations

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
from clusterpaths.errors import ExtractionError, Float16OverflowError
from clusterpaths.extraction.decode import decode_batches
from clusterpaths.extraction.job import ExtractionJob
from clusterpaths.extraction.sessions import borrow_session
from clusterpaths.extraction.writer import SampleWriter, ShardLabels, ShardWriter
from clusterpaths.models.outputs import not_finite
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.records import ModelOutputs

Progress = Callable[[int], None] | None
_tables: LRUCache[ExampleTable] = LRUCache(2)  # of this process

# Rounding to float16, as a share of a layer's standard deviation, from which the layer is stored as float32. Of ordinary
# layers it is 0.0002 to 0.003; of values below 6e-8, which become 0, and of a bias of 3,000 with differences of 1, above 0.5.
MAX_ROUNDING = 0.05
ROUNDING_IMAGES = 8  # that this is measured on: a layer's scale is the model's, not an image's
NOISE = 1e-12  # of squared lengths: what equal images may differ by in float32


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
    rounding = _Rounding(job, ROUNDING_IMAGES if shard.index == 0 else 0)
    with borrow_session(job, fits, keep=not pixels_only or kept is not None) as session:
        for batch in decode_batches(open_dataset(job.dataset), table, job.preprocessing, job.batch_size):
            examples.fail(batch.failed)
            if len(examples.failures) > job.max_failed:
                failures = list(examples.failures.values())
                raise ExtractionError(too_many_failures(len(failures), job.max_failed, failures))
            if len(batch.positions):
                ids = table.ids[batch.positions]
                outputs = session.run(batch.images)
                _check_finite(outputs, batch.images, ids, job)
                _check_scores(outputs, ids, job)
                rounding.add(outputs, batch.images)
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


def _check_finite(outputs: Outputs, images: NDArray[np.float32], ids: NDArray[np.int64], job: ExtractionJob) -> None:
    suspects = [layer for layer, found in outputs.products.items() if not np.isfinite(found.squares).all()]
    if not suspects:
        return
    # float32: distinguishes an overflow of float16 from inf or NaN in float32
    exact = TapSession(job.model).run(images)
    for layer in suspects:
        finite = np.isfinite(exact.layers[layer]).reshape(len(ids), -1).all(axis=1)
        if not finite.all():
            example = int(ids[np.argmin(finite)])
            raise ExtractionError(
                f"Layer {layer} outputs values that are not finite (inf or NaN) for example {example} "
                f"({_file_of(job, example)}). Expected finite activations. Check the model and "
                "--preprocessing with that image, or leave the layer out with --layers."
            )
        if job.dtypes[layer] == "float32":
            largest = float(np.abs(exact.layers[layer]).max())
            raise ExtractionError(
                f"Layer {layer} outputs values up to {largest:.3g}, whose squared lengths exceed float32. Expected values below "
                "1e16. Check the model and --preprocessing, or leave the layer out with --layers."
            )
    raise Float16OverflowError(suspects)


class _Rounding:
    """Checks on the first images whether float16 loses what distinguishes them: in tiny values, beside a large bias.

    Args:
        job: of the shard.
        images: how many, over as many batches as it takes.
    """

    def __init__(self, job: ExtractionJob, images: int) -> None:
        self._job, self._wanted = job, images
        self._images: list[NDArray[np.float32]] = []
        self._rows: list[dict[str, NDArray[Any]]] = []

    def add(self, outputs: Outputs, images: NDArray[np.float32]) -> None:
        """Raises: Float16OverflowError: as `check`."""
        if self._wanted > 0:
            self._images.append(images)
            self._rows.append({x: rows for x, rows in outputs.layers.items() if self._job.dtypes[x] == "float16"})
            self._wanted -= len(images)
            if self._wanted <= 0:
                self.check()

    def check(self) -> None:
        """Check the images that were added since.

        Raises:
            Float16OverflowError: layers that float16 does not hold.
        """
        images, seen = self._images, self._rows
        self._images, self._rows, self._wanted = [], [], 0
        narrow = {layer: np.concatenate([rows[layer] for rows in seen]) for layer in (seen[0] if seen else ())}
        # A guess by float16's steps first: a session in float32 takes time and memory.
        suspects = [layer for layer, rows in narrow.items() if _loses(rows, np.spacing(rows) / np.float32(12**0.5), 0)]
        if not suspects:
            return
        session = TapSession(self._job.model)
        runs = [session.run(batch).layers for batch in images]
        exact = {layer: np.concatenate([rows[layer] for rows in runs]) for layer in suspects}
        lost = [layer for layer in suspects if _loses(exact[layer], exact[layer] - narrow[layer], NOISE)]
        if lost:
            raise Float16OverflowError(lost)


def _loses(rows: NDArray[Any], errors: NDArray[np.float32], noise: float) -> bool:
    """Whether errors are more than MAX_ROUNDING of rows (n, …), or of their differences if these are more than noise.

    A single row has no differences.
    """
    values = rows.astype(np.float32)
    lost, squares = (float(np.square(one, dtype=np.float64).sum()) for one in (errors, values))
    differences = float(np.square(values - values.mean(axis=0, dtype=np.float64)).sum())
    least = differences if len(rows) > 1 and differences >= noise * squares else squares
    return lost > 0 and lost >= MAX_ROUNDING**2 * least


def _check_scores(outputs: Outputs, ids: NDArray[np.int64], job: ExtractionJob) -> None:
    """Raises: ExtractionError: rows of the output with class scores that are not finite."""
    if outputs.logits is None or not (wrong := not_finite(job.model.outputs, outputs.logits)).any():
        return
    example = int(ids[np.argmax(wrong)])
    raise ExtractionError(
        f"The output {job.model.logits} holds class scores that are not finite (inf or NaN) for example {example} "
        f"({_file_of(job, example)}), and for {int(wrong.sum())} of {len(ids)} examples of its "
        "batch. Expected finite scores. Check the model and --preprocessing with that image, or cluster without "
        "predictions with --logits none."
    )
