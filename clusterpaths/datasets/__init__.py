"""Data sets: where images and what is known of them come from. One file each; see base.py for what they offer."""

from __future__ import annotations

import functools

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.datasets.registry import open_source
from clusterpaths.records import DatasetSpec

__all__ = ["Dataset", "ExampleTable", "clear_caches", "open_dataset", "read_table"]


@functools.lru_cache(maxsize=4)
def open_dataset(spec: DatasetSpec) -> Dataset:
    """The data set that a record names; opened once, until `clear_caches`.

    Raises:
        DatasetError: no data set of that name, or its directory is not usable.
    """
    return open_source(spec)


@functools.lru_cache(maxsize=4)
def read_table(spec: DatasetSpec) -> ExampleTable:
    """`open_dataset(spec).examples()`, read once, until `clear_caches`: annotations of 200,000 images take seconds."""
    return open_dataset(spec).examples()


def clear_caches() -> None:
    """Forget what was read of all data sets: a run in a process that lives on sees the directories as they are now."""
    open_dataset.cache_clear()
    read_table.cache_clear()
