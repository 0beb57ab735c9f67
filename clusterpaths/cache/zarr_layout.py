"""How a layer is stored in a zarr array: chunk size, codec, and which chunks hold a shard.

Belongs here: only the layout. Reading and writing arrays is `stores.py`; where they are is up to the storage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Literal

import numpy as np
from zarr.codecs import BloscCodec

from clusterpaths.cache.manifest import LayerRecord, ShardRecord

CHUNK_ROWS = 64
# The share of their plain size that CelebA's five layers take as float16 with Blosc (measured; see docs/speed.md).
ZARR_RATIO = 0.45
_WIDE = 50_000  # bytes per row
_BLOSC_BLOCK = 1 << 18  # a larger block than Blosc's default: zstd is faster and smaller with it


def chunk_shape(layer: LayerRecord) -> tuple[int, ...]:
    """Of all values of 64 examples."""
    return CHUNK_ROWS, *layer.shape


def codec(layer: LayerRecord) -> BloscCodec:
    """lz4 for wide layers, which take most of the time, zstd for the others.

    Without byte shuffle for float16: activations behind a ReLU are runs of zeros, which both find faster as they are.
    CelebA's five layers, measured: 109 KB per image in 0.34 ms of one core; lz4 with shuffle takes 117 KB and 0.45 ms.
    """
    wide = int(np.prod(layer.shape)) * np.dtype(layer.dtype).itemsize >= _WIDE
    shuffle: Literal["noshuffle", "shuffle"] = "noshuffle" if layer.dtype == "float16" else "shuffle"
    if wide:
        return BloscCodec(cname="lz4", clevel=9, shuffle=shuffle, blocksize=_BLOSC_BLOCK)
    return BloscCodec(cname="zstd", clevel=1, shuffle=shuffle, blocksize=_BLOSC_BLOCK)


def slots(examples: int) -> int:
    """Rows that a shard has in a zarr array: complete chunks, so that no two shards ever write to the same chunk."""
    return -(-examples // CHUNK_ROWS) * CHUNK_ROWS


def chunk_file(layer: LayerRecord, row: int) -> str:
    """The file, within the array's directory, of the chunk that holds a row."""
    return f"c/{row // CHUNK_ROWS}{'/0' * len(layer.shape)}"


def chunk_files(layer: LayerRecord, shard: ShardRecord) -> Iterator[str]:
    """The files of the chunks that hold a recorded shard's rows."""
    for row in range(shard.start // CHUNK_ROWS * CHUNK_ROWS, shard.start + (shard.rows or 0), CHUNK_ROWS):
        yield chunk_file(layer, row)


def is_complete_chunk(file: BinaryIO) -> bool:
    """Whether a chunk's file has the size in Blosc's header (16 bytes, the last four: compressed size)."""
    header = file.read(16)
    return len(header) == 16 and int.from_bytes(header[12:], "little") == os.fstat(file.fileno()).st_size
