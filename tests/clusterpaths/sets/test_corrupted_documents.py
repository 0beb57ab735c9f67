"""Documents of a set with bytes, columns or arrays that no run writes are refused, and name what to do; found by tests/fuzz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.errors import CacheError
from clusterpaths.explore.library import Library
from clusterpaths.sets.published import open_set
from tests.clusterpaths.explore.small import write_small

Change = Callable[[pa.Table], pa.Table]


def with_gap(table: pa.Table) -> pa.Table:
    values = table["Smiling"].to_pylist()
    return table.set_column(0, "Smiling", pa.array([None, *values[1:]], pa.int8()))


def as_text(table: pa.Table) -> pa.Table:
    return table.set_column(0, "Smiling", pa.array(["yes"] * len(table)))


@pytest.mark.parametrize("change", [with_gap, as_text, lambda table: table.slice(1)], ids=["a gap", "text", "too few"])
def test_attributes(change: Change, tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    path = folder / "attributes.parquet"
    pq.write_table(change(pa.table({"Smiling": pa.array([1] * 8, pa.int8())})), path)
    with pytest.raises(CacheError, match=r"attributes\.parquet cannot be read"):
        open_set(folder).read_attributes()
    with pytest.raises(CacheError, match="cannot be shown"):
        Library(tmp_path).set("Small", "set_01")


@pytest.mark.parametrize("column", ["id", "a", "distance.b", "label"])
def test_paths_with_a_column_of_lists(column: str, tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    table = pq.read_table(folder / "paths.parquet")
    lists = pa.array([[1.0]] * len(table), pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index(column), column, lists)
    pq.write_table(table, folder / "paths.parquet")
    with pytest.raises(CacheError) as raised:
        open_set(folder).columns  # noqa: B018
    assert "publish it again" in str(raised.value) or "publish the set again" in str(raised.value)


def compressed_and_flipped(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    content = bytearray(buffer.getvalue())
    content[60:90] = b"\xff" * 30
    return bytes(content)


def of_another_kind(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.zeros(len(one), [("a", "<f4"), ("b", "<i2")]) for name, one in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def header_without_an_end(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in arrays:
            header = b"{'descr': '<f4', 'shape': (" + b" " * 90 + b"\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return buffer.getvalue()


@pytest.mark.parametrize("broken", [compressed_and_flipped, of_another_kind, header_without_an_end])
def test_centroids(broken: Callable[[dict[str, np.ndarray]], bytes], tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    (folder / "centroids.npz").write_bytes(
        broken({"a": np.zeros((2, 3), np.float32), "b": np.zeros((4, 3), np.float32)})
    )
    with pytest.raises(CacheError, match="publish the set again"):
        open_set(folder).read_centroids()
