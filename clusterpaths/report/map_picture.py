"""The maps of a set as small pictures: where the examples lie in each layer, for a page without a script.

Belongs here: from coordinates to PNG files. `sets/maps.py` has the coordinates, `colours.py` the colours.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.explore.clusters import class_source
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.routes import routes
from clusterpaths.metrics.checks import Ints
from clusterpaths.report.colours import NO_CLASS, NUMBERS, PALETTE, Colours
from clusterpaths.sets.maps import MapRecord

TOTAL = 150_000  # characters of all pictures of a page
SIZES = (240, 180, 120, 80)  # pixels of a side: the largest with which all layers fit
LEVELS = 6  # of opacity
ROUNDING = 1e-9
MARGIN = 4  # pixels
EDGE = 0.1  # percent of the points at each end that are drawn at the edge, where all others would be small otherwise:
FAR = 2  # where with them the axes are more than this many times as long


@dataclass(frozen=True)
class MapPicture:
    """One layer.

    Attributes:
        layer: its name.
        by_class: data: address of a PNG file.
        by_cluster: the same; empty where no class is known, and `by_class` is coloured by cluster.
        outside: examples that lie farther out than the edge, where they are drawn.
        explained: the share of the variance that both axes hold; None: not known, or they are no principal components.
        method: PCA or UMAP.
    """

    layer: str
    by_class: str
    by_cluster: str
    outside: int
    explained: float | None
    method: str


def draw_maps(index: SetIndex) -> tuple[MapPicture, ...]:
    """Pictures of all layers in at most `TOTAL` characters; of the last layers if all do not fit, and () without maps.

    Raises:
        CacheError: the maps cannot be read.
    """
    maps = index.maps
    if maps is None or not len(index):
        return ()
    source, colours = class_source(index), Colours(routes(index))
    names = {number: colours.of_class(source.class_name(number)) for number in np.unique(source.classes).tolist()}
    numbers = np.array([names.get(number, NO_CLASS) for number in range(max(names, default=-1) + 1)] or [NO_CLASS])
    of_class = np.where(source.classes >= 0, numbers[np.maximum(source.classes, 0)], NO_CLASS)

    def drawn(at: int, size: int) -> MapPicture:
        layer = index.layers[at]
        points, of_cluster = maps.points(layer), index.clusters[:, at].astype(np.int64) % NUMBERS
        by_class = _address(draw_points(points, of_class if colours.known else of_cluster, size))
        by_cluster = _address(draw_points(points, of_cluster, size)) if colours.known else ""
        return MapPicture(layer, by_class, by_cluster, _outside(_places(points)), *_words(maps.records[layer]))

    # pictures of one size differ little in length: the first layer's tells whether it is worth drawing the others
    layers = range(len(index.layers))
    found: list[MapPicture] = []
    for size in SIZES:
        if size > SIZES[-1] and _length([drawn(0, size)]) * len(layers) > 2 * TOTAL:
            continue
        found = [drawn(at, size) for at in layers]
        if _length(found) <= TOTAL:
            return tuple(found)
    while _length(found) > TOTAL:
        found.pop(0)
    return tuple(found)


def draw_points(points: NDArray[np.float32], colours: Ints, size: int) -> Image.Image:
    """A square picture on a transparent ground: a pixel has the colour of most points there, more opaque where there are more.

    Args:
        points: (n, 2) coordinates, the second upwards; both axes have one scale.
        colours: (n,) numbers of the palette.
        size: pixels of a side.
    """
    inner = size - 2 * MARGIN - 1
    pixels = (_places(points).clip(0, 1) * inner).astype(np.int64) + MARGIN
    row, column = size - 1 - pixels[:, 1], pixels[:, 0]
    code = (colours.astype(np.int64) * size + row) * size + column
    counts = np.bincount(code, minlength=len(PALETTE) * size * size).reshape(len(PALETTE), size, size)
    counts = _dilated(counts, len(points))
    density = counts.sum(axis=0)
    most = np.log1p(max(float(np.percentile(density[density > 0], 99)), 1.0))
    level = np.ceil(LEVELS * np.log1p(density) / most).clip(1, LEVELS).astype(np.int64)
    entry = np.where(density > 0, 1 + counts.argmax(axis=0) * LEVELS + level - 1, 0).astype(np.uint8)
    image = Image.fromarray(entry, "P")
    image.putpalette(bytes([0, 0, 0]) + b"".join(bytes.fromhex(colour[1:]) * LEVELS for colour in PALETTE))
    opaque = np.linspace(0.4, 1, LEVELS)
    image.info["transparency"] = bytes([0, *((255 * opaque).astype(np.uint8).tolist() * len(PALETTE))])
    return image


def _places(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, 2): 0 to 1 on the longer axis; less or more for few points that are much farther out than all others."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    most = np.percentile(points, [EDGE, 100 - EDGE], axis=0)  # (2, 2)
    if 0 < FAR * np.ptp(most, axis=0).max() < (high - low).max():
        low, high = most
    span = max(float((high - low).max()), 1e-12)
    found: NDArray[np.float64] = (points - (low + high) / 2) / span + 0.5
    return found


def _outside(places: NDArray[np.float64]) -> int:
    beyond = (places < -ROUNDING) | (places > 1 + ROUNDING)
    return int(beyond.any(axis=1).sum())


def _dilated(counts: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Points of one pixel where there are many, else crosses of three or discs of five."""
    reach = 0 if n > 30_000 else 1 if n > 3_000 else 2
    found = counts.copy()
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if (down or right) and down**2 + right**2 <= reach**2:
                found += np.roll(counts, (down, right), axis=(1, 2))
    return found


def _words(record: MapRecord) -> tuple[float | None, str]:
    if record.method != "pca":
        return None, record.method.upper()
    return (float(sum(record.explained[:2])) if record.explained else None), "PCA"


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, transparency=image.info["transparency"])
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _length(pictures: Sequence[MapPicture]) -> int:
    return sum(len(one.by_class) + len(one.by_cluster) for one in pictures)
