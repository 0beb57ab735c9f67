"""Checks of the arrays that the measures take; each raises ValueError with the expected and the actual shape or value.

Cluster ids are at least 0. A class of -1 means that none is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]


def require_paths(name: str, paths: Ints) -> None:
    """(n, L) integers, cluster ids >= 0."""
    if paths.ndim != 2 or paths.dtype.kind not in "iu":
        raise ValueError(f"{name} should be (n, L) integers, got {paths.shape} {paths.dtype} instead.")
    _require_ids(name, paths)


def require_groups(name: str, groups: Ints) -> None:
    """(n,) integers, group ids >= 0."""
    if groups.ndim != 1 or groups.dtype.kind not in "iu":
        raise ValueError(f"{name} should be (n,) integers, got {groups.shape} {groups.dtype} instead.")
    _require_ids(name, groups)


def require_classes(name: str, classes: Ints, of: str, n: int) -> None:
    """(n,) integers >= -1, one for each row of the array called `of`."""
    if classes.shape != (n,):
        raise ValueError(f"{name} should be one per row of {of}, so ({n},), got {classes.shape} instead.")
    if classes.dtype.kind not in "iu":
        raise ValueError(f"{name} should be integers, got {classes.dtype} instead.")
    if n and classes.min() < -1:
        raise ValueError(f"{name} should be >= 0, or -1 for none, got {classes.min()} instead.")


def require_equal_width(name: str, first: NDArray[Any], other: str, second: NDArray[Any]) -> None:
    """Two matrices with as many columns."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"{name} and {other} should be equally wide, got {first.shape} and {second.shape} instead.")


def _require_ids(name: str, ids: Ints) -> None:
    if ids.size and ids.min() < 0:
        raise ValueError(f"{name} should hold ids >= 0, got {ids.min()} instead.")
