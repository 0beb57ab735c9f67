"""Principal axes of a layer, and the coordinates of rows along them: what a layer's map is made of.

Belongs here: from the covariance of a sample's coordinates to axes of the layer, and from products with those to coordinates.
`seeding.py` makes the first from what it computes for k-means anyway; products are `models/products.py`. Source: principal
components from a small basis (Halko, Martinsson and Tropp 2011, section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.models.products import Values
from clusterpaths.records import Distance

# Of every layer; components beyond its rank are 0. Of the ten nearest neighbours by 2,000 real images' complete activations,
# components and residuals find, in the five layers of CelebA_CNN: 8 of them 0.31 to 0.85, 16 0.46 to 0.93, 32 0.60 to 0.98; and
# 16 have 0.83 to 1.00 of the ten among the first fifty. Without residuals 16 find 0.19 to 0.92 (benchmarks/maps.py).
DIMENSIONS = 16
NEGLIGIBLE = 1e-12  # of squared lengths: a component with less is rounding
_ALMOST = 0.99  # of the largest loading: as large up to rounding


@dataclass(frozen=True)
class Axes:
    """The d first principal axes of a layer's rows through their mean, for cosine of rows at unit length.

    Attributes:
        directions: (d, width) float16, of unit length, zeros beyond the rank. Their rounding takes part in every use: it turns
            the axes by less than a thousandth, and moves no coordinate.
        mean: (width,) float32, the origin.
        explained: (d,) float64, the share of the sample's variance along each axis.
    """

    directions: NDArray[np.float16]
    mean: NDArray[np.float32]
    explained: NDArray[np.float64]

    @property
    def factors(self) -> NDArray[np.float32]:
        """(d + 1, width): what rows are multiplied with; the last is the mean."""
        return np.concatenate([self.directions, self.mean[None]], dtype=np.float32)

    @cached_property
    def _origin(self) -> NDArray[np.float64]:
        """(d + 1,) products of the mean with the factors."""
        mean = self.mean.astype(np.float64)
        return np.array([float(row.astype(np.float64) @ mean) for row in self.factors])

    def coordinates(self, products: Values, squares: Values, distance: Distance) -> NDArray[np.float32]:
        """(n, d + 1) of rows with these products (n, d + 1) with the factors, and these squared lengths (n,).

        The first d are components: distances from the origin along the axes. The last is the residual: the distance from all
        that lies along them. A row's coordinates depend on that row alone, to the bit. For cosine, rows count at unit length;
        rows of zeros stay zeros.
        """
        found = products.astype(np.float64)
        lengths = squares.astype(np.float64)  # squared
        if distance == "cosine":
            found /= np.sqrt(np.where(lengths == 0, 1, lengths))[:, None]
            lengths = (lengths > 0).astype(np.float64)
        from_origin = lengths - 2 * found[:, -1] + self._origin[-1]  # squared
        found[:, :-1] -= self._origin[:-1]
        along = np.square(found[:, :-1]).sum(axis=1)
        found[:, -1] = np.sqrt(np.maximum(from_origin - along, 0))
        return found.astype(np.float32)

    @property
    def digest(self) -> str:
        """xxh3_64 of all of it."""
        digest = xxhash.xxh3_64()
        for values in (self.directions, self.mean, self.explained):
            digest.update(np.ascontiguousarray(values).data)
        return str(digest.hexdigest())


@dataclass(frozen=True)
class Directions:
    """Of most variance: (DIMENSIONS, width) as in `Axes.directions`, and the sums of squares (DIMENSIONS,) along them."""

    rows: NDArray[np.float16]
    squares: NDArray[np.float64]


def find_directions(coordinates: NDArray[np.float32], basis: NDArray[np.float32] | None = None) -> Directions:
    """Of a sample's coordinates (s, r) in an orthonormal basis (r, width); without a basis, of the rows themselves.

    The largest loading of each direction is positive, or of those that are as large up to rounding the first: so rounding
    turns no axis around. Directions without variance are zeros.
    """
    centred = coordinates.astype(np.float64)
    least = NEGLIGIBLE * float(np.einsum("ij,ij->", centred, centred))
    centred -= centred.mean(axis=0)
    squares, turn = np.linalg.eigh(centred.T @ centred)  # ascending
    wanted = np.flatnonzero(squares > least)[::-1][:DIMENSIONS]
    loadings = turn[:, wanted].T.astype(np.float32)  # (d, r)
    if basis is not None:
        loadings = loadings @ basis  # (d, width)
    sizes = np.abs(loadings)
    almost = sizes >= _ALMOST * sizes.max(axis=1, keepdims=True)
    first = loadings[np.arange(len(loadings)), almost.argmax(axis=1)]
    rows = np.zeros((DIMENSIONS, loadings.shape[1]), np.float16)
    rows[: len(wanted)] = loadings * np.sign(first)[:, None]
    found = np.zeros(DIMENSIONS)
    found[: len(wanted)] = squares[wanted]
    return Directions(rows, found)


def axes_along(directions: Directions, mean: NDArray[np.float32], count: int, squares: float) -> Axes:
    """Axes along the directions of a sample of `count` rows with this mean (width,) and this sum of squared lengths."""
    centre = mean.astype(np.float64)
    # what is left of two large sums where a constant part dominates may be less than what was found
    total = max(squares - count * float(centre @ centre), float(directions.squares.sum()))
    explained = directions.squares / total if total > 0 else directions.squares
    return Axes(directions.rows, mean, explained)
