"""Reading activations back: the rows of one layer, as float32, in order of id.

Belongs here: blocks for a streaming pass, single rows for a sample, and the check of each shard's checksum on the way.
Where a cache stores images and no activations, these are recomputed (`recomputed.py`); readers see no difference.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.fit_sample import SAMPLE_ROWS, fit_positions
from clusterpaths.cache.manifest import ShardRecord, require_manifest
from clusterpaths.cache.recomputed import RecomputedRows
from clusterpaths.cache.stores import ActivationStore, open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.storage import Storage

# Bytes of float32 values per block. They depend on the layer only, not on N, batch or shard size: so do the results.
BLOCK_BYTES = 16 << 20
MAX_BLOCK_ROWS = 4096
SAMPLE_WEIGHT = 3  # of a pass over a row: 1.7 ms for two readings of a sample's row of CelebA's layers, 0.35 for others


class LayerRows:
    """The rows of one layer that belong to `ids`.

    Args:
        directory: the cache.
        layer: its name.
        ids: (n,) ascending; every one must have a row.
        progress: called with the number of values after each reading, those of a small sample weighted.

    Attributes:
        width: values per row.
        block_rows: maximum number of rows per block.
        fit: (m,) ascending positions to fit on, or None for all (`fit_sample.fit_positions`).
    """

    def __init__(
        self, directory: Storage, layer: str, ids: NDArray[np.int64], progress: Callable[[int], None] | None = None
    ) -> None:
        manifest = require_manifest(directory)
        if layer not in manifest.layers:
            raise CacheError(f"The cache in {directory} has no layer {layer!r}. Run the flow with --layers {layer}.")
        self.layer, self.ids, self._progress = layer, ids, progress
        self.fit = fit_positions(ids)
        self.width = int(np.prod(manifest.layers[layer].shape))
        self.block_rows = int(np.clip(BLOCK_BYTES // (self.width * 4), 1, MAX_BLOCK_ROWS))
        self._directory = directory
        self._source: RecomputedRows | ActivationStore = (
            RecomputedRows(directory, manifest, (layer,))
            if manifest.format == "none"
            else open_store(directory, manifest.format, manifest.layers)
        )
        self._chunked = manifest.format == "zarr"
        self._dtype = manifest.layers[layer].dtype
        self._records = {shard.index: shard for shard in manifest.shards if shard.rows is not None}
        between = (int(ids[0]), int(ids[-1])) if len(ids) else None
        examples = read_examples(directory, ["id", "shard", "row"], between)
        at = np.searchsorted(examples["id"].to_numpy(), ids)
        self._shards = examples["shard"].to_numpy()[at]
        self._rows = examples["row"].to_numpy()[at].astype(np.int64)
        self._checks: dict[int, _Check] = {}
        self._read_again = set[int]()

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(
        self, positions: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice | NDArray[np.int64], NDArray[np.float32]]]:
        """Rows at these ascending positions of `ids`, or all: positions and (m, width) float32.

        All rows come in order of id, but those of `fit` first. The next block is read while this one is used.

        Raises:
            CorruptedShardError: bytes of a shard differ from their checksum.
        """
        self._checks.clear()
        if isinstance(self._source, RecomputedRows):
            self._source.forget()
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            waiting: Future[NDArray[np.float32]] | None = None
            current: slice | NDArray[np.int64] = slice(0, 0)
            weight = reading_weight(positions)
            for following in self.parts(positions):
                submitted = reader.submit(
                    contextvars.copy_context().run, self._read, following, True, weight
                )  # with the logger of the run
                if waiting is not None:
                    yield current, waiting.result()
                waiting, current = submitted, following
            if waiting is not None:
                yield current, waiting.result()
            if positions is None:
                reader.submit(contextvars.copy_context().run, self._check_rest).result()

    def _check_rest(self) -> None:
        """Read shards again, in order, whose rows were all read but out of order: `fit` rows came before the others."""
        for shard, check in list(self._checks.items()):
            record = self._records[shard]
            own = record.row_ids()
            at = np.searchsorted(self.ids, own)
            complete = check.next_row == record.start + len(own)
            if complete or shard in self._read_again or not np.array_equal(self.ids[at.clip(max=len(self) - 1)], own):
                continue
            del self._checks[shard]
            self._read_again.add(shard)  # once, however often these rows are read
            for start in range(0, len(own), self.block_rows):
                self._read(at[start : start + self.block_rows], True, 0)

    def parts(self, positions: NDArray[np.int64] | None = None) -> Iterator[slice | NDArray[np.int64]]:
        """Where the rows of each block are, as `blocks` yields them."""
        count, ordered = len(self) if positions is None else len(positions), self.in_order(positions)
        for start in range(0, count, self.block_rows):
            stop = min(start + self.block_rows, count)
            yield slice(start, stop) if ordered is None else ordered[start:stop]

    def in_order(self, positions: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """These positions, or all, in the order in which they are read; None where that is 0, 1, 2 …"""
        if positions is not None or self.fit is None:
            return positions
        return np.concatenate([self.fit, np.setdiff1d(np.arange(len(self)), self.fit, assume_unique=True)])

    def places(self, positions: slice | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row of the cache, (m,) each, of these positions."""
        return self._shards[positions], self._rows[positions]

    def record(self, shard: int) -> ShardRecord:
        """The manifest's record of a shard."""
        return self._records[shard]

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, width) float32 rows at these ascending positions of `ids`; their checksums are not compared."""
        return self._read(positions, False)

    def _read(self, positions: slice | NDArray[np.int64], check: bool, weight: int = 1) -> NDArray[np.float32]:
        ids, shards, rows = self.ids[positions], self._shards[positions], self._rows[positions]
        values = np.empty((len(ids), self.width), self._dtype)
        # Consecutive rows of one shard are read at once, and so are rows of one chunk: it is decompressed completely.
        ends = (np.diff(rows) != 1) | (np.diff(shards) != 0)
        if self._chunked:
            ends &= np.diff(rows // CHUNK_ROWS) != 0
            ends |= np.diff(rows) <= 0  # where those to fit on end, in one chunk with the first of the others
        breaks = np.flatnonzero(ends) + 1
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(ids)], strict=True):
            self._read_run(values[start:stop], int(shards[start]), ids[start:stop], rows[start:stop], check)
        if self._progress:
            self._progress(values.size * weight)
        return to_float32(values)

    def _read_run(
        self, values: NDArray[Any], shard: int, ids: NDArray[np.int64], rows: NDArray[np.int64], check: bool
    ) -> None:
        """Fill `values` (n, width) with these rows (n,) of one shard: consecutive ones, or all in one chunk."""
        if isinstance(self._source, RecomputedRows):
            start = int(rows[0]) - self._records[shard].start
            values[:] = self._source.read(self._records[shard], start, start + len(ids))[self.layer]
            return
        try:
            values[:] = self._source.read(self.layer, ids, rows)
        except (FileNotFoundError, RuntimeError, ValueError) as error:  # what Blosc raises for corrupted bytes
            raise CorruptedShardError(
                f"The activations of layer {self.layer} in shard {shard} of {self._directory} cannot be read ({error}). "
                "The shard is extracted again.",
                shard,
            ) from error
        if check:
            self._check(shard, rows, values)

    def _check(self, shard: int, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Update a shard's checksum with the rows read; a shard that is not read completely and in order is not checked."""
        record = self._records[shard]
        check = self._checks.setdefault(shard, _Check(record.start))
        if rows[0] != check.next_row or rows[-1] - rows[0] >= len(rows):
            return
        check.digest.update(values.data)
        check.next_row += len(values)
        if (
            check.next_row == record.start + (record.rows or 0)
            and check.digest.hexdigest() != record.checksums[self.layer]
        ):
            raise CorruptedShardError(
                f"The activations of layer {self.layer} in shard {shard} of {self._directory} are not those that were "
                "written: their checksum differs. The shard is extracted again.",
                shard,
            )


def reading_weight(positions: NDArray[np.int64] | None) -> int:
    """Weight of a row in `progress`: a sample row for the first centroids is also projected, and clustered ten times."""
    return SAMPLE_WEIGHT if positions is not None and len(positions) <= SAMPLE_ROWS else 1


class _Check:
    def __init__(self, start: int) -> None:
        self.next_row = start
        self.digest = xxhash.xxh3_64()


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """float16 to float32 by ONNX Runtime's Cast, several times as fast as numpy's; float32 is returned unchanged."""
    if values.dtype == np.float32:
        return values
    global _cast
    if _cast is None:
        _cast = _cast_session()
    # Bound to an array of numpy's: ONNX Runtime's own memory would stay at the size of the largest block.
    result = np.empty(values.shape, np.float32)
    binding = _cast.io_binding()
    binding.bind_input("x", "cpu", 0, np.float16, values.shape, values.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)
    _cast.run_with_iobinding(binding)
    return result


_cast: Any = None


def _cast_session() -> Any:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["n", "d"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", "d"])
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([node], "cast", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
