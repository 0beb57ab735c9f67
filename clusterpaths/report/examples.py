"""Examples on a page without a server: title and thumbnail.

Belongs here: from an example's record to a tile. `thumbnails.py` encodes images, the macro `picture` renders the tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from clusterpaths.report.thumbnails import Thumbnail


class Described(Protocol):
    """An example with its classes by name: `explore.records.ExampleRow`, or `explanation.record.ExampleNote`."""

    @property
    def id(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def prediction(self) -> str | None: ...


@dataclass(frozen=True)
class Tile:
    """One image on the page, or its placeholder."""

    id: int
    title: str
    picture: Thumbnail | None


def example_title(example: Described, distance: float | None = None) -> str:
    """The tooltip of an example, with `distance` if given."""
    parts = [f"example {example.id}", example.file]
    parts += [f"distance {distance:.3g}"] if distance is not None else []
    parts += [f"label {example.label}"] if example.label is not None else []
    parts += [f"prediction {example.prediction}"] if example.prediction is not None else []
    return " · ".join(part for part in parts if part)


def tile(example: Described, pictures: Mapping[str, Thumbnail], distance: float | None = None) -> Tile:
    """`pictures` by file name; a file without one could not be read."""
    return Tile(example.id, example_title(example, distance), pictures.get(example.file))
