"""A set of another program: paths.json and centroids.json, without native documents.

Belongs here: reading and checking these documents. Native sets are `published.py`.
"""

from __future__ import annotations

import codecs
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clusterpaths.common.corrupted import parse_json
from clusterpaths.common.text import is_utf8
from clusterpaths.errors import CacheError
from clusterpaths.metrics.paths import PathCounts, count_paths
from clusterpaths.records import name_of
from clusterpaths.sets.cached_examples import read_attributes
from clusterpaths.sets.directory import CENTROIDS, PATHS, RECORD, SetDirectory
from clusterpaths.storage import StorageLike

PATHS_JSON, CENTROIDS_JSON = "paths.json", "centroids.json"
METADATA = "metadata.json"  # of the directory around the set
_NATIVE = (RECORD, PATHS, CENTROIDS)  # written by no other program
_KEY = re.compile(r"example_(\d{1,18})", re.ASCII)


class ExternalSet(SetDirectory):
    """A set that another program wrote; n examples, L layers.

    It has no distances and images, and neither labels nor predictions, as those of the cache may be of another model.
    Attributes are those of the cache for these ids.
    """

    record = None
    distances = None
    files = None
    same_classes = True
    split_names: tuple[str, ...] = ()

    def __init__(
        self,
        folder: StorageLike,
        layers: tuple[str, ...],
        k: tuple[int, ...],
        ids: NDArray[np.int64],  # (n,) ascending
        clusters: NDArray[np.int16],  # (n, L)
        keys: Any,  # pyarrow.Array of n strings: what paths.json calls the examples
    ) -> None:
        super().__init__(folder)
        self.layers, self.k = layers, k
        self.ids, self.clusters, self.keys = ids, clusters, keys
        self.labels = self.predictions = self.splits = np.full(len(self.ids), -1, np.int16)  # (n,) unknown
        self.num_examples = len(self.ids)
        self.paths: PathCounts = count_paths(self.clusters)

    def class_name(self, index: int) -> str:
        """Classes have numbers only."""
        return name_of((), index)

    label_name = class_name

    def read_attributes(self) -> dict[str, NDArray[np.int8]]:
        """As for a published set."""
        return read_attributes(self.cache, self.ids)


def is_external(path: Path) -> bool:
    """Whether another program wrote this set: it has the two documents, and none that only ClusterPaths writes."""
    return all((path / name).is_file() for name in (PATHS_JSON, CENTROIDS_JSON)) and not any(
        (path / name).exists() for name in _NATIVE
    )


def read_external(folder: Path) -> ExternalSet:
    """Read a set with only paths.json and centroids.json; layers are in the order of ../metadata.json, if it matches.

    Raises:
        CacheError: the documents are invalid or inconsistent.
    """
    centroids, paths = (_document(folder / name) for name in (CENTROIDS_JSON, PATHS_JSON))
    if not centroids or not all(isinstance(rows, list) and rows for rows in centroids.values()):
        raise CacheError(f"{folder / CENTROIDS_JSON} has no centroids. Expected lists of them by layer.")
    if unexpected := next((layer for layer in centroids if not is_utf8(layer)), None):
        raise CacheError(
            f"{folder / CENTROIDS_JSON} has the layer {unexpected[:80]!a}. Expected names that are valid Unicode."
        )
    layers = _layer_order(folder.parent / METADATA, tuple(centroids))
    matches = [_KEY.fullmatch(key) for key in paths]
    unexpected = next((key for key, match in zip(paths, matches, strict=True) if not match), None)
    if unexpected is not None:
        raise CacheError(
            f"{folder / PATHS_JSON} has the key {unexpected[:80]!r}. Expected example_0016, with a number."
        )
    ids = np.array([int(match[1]) for match in matches if match], np.int64)
    rows = list(paths.values())
    kinds = set(map(type, itertools.chain.from_iterable(rows))) if set(map(type, rows)) <= {list} else {object}
    try:
        if not kinds <= {int}:  # NumPy would make 1 of 1.7, "1" and true
            raise ValueError("it holds values other than lists of integers")
        clusters = np.array(rows, np.int64).reshape(len(ids), len(layers))
    except (ValueError, OverflowError) as error:
        raise CacheError(
            f"{folder / PATHS_JSON} does not hold paths of {len(layers)} clusters each, one for each of "
            f"{', '.join(layers)}: {error}. It does not match centroids.json."
        ) from error
    k = tuple(len(centroids[layer]) for layer in layers)
    if len(ids) and not ((clusters >= 0).all() and (clusters < np.array(k)).all()):
        raise CacheError(
            f"{folder / PATHS_JSON} has clusters from {clusters.min()} to {clusters.max()}; centroids.json has "
            f"{', '.join(map(str, k))} per layer. They do not match."
        )
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (np.diff(ids) == 0).any():
        raise CacheError(f"{folder / PATHS_JSON} has the same example twice, under keys of different length.")
    keys = pa.array(list(paths), pa.string()).take(pa.array(order))
    return ExternalSet(folder, layers, k, ids, clusters[order].astype(np.int16), keys)


def read_json(content: bytes) -> tuple[Any, bytes]:
    """A document of another program, and its text without a byte order mark.

    Raises:
        ValueError: it is not JSON in UTF-8, or too deeply nested.
    """
    text = content.removeprefix(codecs.BOM_UTF8)
    return parse_json(text.decode(), parse_constant=_refuse), text


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}")


def _document(path: Path) -> dict[str, Any]:
    try:
        found, _ = read_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheError(f"{path} does not exist. Expected the documents of a set.") from error
    except ValueError as error:
        raise CacheError(f"{path} is not JSON: {error}. Write the set again with the program that made it.") from error
    if not isinstance(found, dict):
        raise CacheError(f"{path} is a {type(found).__name__}. Expected an object with a key for each entry.")
    return found


def _layer_order(metadata: Path, named: tuple[str, ...]) -> tuple[str, ...]:
    """Order of the layers in metadata.json, if it has the same layers: paths.json has no names."""
    if not metadata.is_file():
        return named
    try:
        layers = read_json(metadata.read_bytes())[0].get("layers")
    except (ValueError, AttributeError) as error:
        raise CacheError(f"{metadata} is not a JSON object: {error}. It defines the order of the layers.") from error
    fits = isinstance(layers, list) and all(isinstance(x, str) for x in layers) and sorted(layers) == sorted(named)
    return tuple(layers) if fits else named
