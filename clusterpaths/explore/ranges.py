"""Filters with numbers as text: LOW..HIGH, LAYER:LOW..HIGH, and LAYER:x,y;x,y;… for a region of a layer's map, which is
LAYER:umap;x,y;x,y;… on a map by UMAP.

Belongs here: from text to numbers, and whether points are within a polygon. `ask.py` applies them to a set.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clusterpaths.records import MapMethod

MOST_CORNERS = 64
MOST_REGIONS = 8  # of a question: one of 64 long edges takes 0.2 s at 200,000 examples
_NUMBER = re.compile(r"[+-]?(\d{1,20}\.?\d{0,20}|\.\d{1,20})([eE][+-]?\d{1,3})?", re.ASCII)
_RANGE = "a range LOW..HIGH of two numbers, one of which may be left out, such as 0.5..2 or 0.5.."
_REGION = "LAYER:x,y;x,y;x,y with the corners of a region of the layer's map (LAYER:umap;x,y;x,y;x,y of one by UMAP)"

Range = tuple[float, float]


def parse_range(text: str) -> Range:
    """LOW..HIGH, both included; an end that is left out is infinite.

    Raises:
        ValueError: it is no range, or LOW is larger than HIGH.
    """
    low, dots, high = text.partition("..")
    if not dots or not (low or high):
        raise ValueError(f"Expected {_RANGE}")
    ends = _number(low, -math.inf), _number(high, math.inf)
    if ends[0] > ends[1]:
        raise ValueError(f"Expected {_RANGE}; here the lower end {low} is larger than the upper end {high}")
    return ends


def parse_layer_range(text: str) -> tuple[str, Range]:
    """LAYER:LOW..HIGH; a layer's name may hold a colon.

    Raises:
        ValueError: it has no layer, or `parse_range`.
    """
    layer, colon, ends = text.rpartition(":")
    if not colon or not layer:
        raise ValueError("Expected LAYER:LOW..HIGH, such as conv1:0.5..2")
    return layer, parse_range(ends)


class Region(NamedTuple):
    """Of a layer's map that a method made; corners (m, 2) of a polygon, which is closed."""

    layer: str
    corners: NDArray[np.float64]
    method: MapMethod


def parse_region(text: str) -> Region:
    """LAYER:x,y;x,y;… or LAYER:umap;x,y;x,y;…

    Raises:
        ValueError: it has no layer, fewer than 3 or more than MOST_CORNERS corners, or one that is not two numbers.
    """
    layer, colon, listed = text.rpartition(":")
    method: MapMethod = "umap" if listed.startswith("umap;") else "pca"
    corners = listed.removeprefix("umap;").split(";")
    if not colon or not layer:
        raise ValueError(f"Expected {_REGION}")
    if not 3 <= len(corners) <= MOST_CORNERS:
        raise ValueError(f"Expected {_REGION}, 3 to {MOST_CORNERS} of them; here are {len([c for c in corners if c])}")
    pairs = [corner.split(",") for corner in corners]
    if wrong := [corner for corner, pair in zip(corners, pairs, strict=True) if len(pair) != 2 or not all(pair)]:
        raise ValueError(f"Expected {_REGION}, two numbers each; {wrong[0][:40]!r} is not")
    return Region(layer, np.array([[_number(x, 0), _number(y, 0)] for x, y in pairs]), method)


def within(points: NDArray[np.floating], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether points (n, 2) lie in the polygon with these corners (m, 2), by the even-odd rule.

    A ray to the right of a point inside crosses the outline an odd number of times (Shimrat, Algorithm 112: Position of
    Point Relative to Polygon, CACM 5, 1962). Of points on the outline, those on a lower or left edge are inside.
    """
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    x, y = points[:, 0], points[:, 1]
    near = np.flatnonzero((x >= left) & (x <= right) & (y >= bottom) & (y <= top))
    x, y = x[near].astype(np.float64), y[near].astype(np.float64)
    inside = np.zeros(len(near), np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        crossed = np.flatnonzero((y >= min(y1, y2)) & (y < max(y1, y2)))
        inside[crossed] ^= x[crossed] < x1 + (y[crossed] - y1) * ((x2 - x1) / (y2 - y1))
    found = np.zeros(len(points), np.bool_)
    found[near[inside]] = True
    return found


def _number(text: str, missing: float) -> float:
    """A finite number; `missing` if there is no text."""
    if not text:
        return missing
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise ValueError(f"Expected numbers, such as 0.5; {text[:40]!r} is none that is finite")
    return value
