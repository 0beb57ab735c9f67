"""Principal axes of a layer, and the coordinates of rows along them: what a layer's map is made of.

Belongs here: from the covariance of a sample's coordinates to axes of the layer, and from products with those to coordinates.
`seeding.py` makes the first from what it computes for k-means anyway; products are `models/products.py`. Source: principal
components from a small basis (Halko, Martinsson and Tropp 2011, section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from clusterpaths.models.products import Values
from clusterpaths.records import Distance

DIMENSIONS = 16  # of every layer; those beyond its rank are zeros
NEGLIGIBLE = 1e-12  # of squared lengths: a component with less is rounding
_ALMOST = 0.99  # of the largest loading: as large up to rounding


@dataclass(frozen=True)
class Axes:
    """The d first principal axes of a layer's rows, for cosine of those at unit length.

    Attributes:
        directions: (d, width) float16, of unit length up to its rounding; zeros beyond the rank. The rounding takes part in
            every use, so that it moves no coordinate: the axes are what they are, orthogonal to a thousandth.
        origin: (d,) float64, the products of the sample's mean with them.
        explained: (d,) float64, the share of the sample's variance along each.
    """

    directions: NDArray[np.float16]
    origin: NDArray[np.float64]
    explained: NDArray[np.float64]

    def coordinates(self, products: Values, squares: Values, distance: Distance) -> NDArray[np.float32]:
        """(n, d) of rows with these products (n, d) with the directions, and these squared lengths (n,).

        Each row's depend on that row alone, to the bit. For cosine, rows count at unit length; rows of zeros stay zeros.
        """
        exact = products.astype(np.float64)
        if distance == "cosine":
            exact /= np.where(squares == 0, 1, np.sqrt(squares.astype(np.float64)))[:, None]
        return (exact - self.origin).astype(np.float32)

    @property
    def digest(self) -> str:
        """xxh3_64 of all of it."""
        digest = xxhash.xxh3_64()
        for values in (self.directions, self.origin, self.explained):
            digest.update(np.ascontiguousarray(values).data)
        return str(digest.hexdigest())


@dataclass(frozen=True)
class Directions:
    """Of most variance: (DIMENSIONS, width) as `Axes.directions`, and the sums of squares (DIMENSIONS,) along them."""

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
    origin = np.array([float(row.astype(np.float64) @ centre) for row in directions.rows])
    # what is left of two large sums where a constant part dominates may be less than what was found
    total = max(squares - count * float(centre @ centre), float(directions.squares.sum()))
    return Axes(directions.rows, origin, directions.squares / total if total > 0 else directions.squares)
