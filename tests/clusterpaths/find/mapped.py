"""Small sets with maps: for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.library import Library
from clusterpaths.sets.maps import MAPS, LayerMap, MapRecord, write_maps
from tests.clusterpaths.explore.small import write_small
from tests.generated_set import SHAPES, generate


def add_maps(folder: Path, components: dict[str, NDArray[np.float32]]) -> None:
    """Write maps with these components (n, d) into a set's folder."""
    write_maps(folder / MAPS, {layer: LayerMap(MapRecord(), c[:, :2], c) for layer, c in components.items()})


def add_contents(folder: Path, digests: list[int]) -> None:
    """Record these digests of the examples' files."""
    table = pq.read_table(folder / "paths.parquet")
    pq.write_table(table.append_column("digest", pa.array(digests, pa.uint64())), folder / "paths.parquet")


def small_mapped(root: Path, digests: list[int] | None = None, maps: bool = True) -> SetIndex:
    """`small.py`'s eight examples: 10 and 16 (train and test) are near."""
    folder = write_small(root)
    if maps:
        grid = np.array([[0, 0], [10, 0], [0, 10], [10, 10], [20, 0], [20, 10], [0, 0], [30, 30]], np.float32)
        a, b = grid.copy(), grid.copy()
        a[6] += (0.5, 0)
        b[6] += (0, 1.0)
        add_maps(folder, {"a": a, "b": b})
    if digests:
        add_contents(folder, digests)
    return Library(root).set("Small", "set_01")


def generated_mapped(root: Path, n: int = 2_000, seed: int = 0) -> SetIndex:
    """A generated set whose examples lie around one point per class; those of class Bald, in the last layer, far apart."""
    folder = generate(root, n=n, attributes=5, seed=seed)
    index = Library(root).set("CelebA", "set_01")
    draw = np.random.default_rng(seed)
    rare = index.clusters[:, -1] == int(np.argmin(index.sizes[-1]))
    maps = {}
    for layer in SHAPES:
        points = draw.normal(size=(n, 6)).astype(np.float32)
        if layer == tuple(SHAPES)[-1]:
            points[rare] *= 6
        maps[layer] = points
    add_maps(folder, maps)
    return Library(root).set("CelebA", "set_01")
