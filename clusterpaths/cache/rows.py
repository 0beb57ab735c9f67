"""Reading activations back: the rows of one layer, as float32, in order of id.

Belongs here: blocks for a streaming pass, single rows for a sample, and the check of each shard's checksum on the way.
A cache without activations has those of a sample while it is clustered (`manifest.SAMPLE`), a cache of its own.
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

from clusterpaths.cache.extracted import locate
from clusterpaths.cache.manifest import SAMPLE, ShardRecord, require_manifest
from clusterpaths.cache.stores import open_store
from clusterpaths.cache.zarr_layout import CHUNK_ROWS
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.storage import Storage

# Bytes of float32 values per block. They depend on the layer only, not on N, batch or shard size: so do the results.
BLOCK_BYTES = 16 << 20
MAX_BLOCK_ROWS = 4096


def stored_rows(directory: Storage) -> Storage:
    """Where a cache has activations: itself or, where it stores images only, the cache of its sample."""
    return directory / SAMPLE if require_manifest(directory).format == "none" else directory


def block_rows(width: int) -> int:
    """How many rows of this many values are read at a time."""
    return int(np.clip(BLOCK_BYTES // (width * 4), 1, MAX_BLOCK_ROWS))


class LayerRows:
    """The rows of one layer that belong to `ids`.

    Args:
        directory: the cache.
        layer: its name.
        ids: (n,) ascending; every one must have a row.
        progress: called with the number of values after each reading.

    Attributes:
        width: values per row.
        block_rows: maximum number of rows per block.

    Raises:
        CacheError: the cache has no such layer, or not all of these rows.
    """

    def __init__(
        self, directory: Storage, layer: str, ids: NDArray[np.int64], progress: Callable[[int], None] | None = None
    ) -> None:
        directory = stored_rows(directory)
        manifest = require_manifest(directory)
        if layer not in manifest.layers:
            raise CacheError(f"The cache in {directory} has no layer {layer!r}. Run the flow with --layers {layer}.")
        self.layer, self.ids, self._progress = layer, ids, progress
        self.width = int(np.prod(manifest.layers[layer].shape))
        self.block_rows = block_rows(self.width)
        self._directory = directory
        self._store = open_store(directory, manifest.format, manifest.layers)
        self._chunked = manifest.format == "zarr"
        self._dtype = manifest.layers[layer].dtype
        self._records = [shard for shard in manifest.shards if shard.rows is not None]
        self._shards, within = locate(self._records, ids)
        if len(ids) and self._shards.min() < 0:
            raise CacheError(
                f"The cache in {directory} lacks the activations of {int((self._shards < 0).sum()):,} of {len(ids):,} examples. "
                "Run the flow again; it extracts them."
            )
        starts = np.array([record.start for record in self._records] or [0], np.int64)
        self._rows = starts[self._shards] + within
        self._ends = np.array([record.start + (record.rows or 0) for record in self._records], np.int64)
        self._checks: dict[int, _Check] = {}
        # Of each shard, the chunk that was read in part: its first row, and its values.
        self._held: dict[int, tuple[int, NDArray[Any]]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(
        self, positions: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[slice | NDArray[np.int64], NDArray[np.float32]]]:
        """Rows at these ascending positions of `ids`, or all: positions and (m, width) float32, in order of id.

        The next block is read while this one is used.

        Raises:
            CorruptedShardError: bytes of a shard differ from their checksum, which is compared where all of it is read.
        """
        self._checks.clear()
        self._held.clear()
        count = len(self) if positions is None else len(positions)
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            waiting: Future[NDArray[np.float32]] | None = None
            current: slice | NDArray[np.int64] = slice(0, 0)
            for start in range(0, count, self.block_rows):
                stop = min(start + self.block_rows, count)
                following = slice(start, stop) if positions is None else positions[start:stop]
                # in a copy of the context: with the logger of the run
                submitted = reader.submit(contextvars.copy_context().run, self._read, following)
                if waiting is not None:
                    yield current, waiting.result()
                waiting, current = submitted, following
            if waiting is not None:
                yield current, waiting.result()

    def _read(self, positions: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        ids, shards, rows = self.ids[positions], self._shards[positions], self._rows[positions]
        # In order of storage: ids of a sample that has grown alternate between shards, and each chunk would be read many times.
        order = np.argsort(rows, kind="stable")
        ids, shards, rows = ids[order], shards[order], rows[order]
        runs = list(self._runs(shards, rows))
        if len(runs) == 1:  # without a copy
            values = self._read_run(int(shards[0]), ids, rows, runs[0][2])
        else:
            values = np.empty((len(ids), self.width), self._dtype)
            for start, stop, part in runs:
                values[start:stop] = self._read_run(int(shards[start]), ids[start:stop], rows[start:stop], part)
        self._held = {shard: held for shard, held in self._held.items() if shard in shards}
        if (np.diff(order) < 0).any():
            values = values[np.argsort(order)]
        if self._progress:
            self._progress(values.size)
        return to_float32(values)

    def _runs(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
        """Start and stop of runs of these rows (n,), and whether a run is only a part of its chunk.

        A run is of consecutive rows of one shard; in zarr of complete chunks, or of some rows of one chunk.
        """
        within = np.diff(shards) == 0
        if not self._chunked:
            starts = np.flatnonzero(np.append(True, (np.diff(rows) != 1) | ~within))
            part = np.zeros(len(starts), bool)
        else:
            starts = np.flatnonzero(np.append(True, (np.diff(rows // CHUNK_ROWS) != 0) | ~within))
            sizes = np.minimum(self._ends[shards[starts]] - rows[starts] // CHUNK_ROWS * CHUNK_ROWS, CHUNK_ROWS)
            part = np.diff(starts, append=len(rows)) != sizes
            joined = np.append(False, ~part[1:] & ~part[:-1] & (np.diff(shards[starts]) == 0))
            joined[1:] &= rows[starts[1:]] == rows[starts[1:] - 1] + 1
            starts, part = starts[~joined], part[~joined]
        yield from zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], part.tolist(), strict=True)

    def _read_run(self, shard: int, ids: NDArray[np.int64], rows: NDArray[np.int64], part: bool) -> NDArray[Any]:
        """(n, width) of these rows (n,), a run as `_runs` describes it."""
        record = self._records[shard]
        try:
            values = self._part_of_chunk(shard, rows) if part else self._store.read(self.layer, ids, rows)
        except UNREADABLE as error:
            raise unreadable(self._directory, self.layer, record.index, error) from error
        self._check(record, rows, values)
        return values

    def _part_of_chunk(self, shard: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows of one chunk. It is decompressed once: the other rows are in the next blocks, as ids rise in every shard."""
        record, start = self._records[shard], int(rows[0]) // CHUNK_ROWS * CHUNK_ROWS
        held = self._held.get(shard)
        if held is None or held[0] != start:
            chunk = np.arange(start, min(start + CHUNK_ROWS, int(self._ends[shard])))
            ids = record.row_ids()[chunk - record.start]
            held = self._held[shard] = start, self._store.read(self.layer, ids, chunk)
        return held[1][rows - start]

    def _check(self, record: ShardRecord, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Update a shard's checksum with the rows read; a shard that is not read completely and in order is not checked."""
        check = self._checks.setdefault(record.index, _Check(record.start))
        if rows[0] != check.next_row or rows[-1] - rows[0] >= len(rows):
            return
        check.digest.update(values.data)
        check.next_row += len(values)
        if check.next_row == record.start + (record.rows or 0):
            require_checksum(self._directory, self.layer, record, check.digest.hexdigest())


UNREADABLE = (
    FileNotFoundError,
    RuntimeError,
    ValueError,
)  # what stores and Blosc raise for missing and corrupted bytes


def unreadable(directory: Storage, layer: str, shard: int, error: Exception) -> CorruptedShardError:
    """The error for a shard of which rows cannot be read."""
    return CorruptedShardError(
        f"The activations of layer {layer} in shard {shard} of {directory} cannot be read ({error}). "
        "The shard is extracted again.",
        shard,
    )


def require_checksum(directory: Storage, layer: str, record: ShardRecord, found: str) -> None:
    """Compare the checksum of all rows of a shard with the recorded one.

    Raises:
        CorruptedShardError: it differs.
    """
    if found != record.checksums[layer]:
        raise CorruptedShardError(
            f"The activations of layer {layer} in shard {record.index} of {directory} are not those that were "
            "written: their checksum differs. The shard is extracted again.",
            record.index,
        )


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
