"""What is put into a layer instead of its values: shifts towards another cluster, and means; pure functions on arrays.

Belongs here: where a shift goes. A layer's rows are as the set has them, reduced where the set reduces them, (n, width); the
tensor that goes on in the model has its full shape. A reduced row is moved by d where its channels are moved by d at
every position: a mean and a maximum then move by d exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.models.reduce import reduced_axes
from clusterpaths.records import Tap

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Means of groups of a layer's rows.

    Attributes:
        means: (g, width); NaN where a group has no rows.
        counts: (g,).
        low: the smallest value of all rows, if it is 0 (the layer follows a Relu or the like), else None.
    """

    means: Rows
    counts: NDArray[np.int64]
    low: float | None


class GroupMeans:
    """Adds up blocks of rows to the means of groups, which may overlap.

    Args:
        members: (n, g) bool, which of the n rows are in which group.
        width: of the rows.
    """

    def __init__(self, members: NDArray[np.bool_], width: int) -> None:
        self._members = members
        self._sums = np.zeros((members.shape[1], width), np.float32)
        self._lowest = np.inf

    def add(self, where: slice | NDArray[np.int64], block: Rows) -> None:
        """Rows (m, width) at these positions."""
        self._sums += self._members[where].T.astype(np.float32) @ block
        self._lowest = min(self._lowest, float(block.min(initial=np.inf)))

    def groups(self) -> Groups:
        """The means, when all rows were added."""
        counts = self._members.sum(axis=0)
        with np.errstate(invalid="ignore"):
            means = self._sums / counts[:, None].astype(np.float32)
        return Groups(means, counts, 0.0 if self._lowest == 0 else None)


def shifted(values: NDArray[Any], by: Rows, tap: Tap, low: float | None) -> NDArray[np.float32]:
    """The layer's values (n, *full shape) when its rows move by `by` (n, width).

    Args:
        values: of n examples.
        by: of their rows.
        tap: how rows are made of values.
        low: values below it are set to it: a layer behind a Relu has none; None: no limit.
    """
    moved: NDArray[np.float32] = values + _over_positions(by, tap)
    return moved if low is None else np.maximum(moved, np.float32(low), out=moved)


def _over_positions(by: Rows, tap: Tap) -> Rows:
    """(n, width) as (n, *full shape), or so that numpy repeats it at every position."""
    rows = by.reshape(len(by), *tap.shape)
    if tap.reduce == "none":
        return rows
    axes = reduced_axes(tap.reduce, tap.full_shape, tap.channels)
    rows = np.expand_dims(rows, tuple(axes))
    if tap.reduce != "cls":
        return rows
    whole = np.zeros((len(by), *tap.full_shape), np.float32)  # only the first token is the row
    np.moveaxis(whole, axes[0], 0)[0] = np.moveaxis(rows, axes[0], 0)[0]
    return whole


def random_direction(shifts: Rows, rng: np.random.Generator) -> Rows:
    """(n, width) shifts of the same lengths, each in a direction of its own, uniform on the sphere."""
    directions = rng.standard_normal(shifts.shape, np.float32)
    lengths, own = np.linalg.norm(shifts, axis=1), np.linalg.norm(directions, axis=1)
    scaled: Rows = directions * (lengths / np.where(own > 0, own, 1))[:, None]
    return scaled


def choose_targets(
    clusters: NDArray[np.integer[Any]], counts: NDArray[np.int64], most: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(n, t) other clusters for each example's own: all that have examples, or `most` of them at random.

    Args:
        clusters: (n,) own cluster.
        counts: (k,) fit examples of each cluster. An example whose own cluster has none gets one target less than others
            could have: all rows are equally long.
        most: targets of an example.
    """
    filled = np.flatnonzero(counts > 0)
    others = [filled[filled != own] for own in clusters.tolist()]
    size = min(most, min((len(one) for one in others), default=0))
    drawn = [rng.permutation(one)[:size] if len(one) > size else one for one in others]
    return np.array(drawn, np.int64).reshape(len(clusters), size)
