"""examples.parquet: the examples of a cache, stored once beside their activations.

Belongs here: its columns, a part for each shard, and joining the parts. Columns: id, file, size (bytes), shard, row (null: no
activations), error, prediction, logits, mtime (ns since the epoch) and digest (xxh3 of the bytes) of the file that was
read. What the data set says of an example may change: that is `registry.py`. Parts from before 2026-11-29 have it too: split,
label, and attr_NAME for each attribute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.cache.manifest import ShardRecord
from clusterpaths.common.corrupted import reading
from clusterpaths.datasets.base import ExampleTable
from clusterpaths.errors import CacheError, CorruptedShardError
from clusterpaths.models.outputs import decide
from clusterpaths.records import ModelOutputs
from clusterpaths.storage import Storage

EXAMPLES = "examples.parquet"
PARTS = "examples"
ATTRIBUTE = "attr_"
READ = pa.schema(
    [("id", pa.int64()), ("file", pa.string()), ("size", pa.int64()), ("mtime", pa.int64()), ("digest", pa.uint64()),
     ("error", pa.string())]
)  # fmt: skip
GAPS = frozenset(("mtime", "digest", "error", "row", "logits"))
_TYPES = {
    **{name: READ.field(name).type for name in ("id", "file", "size", "error")}, "prediction": (pa.int16(), pa.int32()),
    "logits": pa.list_(pa.float32()),
}  # fmt: skip


def require_columns(table: pa.Table, types: Mapping[str, pa.DataType | tuple[pa.DataType, ...]]) -> None:
    """Check that a table has these columns, each once and of one of these types; with gaps only in `GAPS`.

    Raises:
        ValueError: it has not.
    """
    for name, kinds in types.items():
        if table.column_names.count(name) != 1:
            raise ValueError(f"it has {table.column_names.count(name)} columns {name}")
        column = table[name]
        if column.type not in (kinds if isinstance(kinds, tuple) else (kinds,)):
            raise ValueError(f"its column {name} is of {column.type}")
        if column.null_count and name not in GAPS:
            raise ValueError(f"its column {name} has gaps")


def part_file(shard: int) -> str:
    """The file in PARTS with the table of one shard's examples."""
    return f"{shard:05d}.parquet"


def class_type(classes: int) -> type[np.int16] | type[np.int32]:
    """Of labels and predictions: the narrower type that holds so many classes and -1."""
    return np.int16 if classes <= np.iinfo(np.int16).max + 1 else np.int32


def make_part(
    table: ExampleTable,
    shard: int,
    rows: NDArray[np.int64],
    errors: list[str | None],
    logits: NDArray[np.float32] | None,
    outputs: ModelOutputs,
    digests: NDArray[np.uint64],
) -> pa.Table:
    """The rows of one shard.

    Args:
        table: its n examples.
        shard: its index.
        rows: (n,) row in the store, -1 where the example has no activations.
        errors: n reasons, None where there is none.
        logits: (n, width) raw output rows, NaN where there are none; None where the model has no such output.
        outputs: what they mean.
        digests: (n,) of what was read; ignored where the example has no activations.
    """
    read = rows >= 0
    prediction = np.full(len(table), -1, class_type(outputs.classes))
    if logits is not None and read.any():
        by_index = outputs.model_copy(
            update={"order": ()}
        )  # the order of the classes is found for a set, not for a cache
        prediction[read] = decide(by_index, logits[read]).predictions
    columns: dict[str, pa.Array] = {
        "id": pa.array(table.ids, pa.int64()),
        "file": pa.array(table.files, pa.string()),
        "size": pa.array(table.sizes, pa.int64()),
        "shard": pa.array(np.full(len(table), shard), pa.int32()),
        "row": pa.array(rows, pa.int64(), mask=~read),
        "error": pa.array(errors, pa.string()),
        "prediction": pa.array(prediction),
        "logits": pa.array([None] * len(table), pa.list_(pa.float32()))
        if logits is None
        else pa.array(list(logits), pa.list_(pa.float32()), mask=~read),
    }
    columns["mtime"] = pa.nulls(len(table), pa.int64()) if table.mtimes is None else pa.array(table.mtimes, pa.int64())
    columns["digest"] = pa.array(digests, pa.uint64(), mask=~read)
    return pa.table(columns)


def write_part(directory: Storage, shard: int, part: pa.Table) -> None:
    """Write the file atomically."""
    write_table(directory, f"{PARTS}/{part_file(shard)}", part)


def write_table(directory: Storage, name: str, table: pa.Table) -> None:
    """Write the file atomically, zstd, without metadata that changes from run to run."""
    with directory.write(name) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_part(parts: Path, shard: ShardRecord) -> pa.Table:
    """The table of a recorded shard's examples, from the directory PARTS on this machine.

    Raises:
        CorruptedShardError: it is missing, empty, incomplete or of other examples, or bytes differ from their checksum.
        OSError: of the disk; a retry can help.
    """
    path = parts / part_file(shard.index)
    try:
        with reading():
            table = pq.read_table(path, page_checksum_verification=True)
            require_columns(table, {name: _TYPES[name] for name in ("id", "file", "size", "error")})
            if np.array_equal(table["id"].to_numpy(), shard.planned_ids()):
                return table
        reason: object = "it has other examples"
    except FileNotFoundError as error:
        reason = error.strerror or "missing"
    except ValueError as error:
        reason = error
    raise CorruptedShardError(
        f"The examples of shard {shard.index} in {path} cannot be read ({reason}). The shard is extracted again.",
        shard.index,
    )


def join_parts(directory: Storage, shards: list[ShardRecord]) -> None:
    """examples.parquet out of the parts of these recorded shards, ids ascending, one row per id.

    An example that failed and whose file was repaired since is in two parts: the later one counts.

    Raises:
        CorruptedShardError: as `read_part`.
    """
    local = directory.local_tree(PARTS)
    parts = [read_part(local, shard) for shard in shards]
    # "permissive": parts from before 2026-11-29 have more columns, parts from before 2026-11-28 fewer
    table = pa.concat_tables(parts, promote_options="permissive")
    write_table(directory, EXAMPLES, _latest(table.sort_by([("id", "ascending"), ("shard", "ascending")])))


def _latest(table: pa.Table) -> pa.Table:
    """The last row of each id."""
    ids = table["id"].to_numpy()
    return table.filter(pa.array(np.append(ids[1:] != ids[:-1], True))) if len(ids) else table


def read_parts(directory: Storage, shards: list[ShardRecord]) -> tuple[pa.Table, set[int]]:
    """What was read when these recorded shards were extracted, and which of them have a part as it was written.

    Columns id, file, size, mtime, digest (null in parts from before these columns) and error; one row per id, ids ascending.
    """
    local, tables, complete = directory.local_tree(PARTS), [], set()
    for shard in sorted(shards, key=lambda shard: shard.index):
        try:
            table = read_part(local, shard)
        except CorruptedShardError:
            continue  # the shard is extracted again
        for name in {"mtime", "digest"} - set(table.column_names):
            table = table.append_column(name, pa.nulls(len(table), READ.field(name).type))
        with contextlib.suppress(ValueError), reading():  # else the shard is extracted again, too
            tables.append(table.select(READ.names).cast(READ))
            complete.add(shard.index)
    # a stable sort: of an example that failed and whose file was repaired since, the later shard counts
    ordered = pa.concat_tables([READ.empty_table(), *tables]).combine_chunks()
    order = np.argsort(ordered["id"].to_numpy(), kind="stable")
    return _latest(ordered.take(pa.array(order))), complete


def read_examples(
    directory: Storage, columns: list[str] | None = None, between: tuple[int, int] | None = None
) -> pa.Table:
    """Columns of examples.parquet, ids ascending; only of ids from one to another where these are given.

    Raises:
        CacheError: it is missing or cannot be read.
    """
    path = directory.local(EXAMPLES)
    if not path.is_file():
        raise CacheError(
            f"{directory / EXAMPLES} is missing: extraction has not finished here. Run the flow again; it continues from "
            "there."
        )
    filters = [("id", ">=", between[0]), ("id", "<=", between[1])] if between else None
    try:
        with reading():
            table = pq.read_table(path, columns=columns, filters=filters)
            require_columns(table, {name: kind for name, kind in _TYPES.items() if name in (columns or ("id", "file"))})
            return table
    except ValueError as error:
        raise unreadable_examples(directory, error) from error


def unreadable_examples(directory: Storage, error: Exception) -> CacheError:
    """The error for an examples.parquet that is corrupted."""
    return CacheError(
        f"{directory / EXAMPLES} cannot be read: {error}. Expected the examples of a cache. Remove it and run the flow again: "
        "it is joined from its parts."
    )
