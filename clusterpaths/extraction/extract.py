"""Stage extract: images in, activations of every layer out (or, without a cache of them, the pixels), a shard at a time.

Belongs here: one shard, from decoding to its record. Which shards there are is `plan.py`; how rows are stored is
`cache/stores.py`. A thread decodes, resizes and normalises the next batches while ONNX Runtime runs this one.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.examples import make_part, write_part
from clusterpaths.cache.manifest import PIXELS, FailedExample, Manifest, ShardRecord, require_manifest, update_shards
from clusterpaths.cache.pixels import PixelStore, ShardPixels
from clusterpaths.cache.stores import ActivationStore, open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.datasets import Dataset, ExampleTable, open_dataset, read_table
from clusterpaths.errors import ExtractionError, Float16OverflowError
from clusterpaths.models.session import Outputs, TapSession
from clusterpaths.preprocessing.prepare import fit, normalise
from clusterpaths.records import CacheDtype, DatasetSpec, ModelRecord, Preprocessing
from clusterpaths.storage import Storage, StoredRecord

_DECODED_AHEAD = 2  # batches; more would only take memory
# An OSError with one of these numbers is about one file; any other (an I/O error, a lost network disk) is about the
# machine, and a retry can help. Pillow's errors carry no number.
MISSING = "missing"  # the reason of an example whose file was listed and then deleted
_ABOUT_ONE_FILE = {None, errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}


class ExtractionJob(StoredRecord):
    """Everything that the extraction of a shard needs, on any machine."""

    model: ModelRecord
    dataset: DatasetSpec
    preprocessing: Preprocessing
    batch_size: int
    max_failed: int
    dataset_fingerprint: str = ""


@dataclass(frozen=True)
class _Batch:
    """Decoded examples of one batch: m of them could be read."""

    positions: NDArray[np.int64]  # (m,) within the shard
    digests: NDArray[np.uint64]  # (m,)
    pixels: NDArray[np.uint8]  # (m, height, width, 3)
    images: NDArray[np.float32]  # (m, 3, height, width)
    failed: list[tuple[int, str]]  # position within the shard, reason


def extract_shard(job: ExtractionJob, index: int, progress: Callable[[int], None] | None = None) -> ShardRecord:
    """Extract one planned shard, write its rows, then record it in the manifest; returns that record.

    Rows are the activations, or the pixels where the cache's format is "none"; the model runs for the predictions then.

    `progress` is called with the number of examples that were done since its last call.

    Raises:
        Float16OverflowError: a layer's values do not fit float16 (`begin.widen_layers` and again).
        ExtractionError: non-finite activations, or more than `job.max_failed` unreadable images in this shard.
        DiskError: no room; files of this shard may exist, unrecorded, and are overwritten by the next run.
    """
    directory = job.storage
    manifest = require_manifest(directory)
    shard = next(shard for shard in manifest.shards if shard.index == index)
    table = _examples_of(job.dataset, shard)
    dtypes = {layer: manifest.layers[layer].dtype for layer in manifest.layers}
    keeps_pixels = manifest.format == "none"
    rows = _row_writer(directory, manifest, shard, table)
    with _sessions.borrow(job.model, dtypes) as session:
        for batch in _decode_ahead(open_dataset(job.dataset), table, job):
            rows.fail(batch.failed)
            if len(rows.failures) > job.max_failed:
                failures = list(rows.failures.values())
                raise ExtractionError(too_many_failures(len(failures), job.max_failed, failures))
            if len(batch.positions):
                outputs = session.run(batch.images)
                _check_finite(outputs, batch, table, job.model)
                values = {PIXELS: batch.pixels} if keeps_pixels else outputs.layers
                rows.add(batch.positions, batch.digests, values, outputs.logits)
            if progress:
                progress(len(batch.positions) + len(batch.failed))
    record = rows.finish()
    if keeps_pixels:
        record = record.model_copy(update={"batch": job.batch_size})
    write_part(directory, index, rows.part())
    update_shards(directory, record)
    return record


def too_many_failures(count: int, allowed: int, failures: list[FailedExample]) -> str:
    """The message for a run with too many unreadable images."""
    shown = "; ".join(f"{failure.file} ({failure.reason})" for failure in failures[:3])
    return (
        f"{count} images cannot be read, and at most {allowed} may fail: {shown}{' …' if count > 3 else ''}. "
        "Repair or remove these files, or allow a larger share with --max-failures."
    )


def _examples_of(spec: DatasetSpec, shard: ShardRecord) -> ExampleTable:
    table = read_table(spec)
    ids = shard.planned_ids()
    positions = np.searchsorted(table.ids, ids)
    if len(ids) and (positions[-1] >= len(table) or not np.array_equal(table.ids[positions], ids)):
        raise ExtractionError(
            f"Shard {shard.index} was planned for images that are no longer in {spec.root}. Run the flow again: it plans again."
        )
    return table.take(positions)


class _Sessions:
    """Idle sessions: creating one takes longer than a small shard."""

    def __init__(self) -> None:
        self._idle: list[tuple[object, TapSession]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self, model: ModelRecord, dtypes: dict[str, CacheDtype]) -> Iterator[TapSession]:
        key = (model.sha256, model.taps, model.size, model.logits, model.providers, tuple(sorted(dtypes.items())))
        with self._lock:
            fitting = next((entry for entry in self._idle if entry[0] == key), None)
            if fitting:
                self._idle.remove(fitting)
        session = fitting[1] if fitting else TapSession(model, dtypes)
        yield session
        with self._lock:
            self._idle.append((key, session))

    def clear(self) -> None:
        with self._lock:
            self._idle.clear()


_sessions = _Sessions()


def release_sessions() -> None:
    """Free the memory of idle sessions, at the end of an extraction."""
    _sessions.clear()


def _decode_ahead(dataset: Dataset, table: ExampleTable, job: ExtractionJob) -> Iterator[_Batch]:
    starts = iter(range(0, len(table), job.batch_size))
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        waiting: deque[Future[_Batch]] = deque()

        def submit_next() -> None:
            if (start := next(starts, None)) is not None:
                stop = min(start + job.batch_size, len(table))
                waiting.append(decoder.submit(_decode, dataset, table, start, stop, job.preprocessing))

        for _ in range(_DECODED_AHEAD):
            submit_next()
        while waiting:
            batch = waiting.popleft().result()
            submit_next()
            yield batch


def _decode(dataset: Dataset, table: ExampleTable, start: int, stop: int, preprocessing: Preprocessing) -> _Batch:
    height, width = preprocessing.size
    pixels = np.empty((stop - start, height, width, 3), np.uint8)
    read: list[int] = []
    digests: list[int] = []
    failed: list[tuple[int, str]] = []
    for position in range(start, stop):
        try:
            digest = dataset.digest(
                table.files[position]
            )  # first: a file replaced in between is noticed by the next run
            pixels[len(read)] = fit(dataset.read_image(table.files[position]), preprocessing)
        except OSError as error:
            if error.errno not in _ABOUT_ONE_FILE:
                raise
            failed.append((position, MISSING if error.errno == errno.ENOENT else str(error)))
        else:
            read.append(position)
            digests.append(digest)
    pixels = pixels[: len(read)]
    images = normalise(pixels, preprocessing)
    return _Batch(np.array(read, np.int64), np.array(digests, np.uint64), pixels, images, failed)


def _check_finite(outputs: Outputs, batch: _Batch, table: ExampleTable, model: ModelRecord) -> None:
    suspects = [layer for layer, values in outputs.layers.items() if has_non_finite(values)]
    if not suspects:
        return
    exact = TapSession(model).run(
        batch.images
    )  # float32: distinguishes an overflow of float16 from inf or NaN in float32
    for layer in suspects:
        finite = np.isfinite(exact.layers[layer]).reshape(len(batch.positions), -1).all(axis=1)
        if not finite.all():
            position = batch.positions[np.argmin(finite)]
            raise ExtractionError(
                f"Layer {layer} outputs values that are not finite (inf or NaN) for example {table.ids[position]} "
                f"({table.files[position]}). Expected finite activations. Check the model and --preprocessing with that "
                "image, or leave the layer out with --layers."
            )
    raise Float16OverflowError(suspects)


def has_non_finite(values: NDArray[Any]) -> bool:
    """Whether float16 or float32 values hold inf or NaN, at the speed of memory.

    Read as integers, inf and NaN are the largest of their sign: two maxima find them, where numpy's isfinite on
    float16 takes longer than the model.
    """
    signed, unsigned = (np.int16, np.uint16) if values.dtype == np.float16 else (np.int32, np.uint32)
    infinity, negative = (0x7C00, 0xFC00) if values.dtype == np.float16 else (0x7F800000, 0xFF800000)
    return bool(values.view(signed).max() >= infinity or values.view(unsigned).max() >= negative)


def _row_writer(directory: Storage, manifest: Manifest, shard: ShardRecord, table: ExampleTable) -> _RowWriter:
    if manifest.format == "none":
        size = manifest.preprocessing.size
        buffers: dict[str, NDArray[Any]] = {PIXELS: np.empty((CHUNK_ROWS, *size, 3), np.uint8)}
        return _RowWriter(PixelStore(directory, size).shard(shard), buffers, shard, table)
    buffers = {layer: np.empty((CHUNK_ROWS, *record.shape), record.dtype) for layer, record in manifest.layers.items()}
    return _RowWriter(open_store(directory, manifest.format, manifest.layers), buffers, shard, table)


class _RowWriter:
    """Collects rows into full chunks, writes them, and builds the shard's record.

    Args:
        store: takes the rows.
        buffers: layer (or pixels) -> one chunk of rows.
        shard: as planned.
        table: its examples.
    """

    def __init__(
        self,
        store: ActivationStore | ShardPixels,
        buffers: dict[str, NDArray[Any]],
        shard: ShardRecord,
        table: ExampleTable,
    ) -> None:
        self._store, self._shard, self._table = store, shard, table
        self._buffers = buffers
        self._hashes = {name: xxhash.xxh3_64() for name in buffers}
        self._written = 0
        self._pending: list[int] = []  # positions whose rows are in the buffers
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
        digests: NDArray[np.uint64],
        rows: Mapping[str, NDArray[Any]],
        logits: NDArray[np.float32] | None,
    ) -> None:
        self._digests[positions] = digests
        if logits is not None:
            if self._logits is None:
                self._logits = np.full((len(self._table), logits.shape[1]), np.nan, np.float32)
            self._logits[positions] = logits
        done = 0
        while done < len(positions):
            at = len(self._pending)
            take = min(len(positions) - done, CHUNK_ROWS - at)
            for layer, buffer in self._buffers.items():
                buffer[at : at + take] = rows[layer][done : done + take]
            self._pending += positions[done : done + take].tolist()
            done += take
            if len(self._pending) == CHUNK_ROWS:
                self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        count, row = len(self._pending), self._shard.start + self._written
        for layer, buffer in self._buffers.items():
            self._store.write(layer, self._table.ids[self._pending], row, buffer[:count])
            self._hashes[layer].update(buffer[:count].data)
        self._rows[self._pending] = np.arange(row, row + count)
        self._written += count
        self._pending.clear()

    def finish(self) -> ShardRecord:
        self._flush()
        failed = tuple(self.failures[position] for position in sorted(self.failures))
        checksums = {layer: digest.hexdigest() for layer, digest in self._hashes.items()}
        return self._shard.model_copy(update={"rows": self._written, "failed": failed, "checksums": checksums})

    def part(self) -> Any:
        errors = [self.failures[p].reason if p in self.failures else None for p in range(len(self._table))]
        return make_part(self._table, self._shard.index, self._rows, errors, self._logits, self._digests)
