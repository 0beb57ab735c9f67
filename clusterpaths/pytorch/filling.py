"""Running the model on batches, and their rows into the shards that are missing.

Belongs here: the one pass over a loader. What is missing is `collection.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.manifest import Manifest, ShardRecord
from clusterpaths.errors import DatasetError
from clusterpaths.extraction.checks import ROUNDING_IMAGES, Rounding, check_finite, check_scores
from clusterpaths.models.session import Outputs
from clusterpaths.pytorch.batches import Batch
from clusterpaths.pytorch.examples import Files
from clusterpaths.pytorch.network import Network
from clusterpaths.pytorch.session import Runner
from clusterpaths.pytorch.shards import OpenShard, Rows, next_shard
from clusterpaths.records import ModelRecord
from clusterpaths.storage import Storage


@dataclass(frozen=True)
class Work:
    """What a pass does.

    Attributes:
        directory: of the cache.
        manifest: with its shards.
        network: the model.
        model: its record, with all layers of the cache.
        pending: planned shards to fill, ids ascending.
        done: (n,) examples that are complete.
        sizes: examples of each batch that comes; None: not known, so shards end where batches do.
        files: of the examples; None: they have none.
        attributes: names of so many labels that are 0 or 1.
        pixels: 8-bit images of a batch, to be stored; None: not stored.
        compare: checks a batch, whose first example is given, with what is stored.
        name_of: an example, for messages.
        all: every batch is read, also behind the last missing one.
    """

    directory: Storage
    manifest: Manifest
    network: Network
    model: ModelRecord
    pending: tuple[ShardRecord, ...]
    done: NDArray[np.bool_]
    sizes: tuple[int, ...] | None
    files: Files | None
    attributes: Callable[[int], tuple[str, ...]]
    pixels: Callable[[Batch], NDArray[np.uint8] | None]
    compare: Callable[[Batch, int], None]
    name_of: Callable[[int], str]
    all: bool


def fill(work: Work, stream: Iterator[Batch], position: int, advance: Callable[[int], None] | None) -> tuple[int, int]:
    """Fill the missing shards; how many examples were run, and the number behind the last one that was read.

    Args:
        work: what to do.
        stream: batches.
        position: the first example of the first batch.
        advance: called with the number of examples that were written.

    Raises:
        Float16OverflowError: float16 cannot hold a layer's values.
        ExtractionError: values that are not finite.
        DatasetError: a batch of another size than the loader's sampler says.
        CacheError: of `work.compare`.
        ModelError: of `Runner.run`.
    """
    one = _Pass(work)
    did, at = 0, position
    for number, batch in enumerate(stream):
        if work.sizes is not None and len(batch) != work.sizes[number]:
            raise DatasetError(
                f"A batch has {len(batch)} examples where the loader's sampler names {work.sizes[number]}: its collate_fn leaves "
                f"some out, or makes more, from example {at} on. Expected one row per example."
            )
        work.compare(batch, at)
        new = one.take(batch, at)
        did, at = did + new, at + len(batch)
        if advance and new:
            advance(new)
        if one.finished and not work.all:
            break
    one.end()
    return did, at


class _Pass:
    def __init__(self, work: Work) -> None:
        self._work = work
        dtypes = {name: record.dtype for name, record in work.manifest.layers.items()}
        self._dtypes = dtypes
        self._runner = Runner(work.network, work.model, dtypes)
        self._in_float32 = Runner(work.network, work.model, {})
        self._pending = {int(shard.planned_ids()[0]): shard for shard in work.pending}
        self._shards = list(work.manifest.shards)
        self._open: OpenShard | None = None
        begins = (bool(self._pending) and min(self._pending) == 0) or not work.manifest.shards
        self._rounding = Rounding(dtypes, ROUNDING_IMAGES if begins else 0, self._exact)

    @property
    def finished(self) -> bool:
        """Whether no planned shard is left."""
        return self._work.sizes is not None and not self._pending and self._open is None

    def _exact(self, batches: list[Any]) -> list[Outputs]:
        return [self._in_float32.run(inputs, count) for inputs, count in batches]

    def take(self, batch: Batch, first: int) -> int:
        """Run a batch and write what is missing of it; how many examples that were."""
        segments = list(self._missing(first, first + len(batch)))
        if not segments:
            return 0
        work, ids = self._work, np.arange(first, first + len(batch))
        outputs = self._runner.run(batch.inputs, len(batch))
        again = batch.inputs, len(batch)
        check_finite(outputs, again, ids, self._dtypes, self._exact, work.name_of)
        check_scores(outputs, ids, work.model.outputs, work.name_of)
        self._rounding.add(outputs, again, len(batch))
        rows = Rows(batch.digests, labels_of(batch), batch.attributes, work.pixels(batch))
        for begin, end in segments:
            self._write(rows, outputs, begin, end, first)
        if self._open and self._open.full:
            self._close()
        return sum(end - begin for begin, end in segments)

    def _missing(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Stretches of examples without activations."""
        done = np.zeros(end - first, bool)
        known = self._work.done[first:end]
        done[: len(known)] = known
        edges = np.flatnonzero(np.diff(np.r_[True, done, True].astype(np.int8)))
        return zip((first + edges[::2]).tolist(), (first + edges[1::2]).tolist(), strict=True)

    def _write(self, rows: Rows, outputs: Outputs, begin: int, end: int, first: int) -> None:
        while begin < end:
            if self._open is None:
                self._open = self._opened(begin)
            own = min(end - begin, self._open.room)
            self._open.add(rows, outputs, slice(begin - first, begin - first + own))
            begin += own
            if self._open.room == 0:
                self._close()

    def _opened(self, example: int) -> OpenShard:
        work = self._work
        if example in self._pending:
            return OpenShard(work.directory, work.manifest, self._pending.pop(example))
        shard = next_shard(self._shards, example, example + 1)
        return OpenShard(work.directory, work.manifest, shard, open_end=True)

    def _close(self) -> None:
        assert self._open is not None
        record = self._open.finish(self._work.files, self._work.model.outputs, self._work.attributes)
        self._shards = [shard for shard in self._shards if shard.index != record.index] + [record]
        self._open = None

    def end(self) -> None:
        """No batch is left."""
        self._rounding.check()
        if self._open is not None:
            if self._open.room < 1 << 61:
                raise DatasetError(
                    f"The loader ended at example {self._open.at}, before those that its sampler names. Run again: it "
                    "continues there."
                )
            self._close()


def labels_of(batch: Batch) -> NDArray[np.int32]:
    """(n,) class numbers, -1 where there is none."""
    return np.full(len(batch), -1, np.int32) if batch.labels is None else batch.labels
