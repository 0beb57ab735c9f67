"""Data sets of other installed packages, found by entry point.

Belongs here: finding them, and telling whose fault it is when one raises. A package writes in its pyproject.toml

    [project.entry-points."clusterpaths.datasets"]
    flowers = "my_package.flowers:open_flowers"

and `open_flowers` takes a `DatasetSpec` and returns a `Dataset`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Iterator, Sized
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
from PIL import Image

from clusterpaths.datasets.base import Dataset, ExampleTable
from clusterpaths.errors import ClusterPathsError, DatasetError
from clusterpaths.records import DatasetSpec

GROUP = "clusterpaths.datasets"

_MEMBERS = ("root", "notes", "examples", "read_image", "digest")


def names() -> tuple[str, ...]:
    """Names of all data sets that installed packages offer, sorted; nothing of them is imported."""
    return tuple(sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)}))


def find(name: str) -> EntryPoint | None:
    """The entry point of that name, or None.

    Raises:
        DatasetError: two packages offer it.
    """
    found = sorted(
        {(package_of(entry), entry.value) for entry in importlib.metadata.entry_points(group=GROUP, name=name)}
    )
    if len(found) > 1:
        offers = " and ".join(f"{package} ({value})" for package, value in found)
        raise DatasetError(f"The data set {name!r} is offered by {offers}. Expected one package; uninstall the other.")
    return next(iter(importlib.metadata.entry_points(group=GROUP, name=name)), None)


def package_of(entry: EntryPoint) -> str:
    """The installed package that an entry point is from, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"


def open_plugin(entry: EntryPoint, spec: DatasetSpec) -> Dataset:
    """Import the package and open the data set; later errors of the package name it.

    Raises:
        DatasetError: it raised, or gave something that is no data set. Errors of ours that it raises pass unchanged.
    """
    with _named_errors(entry, "on import"):
        opener = entry.load()
    with _named_errors(entry, "as it opened the data set"):
        dataset = opener(spec)
    missing = [member for member in _MEMBERS if not hasattr(dataset, member)]
    if missing:
        raise DatasetError(
            f"{_called(entry)} gave a {type(dataset).__name__} without {', '.join(missing)}. Expected all of "
            f"{', '.join(_MEMBERS)} (docs/datasets.md). Report it to the package's authors."
        )
    return PluginDataset(dataset, entry, spec.name)


class PluginDataset:
    """A package's data set under the name of its entry point; errors name the package."""

    def __init__(self, dataset: Dataset, entry: EntryPoint, name: str) -> None:
        self._dataset, self._entry = dataset, entry
        self.name = name
        self.root = Path(dataset.root)
        self.notes = tuple(dataset.notes)

    def examples(self) -> ExampleTable:
        """Its table, checked."""
        with _named_errors(self._entry, "in examples()"):
            table = self._dataset.examples()
            problem = _problem(table)
        if problem:
            raise DatasetError(f"{_called(self._entry)} gave a table {problem}. Report it to the package's authors.")
        yes_no = {name: values for name, values in table.attributes.items() if values.dtype == bool}
        signs = {name: np.where(values, 1, -1).astype(np.int8) for name, values in yes_no.items()}
        return dataclasses.replace(table, attributes={**table.attributes, **signs}) if signs else table

    def read_image(self, file: str) -> Image.Image:
        """Its image; an OSError is about one file and is passed on."""
        with _named_errors(self._entry, f"in read_image({file!r})", passing=(OSError,)):
            return self._dataset.read_image(file)

    def digest(self, file: str) -> int:
        """Its digest; an OSError is passed on."""
        with _named_errors(self._entry, f"in digest({file!r})", passing=(OSError,)):
            return int(self._dataset.digest(file)) & (1 << 64) - 1


def _called(entry: EntryPoint) -> str:
    return f"The data set {entry.name!r} (entry point {entry.value} of {package_of(entry)})"


@contextlib.contextmanager
def _named_errors(entry: EntryPoint, when: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # external code may raise anything; it becomes one paragraph
        if isinstance(error, (ClusterPathsError, *passing)):
            raise
        text = " ".join(str(error).split())[:400]
        raise DatasetError(
            f"{_called(entry)} raised {type(error).__name__} {when}: {text or 'no text'}. That is a bug in that package "
            "or of its installation: install its newest version, report it to its authors, or uninstall it."
        ) from error


def _problem(table: object) -> str:
    """What is wrong with a table, or ""."""
    if not isinstance(table, ExampleTable):
        return f"that is a {type(table).__name__}; expected an ExampleTable"
    count = len(table)
    columns: dict[str, Sized] = {
        "ids": table.ids,
        "sizes": table.sizes,
        "splits": table.splits,
        "labels": table.labels,
        **table.attributes,
    }
    if table.mtimes is not None:
        columns["mtimes"] = table.mtimes
    if uneven := [f"{len(values)} {name}" for name, values in columns.items() if len(values) != count]:
        return f"of {count} files and {', '.join(uneven)}; expected one row per example in each"
    if len(set(table.files)) < count:
        return "that names a file twice; expected each once"
    if np.any(np.diff(table.ids) <= 0):
        return "whose ids do not rise; expected int64 ids in ascending order"
    if odd := set(table.splits) - {"train", "valid", "test", ""}:
        return f"with the split {min(odd)!r}; expected train, valid, test or an empty name"
    highest = int(table.labels.max(initial=-1))
    if highest >= len(table.class_names) or int(table.labels.min(initial=0)) < -1:
        return (
            f"with labels up to {highest} and {len(table.class_names)} class names; expected labels from -1 below that"
        )
    return ""
