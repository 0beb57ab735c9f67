"""Tables of a cache that are corrupted, or have other columns than a run writes; found by tests/fuzz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clusterpaths.cache.examples import read_examples
from clusterpaths.cache.predictions import read_raw_rows
from clusterpaths.cache.registry import current_file, read_registry
from clusterpaths.errors import CacheError
from clusterpaths.storage import Storage, open_storage

REGISTRY: dict[str, Any] = {
    "id": pa.array([0, 1], pa.int64()),
    "file": ["a.jpg", "b.jpg"],
    "size": pa.array([1, 2], pa.int64()),
    "mtime": pa.array([None, 5], pa.int64()),
    "digest": pa.array([7, None], pa.uint64()),
    "present": [True, True],
    "split": ["", "train"],
    "label": pa.array([0, -1], pa.int16()),
}


@pytest.fixture
def cache(tmp_path: Path) -> Storage:
    return open_storage(tmp_path)


def test_a_registry_as_a_run_writes_it(cache: Storage) -> None:
    pq.write_table(pa.table(REGISTRY), cache.path / "registry.parquet")
    found = read_registry(cache)
    assert found is not None
    assert found["file"].to_pylist() == ["a.jpg", "b.jpg"]
    assert current_file(cache, 1) == "b.jpg"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"file": [None, "b.jpg"]}, "its column file has gaps"),
        ({"size": ["1", "2"]}, "its column size is of string"),
        ({"present": pa.array([1, 0], pa.int8())}, "its column present is of int8"),
        ({"attr_Old": ["yes", "no"]}, "its column attr_Old is of string"),
        ({"digest": None}, "it has 0 columns digest"),
    ],
)
def test_a_registry_with_other_columns(changes: dict[str, Any], reason: str, cache: Storage) -> None:
    columns = {name: values for name, values in (REGISTRY | changes).items() if values is not None}
    pq.write_table(pa.table(columns), cache.path / "registry.parquet")
    with pytest.raises(CacheError, match=reason):
        read_registry(cache)


def test_a_registry_whose_class_names_are_no_text(cache: Storage) -> None:
    pq.write_table(
        pa.table(REGISTRY).replace_schema_metadata({"class_names": b"\xbd"}), cache.path / "registry.parquet"
    )
    with pytest.raises(CacheError, match="cannot be read"):
        read_registry(cache)


@pytest.mark.parametrize(
    "content", [b"", b"PAR1 and nothing more PAR1", b"x" * 500], ids=["empty", "text", "no parquet"]
)
def test_examples_that_are_no_table(content: bytes, cache: Storage) -> None:
    (cache.path / "examples.parquet").write_bytes(content)
    for read in (lambda: read_examples(cache), lambda: read_raw_rows(cache, np.arange(3))):
        with pytest.raises(CacheError, match="joined from its parts") as raised:
            read()
        assert "\n" not in str(raised.value)


def test_logits_that_are_no_rows(cache: Storage) -> None:
    pq.write_table(pa.table({"id": [0, 1], "logits": [0.5, 1.5]}), cache.path / "examples.parquet")
    with pytest.raises(CacheError, match="joined from its parts"):
        read_raw_rows(cache, np.arange(2))
