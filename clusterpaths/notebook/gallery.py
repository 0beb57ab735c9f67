"""Examples of a set as a sequence that shows pictures in a notebook.

Belongs here: the sequence, and reading its images. Which examples are exemplars is `explore/clusters.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from PIL import Image

from clusterpaths.common.text import did_you_mean
from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore import clusters
from clusterpaths.explore.records import ExampleRow, Exemplars
from clusterpaths.report.examples import tile
from clusterpaths.report.templates import render
from clusterpaths.report.thumbnails import make_thumbnails
from clusterpaths.sets.images import find_images
from clusterpaths.sets.published import PublishedSet


class Gallery(Sequence[ExampleRow]):
    """Examples of a set, in an order.

    Args:
        published: the set.
        examples: some of its examples.
        title: says which.
        data_root: the directory of the images, if it was moved.
    """

    def __init__(
        self, published: PublishedSet, examples: Sequence[ExampleRow], title: str, data_root: Path | None = None
    ) -> None:
        self._examples, self.title = tuple(examples), title
        self._read = find_images(published, data_root)

    def __len__(self) -> int:
        return len(self._examples)

    @overload
    def __getitem__(self, at: int) -> ExampleRow: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[ExampleRow, ...]: ...
    def __getitem__(self, at: int | slice) -> ExampleRow | tuple[ExampleRow, ...]:
        return self._examples[at]

    def __repr__(self) -> str:
        return f"<{self.title}: {', '.join(str(one.id) for one in self._examples)}>"

    def images(self) -> list[Image.Image]:
        """The pictures, in RGB.

        Raises:
            OSError: one is missing, or is no longer the image that the set was made of.
        """
        return [self._read(one.file).convert("RGB") for one in self._examples]

    def _repr_html_(self) -> str:
        pictures = make_thumbnails((one.file for one in self._examples), self._read)
        tiles = [tile(one, pictures, one.distance) for one in self._examples]
        return render("gallery.html", title=self.title, tiles=tiles)


def exemplars(
    published: PublishedSet,
    layer: str,
    cluster: int,
    count: int,
    kind: Exemplars,
    data_root: str | os.PathLike[str] | None,
) -> Gallery:
    """As `PublishedSet.exemplars`."""
    if layer not in published.layers:
        raise NotFoundError(
            f"{published.name} has no layer {str(layer)[:80]!r}.{did_you_mean(str(layer), published.layers)} "
            f"It has {', '.join(published.layers)}."
        )
    if count < 0 or kind not in ("nearest", "farthest", "random"):
        raise ConfigError(
            f"exemplars() should be asked for a count of 0 or more and for nearest, farthest or random ones, got {count} and "
            f"{kind!r} instead."
        )
    found: Any = clusters.exemplars(published.index, layer, cluster, kind, count)
    title = f"{published.name} · {layer} cluster {cluster} · {len(found.examples)} {kind} of {found.total:,} examples"
    return Gallery(published, found.examples, title, Path(data_root) if data_root else None)
