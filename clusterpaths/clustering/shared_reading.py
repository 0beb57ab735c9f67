"""Rows of several layers from one run of the model: for a cache without activations, where each reading runs the model.

Belongs here: sharing the runs of `recomputed.py` among the layers that need the same rows. Each layer gets the same
blocks as from `rows.LayerRows`, from the same runs: so results are bitwise equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.recomputed import RecomputedRows, Shard
from clusterpaths.cache.rows import LayerRows, reading_weight, to_float32
from clusterpaths.clustering.reading import Pass, Rows, Steps, Where
from clusterpaths.common.threads import one_thread
from clusterpaths.storage import Storage

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows, in the order of reading, from one run of the model."""

    shard: Shard
    first: int  # the run's rows within the shard
    last: int
    rows: NDArray[np.int64]  # (m,) within the run


class SharedReading:
    """Layers of a cache of the format "none", for the same (n,) ascending ids.

    Args:
        directory: the cache.
        layers: their names.
        ids: every one must have a row.
        workers: runs of the model at a time.
        progress: called with the number of values of each block, as by `LayerRows`.
    """

    def __init__(
        self,
        directory: Storage,
        layers: tuple[str, ...],
        ids: NDArray[np.int64],
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        manifest = require_manifest(directory)
        self.layers = {layer: LayerRows(directory, layer, ids) for layer in layers}
        self._any = self.layers[layers[0]]
        self._source = RecomputedRows(directory, manifest, layers)
        self._dtypes = {layer: manifest.layers[layer].dtype for layer in layers}
        self._workers, self._progress = workers, progress

    def run(self, steps: Callable[[str, Rows], Steps[Result]]) -> dict[str, Result]:
        """Run every layer's steps (`reading.Steps`), with one reading for all that need the same rows.

        Raises:
            CorruptedShardError: a shard's pixels are corrupted.
            ModelError: the model file is missing or was replaced.
        """
        running = {layer: steps(layer, rows) for layer, rows in self.layers.items()}
        requested: dict[str, Pass] = {}
        results: dict[str, Result] = {}

        def advance(layer: str) -> None:
            try:
                requested[layer] = next(running[layer])
            except StopIteration as end:
                requested.pop(layer, None)
                results[layer] = end.value

        with one_thread():
            for layer in running:
                advance(layer)
            while requested:
                wanted = next(iter(requested.values())).positions
                group = {layer: one for layer, one in requested.items() if _same(one.positions, wanted)}
                for layer, where, block in self._blocks(wanted, group):
                    group[layer].add(where, block)
                for layer in group:
                    advance(layer)
        return {layer: results[layer] for layer in self.layers}

    def _blocks(
        self, positions: NDArray[np.int64] | None, layers: Mapping[str, Pass]
    ) -> Iterator[tuple[str, Where, NDArray[np.float32]]]:
        """Every layer's own blocks, as they fill up."""
        parts = {layer: self.layers[layer].parts(positions) for layer in layers}
        filling: dict[str, tuple[Where, NDArray[np.float32]]] = {}
        filled, weight = dict.fromkeys(layers, 0), reading_weight(positions)
        for run in self._runs(positions):
            for layer in layers:
                rows, done = run[layer], 0
                while done < len(rows):
                    if layer not in filling:
                        where = next(parts[layer])
                        count = where.stop - where.start if isinstance(where, slice) else len(where)
                        filling[layer] = (where, np.empty((count, rows.shape[1]), self._dtypes[layer]))
                    where, block = filling[layer]
                    take = min(len(block) - filled[layer], len(rows) - done)
                    block[filled[layer] : filled[layer] + take] = rows[done : done + take]
                    done, filled[layer] = done + take, filled[layer] + take
                    if filled[layer] == len(block):
                        del filling[layer]
                        filled[layer] = 0
                        if self._progress:
                            self._progress(block.size * weight)
                        yield layer, where, to_float32(block)

    def _runs(self, positions: NDArray[np.int64] | None) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Layer -> the requested rows of one run after the other, computed a few runs ahead."""
        self._source.forget()
        waiting: deque[Future[dict[str, NDArray[np.float32]]]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="model") as pool:
            try:
                for piece in self._pieces(positions):
                    waiting.append(pool.submit(self._compute, piece))
                    if len(waiting) > self._workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for left in waiting:
                    left.cancel()

    def _compute(self, piece: _Piece) -> dict[str, NDArray[np.float32]]:
        found = self._source.compute(piece.shard, piece.first, piece.last)
        complete = len(piece.rows) == piece.last - piece.first
        return found if complete else {layer: rows[piece.rows] for layer, rows in found.items()}

    def _pieces(self, positions: NDArray[np.int64] | None) -> Iterator[_Piece]:
        order = self._any.in_order(positions)
        shards, rows = self._any.places(slice(None) if order is None else order)
        edges = np.flatnonzero(np.diff(shards)) + 1
        for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(shards)], strict=True):
            record = self._any.record(int(shards[start]))
            shard = self._source.shard(record)
            own = rows[start:stop] - record.start
            run = np.searchsorted(shard.edges, own, side="right") - 1
            breaks = np.flatnonzero(np.diff(run)) + 1
            for a, b in zip([0, *breaks.tolist()], [*breaks.tolist(), len(own)], strict=True):
                first, last = int(shard.edges[run[a]]), int(shard.edges[run[a] + 1])
                yield _Piece(shard, first, last, own[a:b] - first)


def _same(one: NDArray[np.int64] | None, other: NDArray[np.int64] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
