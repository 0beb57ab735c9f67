"""Data sets: where images and what is known of them come from. One file each; see base.py for what they offer."""

from __future__ import annotations

import functools
from pathlib import Path

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

__all__ = ["Dataset", "ExampleTable", "open_dataset", "read_table"]


@functools.lru_cache(maxsize=4)
def open_dataset(spec: DatasetSpec) -> Dataset:
    """The data set that a record names; opened once a process.

    Raises:
        DatasetError: no data set of that name, or its folder is not usable.
    """
    if spec.name == "celeba":
        from clusterpaths.datasets.celeba import open_celeba

        return open_celeba(Path(spec.root))
    raise DatasetError(f"There is no data set called {spec.name!r}. Expected one of: celeba.")


@functools.lru_cache(maxsize=4)
def read_table(spec: DatasetSpec) -> ExampleTable:
    """`open_dataset(spec).examples()`, read once a process: annotations of 200,000 images take seconds."""
    return open_dataset(spec).examples()
