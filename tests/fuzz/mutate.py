"""Mutations: one content in, a slightly different one out.

Belongs here: changes of bytes, of JSON values, of tables, of arrays. All draw from a given `random.Random` only, so a case can be
made again from its seed.
"""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Mutate = Callable[[random.Random, bytes], bytes]
_BYTES = (0x00, 0x01, 0x0A, 0x22, 0x2C, 0x2D, 0x30, 0x5B, 0x7B, 0x7F, 0x80, 0xFF)
_INTEGERS = (
    -1,
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    256,
    32_767,
    32_768,
    65_536,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
)
_FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e38, 1e39, 1e308, -1e308)
_TEXTS = (
    "", " ", "0", "-1", "a", "ä", "\0", "\n", "\ud800", "../../etc/passwd", "/", ".", "..", "a" * 5_000, "1e999", "nan", "NaN",
    "0-999999999999", "9-1", "1-x", "99999999999999999999999", "2026-11-28", "<script>", "%00", "conv1", "{}", "[]",
)  # fmt: skip


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to four changes of bytes: bits flipped, overwritten, removed, repeated, moved, or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(rng, changed)
    return bytes(changed)


def _change(rng: random.Random, content: bytearray) -> None:
    size = len(content)
    at, length = rng.randrange(size + 1), rng.choice((1, 1, 2, 4, 8, 16, 64, 512))
    some = min(at, max(size - 1, 0))
    match rng.randrange(10) if size else 5:
        case 0 | 1:
            content[some] ^= 1 << rng.randrange(8)
        case 2:
            content[some] = rng.choice(_BYTES)
        case 3:
            content[at : at + length] = rng.randbytes(length)
        case 4:
            del content[at : at + length]
        case 5:
            content[at:at] = rng.randbytes(length)
        case 6:
            content[at:at] = content[at : at + length] * rng.choice((1, 2, 50))
        case 7:
            del content[at:]
        case 8:
            content[at : at + length] = bytes(min(length, size - at))
        case _:  # a length or an offset
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(_INTEGERS) % 256**width
            content[some : some + width] = value.to_bytes(width, rng.choice(("little", "big")))


def a_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    match rng.randrange(9 if depth < 2 else 6):
        case 0:
            return rng.choice(_INTEGERS)
        case 1:
            return rng.choice(_FLOATS)
        case 2 | 3:
            return rng.choice(_TEXTS)
        case 4:
            return rng.choice((None, True, False))
        case 5:
            return rng.choice((float("nan"), float("inf"), float("-inf")))
        case 6:
            return {}
        case 7:
            return [a_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {rng.choice(_TEXTS): a_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def mutate_json(rng: random.Random, content: bytes) -> bytes:
    """One to three values replaced, removed, repeated, added, or nested; now and then only bytes are changed."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, content)
    if rng.random() < 0.03:
        return rng.choice((b"[", b'{"a":')) * rng.choice((500, 5_000, 100_000))
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _changed(rng, document)
    text = json.dumps(document)
    if rng.random() < 0.05:  # what no writer writes
        text = re.sub(r"\d+", lambda match: rng.choice((match[0], "1" * 5_000, "1e999", "-0")), text)
    if rng.random() < 0.03:
        return rng.choice((b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.encode("latin-1", "replace")))
    return text.encode("utf-8", "surrogatepass")


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {rng.choice(_TEXTS): a_value(rng)}
            case 2:
                return {(rng.choice(_TEXTS) if k == key else k): v for k, v in value.items()}
            case 3:
                return value | {key: value[rng.choice(list(value))]}
            case _:
                return value | {key: _changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(10):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case 2:
                return [*value[:at], a_value(rng), *value[at:]]
            case 3:
                return value[::-1]
            case _:
                return [*value[:at], _changed(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2, -2 * value - 1, 10**6, 2**40))
    if isinstance(value, str) and value and rng.random() < 0.5:
        return mutate_bytes(rng, value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
    return a_value(rng)


def mutate_text(rng: random.Random, content: bytes) -> bytes:
    """Lines removed, repeated and exchanged, cells replaced; or only bytes are changed."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content)
    lines = content.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        match rng.randrange(7):
            case 0:
                lines = [*lines[:at], *lines[at + 1 :]] or [b""]
            case 1:
                lines = [*lines[:at], lines[at], *lines[at:]]
            case 2:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = mutate_bytes(rng, lines[at])
            case _:
                cells = re.split(rb"([ ,;\t=])", lines[at])
                text = rng.choice((*_TEXTS, *map(str, _INTEGERS), *map(str, _FLOATS)))
                cells[rng.randrange(len(cells))] = text.encode("utf-8", "surrogatepass")
                lines[at] = b"".join(cells)
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r")).join(lines)


def an_array(rng: random.Random, array: Any) -> Any:
    """An array of another shape, dtype or other values."""
    match rng.randrange(10):
        case 0:
            return array[: rng.randrange(len(array) + 1)] if array.ndim else np.array([array.item()] * 2)
        case 1:
            return array.reshape(-1)
        case 2:
            return array[None]
        case 3:
            kinds = ("<f2", "<f4", ">f8", "<i8", "|b1", "<U3", "<c8", "|S2") if array.dtype.kind in "fiub" else ("<U3",)
            return array.astype(rng.choice(kinds), casting="unsafe", copy=True)
        case 4:
            return np.array([{"an": "object"}, None], object)
        case 5:
            return np.zeros((0, *array.shape[1:]), array.dtype)
        case 6:
            return np.array(rng.choice(_TEXTS))
        case 7 if array.ndim and array.dtype.kind == "f" and array.size:
            changed = array.copy()
            changed.reshape(-1)[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf))
            return changed
        case 8 if array.ndim > 1:
            return array.T
        case _:
            return np.zeros(array.shape, [("a", "<f4"), ("b", "<i2")])


def mutate_npz(rng: random.Random, content: bytes) -> bytes:
    """Arrays removed, renamed, exchanged or changed; compressed; or only bytes are changed."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    with np.load(io.BytesIO(content), allow_pickle=True) as file:
        arrays = {name: file[name] for name in file.files}
    key = rng.choice(list(arrays))
    match rng.randrange(8):
        case 0:
            del arrays[key]
        case 1:
            arrays[rng.choice(("other", "ä", "a/b", "../x"))] = arrays.pop(key)
        case 2:
            arrays[key] = arrays[rng.choice(list(arrays))]
        case 3:  # a header that promises more than there is
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name, array in arrays.items():
                    archive.writestr(f"{name}.npy", mutate_npy(rng, _npy(array)) if name == key else _npy(array))
            return buffer.getvalue()
        case _:
            arrays[key] = an_array(rng, arrays[key])
    buffer = io.BytesIO()
    (np.savez if rng.random() < 0.6 else np.savez_compressed)(buffer, **arrays)
    found = buffer.getvalue()
    return mutate_bytes(rng, found) if rng.random() < 0.3 else found


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def mutate_npy(rng: random.Random, content: bytes) -> bytes:
    """Another array, another header, or only bytes are changed."""
    match rng.randrange(4):
        case 0:
            return mutate_bytes(rng, content)
        case 1:
            return _npy(an_array(rng, np.load(io.BytesIO(content), allow_pickle=True)))
        case 2:
            shape = rng.choice(
                (b"(9999999999,)", b"(-1,)", b"(1.5,)", b"(2**63,)", b"()", b"[4]", b"(1,)*9", b"(" * 90, b"None")
            )
            return re.sub(rb"\([\d, ]*\)", shape, content, count=1)
        case _:
            descr = rng.choice(
                (b"'|O'", b"'<f999999999'", b"'V8'", b"__import__('os')", b"[('a','<f4')]", b"'M8[ns]'", b"1", b"''")
            )
            return re.sub(rb"'[<>|][a-z]\d+'", descr, content, count=1)


def mutate_parquet(rng: random.Random, content: bytes) -> bytes:
    """Columns removed, renamed, of other types, with gaps; rows removed and repeated; or only bytes are changed."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    table = pq.read_table(io.BytesIO(content))
    for _ in range(rng.choice((1, 1, 2))):
        table = _other_table(rng, table)
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression=rng.choice(("zstd", "none", "snappy")), write_page_checksum=rng.random() < 0.5
    )
    found = buffer.getvalue()
    return mutate_bytes(rng, found) if rng.random() < 0.2 else found


def _other_table(rng: random.Random, table: Any) -> Any:
    rows = table.num_rows
    if not table.num_columns:
        return table
    at = rng.randrange(table.num_columns)
    name, column = table.column_names[at], table.column(at)
    match rng.randrange(10):
        case 0:
            return table.remove_column(at)
        case 1:
            return table.rename_columns(
                [rng.choice((*_TEXTS[:8], "id")) if i == at else n for i, n in enumerate(table.column_names)]
            )
        case 2:
            return table.slice(0, rng.randrange(rows + 1))
        case 3:
            return table.take(pa.array([rng.randrange(rows) for _ in range(rows)] if rows else [], pa.int64()))
        case 4:
            return table.slice(0, 0)
        case 5:
            metadata = dict(table.schema.metadata or {})
            key = rng.choice(list(metadata)) if metadata else b"pandas"
            value = (
                mutate_json(rng, metadata[key])
                if key in metadata and metadata[key][:1] in (b"{", b"[")
                else rng.randbytes(9)
            )
            return table.replace_schema_metadata(metadata | {key: value} if rng.random() < 0.8 else None)
        case 6:  # gaps
            keep = pa.array([rng.random() < 0.7 for _ in range(rows)], pa.bool_())
            chunk = column.combine_chunks()
            try:
                return table.set_column(at, name, pa.compute.if_else(keep, chunk, pa.scalar(None, chunk.type)))
            except pa.ArrowException:
                return table.set_column(at, name, pa.nulls(rows, chunk.type))
        case _:
            kind = rng.choice(
                (pa.string(), pa.int64(), pa.float64(), pa.float16(), pa.uint8(), pa.bool_(), pa.binary(), pa.list_(pa.float32()),
                 pa.timestamp("ns"), pa.null(), pa.decimal128(20, 2), pa.dictionary(pa.int32(), pa.string()), pa.date32())
            )  # fmt: skip
            try:
                values = column.cast(kind, safe=False)
            except (pa.ArrowException, NotImplementedError):
                values = pa.nulls(rows, kind)
            return table.set_column(at, name, values)
