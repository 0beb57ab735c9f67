"""Points of a layer whose distances stand for those between activations."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from clusterpaths.sets.maps import Maps

WORKERS = max(
    1, (os.cpu_count() or 1) - 1
)  # threads that look for neighbours; a server answers others with the core left


def coordinates(maps: Maps, layer: str) -> NDArray[np.float32]:
    """(n, d + 1) a layer's components, and the residual as one more coordinate.

    Distances between them are never larger than those between activations, which they would be if all residuals pointed the same
    way. For near duplicates they do; so an example far off the components is far from those near to them, too.
    `sets.maps.squared_distances` estimates distances of examples that have nothing in common beyond the components: it has a
    duplicate at a distance.
    """
    return np.column_stack([maps.components(layer), maps.residuals(layer)])
