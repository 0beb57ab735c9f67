"""Reading activations back: the rows of one layer, as float32, in order of id.

Belongs here: blocks for a streaming pass, single rows for a sample, and the check of each shard's checksum on the way.
Where a cache keeps images and no activations, they are computed again (`recomputed.py`); readers see no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import xxhash
from numpy.typing import NDArray

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.manifest import require_manifest
from clusterpaths.cache.recomputed import RecomputedRows
from clusterpaths.cache.stores import ActivationStore, open_store
from clusterpaths.errors import CacheError, DamagedShardError

# Of float32 values, a block. It depends on the layer alone: never on N, batch or shard size, so that results do not.
BLOCK_BYTES = 16 << 20
MAX_BLOCK_ROWS = 4096


class LayerRows:
    """The rows of one layer that belong to `ids`.

    Args:
        directory: the cache.
        layer: its name.
        ids: (n,) ascending; every one must have a row.
        progress: called with the number of values after each reading.
    """

    def __init__(
        self, directory: Path, layer: str, ids: NDArray[np.int64], progress: Callable[[int], None] | None = None
    ) -> None:
        manifest = require_manifest(directory)
        if layer not in manifest.layers:
            raise CacheError(f"The cache in {directory} has no layer {layer!r}. Run the flow with --layers {layer}.")
        self.layer, self.ids, self._progress = layer, ids, progress
        self.width = int(np.prod(manifest.layers[layer].shape))
        self.block_rows = int(np.clip(BLOCK_BYTES // (self.width * 4), 1, MAX_BLOCK_ROWS))
        self._directory = directory
        self._source: RecomputedRows | ActivationStore = (
            RecomputedRows(directory, manifest, layer)
            if manifest.format == "none"
            else open_store(directory, manifest.format, manifest.layers)
        )
        self._dtype = manifest.layers[layer].dtype
        self._records = {shard.index: shard for shard in manifest.shards if shard.rows is not None}
        examples = read_examples(directory, ["id", "shard", "row"])
        at = np.searchsorted(examples["id"].to_numpy(), ids)
        self._shards = examples["shard"].to_numpy()[at]
        self._rows = examples["row"].to_numpy()[at].astype(np.int64)
        self._checks: dict[int, _Check] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """All rows in order of id, (m, width) float32 at a time; the next block is read while this one is used.

        Raises:
            DamagedShardError: bytes of a shard are not those that were written.
        """
        self._checks.clear()
        if isinstance(self._source, RecomputedRows):
            self._source.forget()
        slices = [slice(a, min(a + self.block_rows, len(self))) for a in range(0, len(self), self.block_rows)]
        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            following = reader.submit(self._read, slices[0], True)
            for current, after in zip(slices, [*slices[1:], None], strict=True):
                block = following.result()
                if after is not None:
                    following = reader.submit(self._read, after, True)
                yield current, block

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, width) float32 rows at these ascending positions of `ids`."""
        return self._read(positions, False)

    def _read(self, positions: slice | NDArray[np.int64], check: bool) -> NDArray[np.float32]:
        ids, shards, rows = self.ids[positions], self._shards[positions], self._rows[positions]
        values = np.empty((len(ids), self.width), self._dtype)
        # Runs of consecutive rows of one shard are read at once.
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(shards) != 0)) + 1
        for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), len(ids)], strict=True):
            self._read_run(values[start:stop], int(shards[start]), ids[start:stop], int(rows[start]), check)
        if self._progress:
            self._progress(values.size)
        return to_float32(values)

    def _read_run(self, values: NDArray[Any], shard: int, ids: NDArray[np.int64], row: int, check: bool) -> None:
        """Fill `values` (n, width) with consecutive rows of one shard from `row` on, those of these n ids."""
        if isinstance(self._source, RecomputedRows):
            start = row - self._records[shard].start
            values[:] = self._source.read(self._records[shard], start, start + len(ids))
            return
        try:
            values[:] = self._source.read(self.layer, ids, row)
        except (FileNotFoundError, RuntimeError, ValueError) as error:  # what Blosc says of damaged bytes
            raise DamagedShardError(
                f"The activations of layer {self.layer} in shard {shard} of {self._directory} cannot be read ({error}). "
                "The shard is made again.",
                shard,
            ) from error
        if check:
            self._check(shard, row, values)

    def _check(self, shard: int, row: int, values: NDArray[Any]) -> None:
        """Follow a shard's rows with its checksum; a shard that is not read whole and in order is not checked."""
        record = self._records[shard]
        check = self._checks.setdefault(shard, _Check(record.start))
        if row != check.next_row:
            return
        check.digest.update(values.data)
        check.next_row += len(values)
        if (
            check.next_row == record.start + (record.rows or 0)
            and check.digest.hexdigest() != record.checksums[self.layer]
        ):
            raise DamagedShardError(
                f"The activations of layer {self.layer} in shard {shard} of {self._directory} are not those that were "
                "written: their checksum differs. The shard is made again.",
                shard,
            )


class _Check:
    def __init__(self, start: int) -> None:
        self.next_row = start
        self.digest = xxhash.xxh3_64()


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """float16 to float32 by ONNX Runtime's Cast, several times as fast as numpy's; float32 comes back as it is."""
    if values.dtype == np.float32:
        return values
    global _cast
    if _cast is None:
        _cast = _cast_session()
    # Bound to an array of numpy's: ONNX Runtime's own memory would keep the size of the largest block for good.
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
