"""What a set's folder holds, as arrays: of a set of ours, and of one that another program wrote.

Belongs here: from the documents to `Columns`, checked. What is worked out of them is `index.py`; which folders there are
is `library.py`.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.common.text import is_utf8
from clusterpaths.errors import CacheError
from clusterpaths.records import SetRecord
from clusterpaths.sets.set_files import read_record, read_rows
from clusterpaths.storage.remote import fetch

RECORD, PATHS = "set.json", "paths.parquet"
FOREIGN = ("paths.json", "centroids.json")
EXAMPLES, ATTRIBUTE = "examples.parquet", "attr_"  # as cache/examples.py writes them
OURS = (RECORD, PATHS, "centroids.npz")  # what no other program writes
TopScores = tuple[NDArray[np.int16], NDArray[np.float32]]  # (n, top) class, -1 where not known, and softmax
_KEY = re.compile(r"example_(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """n examples, L layers; ids ascending. Classes are -1 where not known."""

    record: SetRecord | None
    layers: tuple[str, ...]
    k: tuple[int, ...]
    ids: NDArray[np.int64]  # (n,)
    clusters: NDArray[np.int16]  # (n, L)
    distances: NDArray[np.float32] | None  # (n, L)
    labels: NDArray[np.int16]  # (n,)
    predictions: NDArray[np.int16]  # (n,)
    splits: NDArray[np.int16]  # (n,) index into split_names, -1: not known
    split_names: tuple[str, ...]
    files: Any  # pyarrow.Array of n strings; None: the set has no images
    attributes: dict[str, NDArray[np.int8]] = field(default_factory=dict)  # (n,) each: 1, -1, 0 not known
    keys: Any = None  # pyarrow.Array of n strings: how the set's own paths.json calls them; None: example_0016


def is_foreign(folder: Path) -> bool:
    """Whether another program wrote this set: the two documents, and nothing that only we write."""
    return all((folder / name).is_file() for name in FOREIGN) and not any((folder / name).exists() for name in OURS)


def check_whole(folder: Path) -> SetRecord:
    """The record of a set of ours, whose columns are there; their values are not read.

    Raises:
        CacheError: its files are missing, damaged, or do not fit together.
    """
    record, path = read_record(folder), fetch(folder / PATHS)
    if unknown := [layer for layer in record.layers if layer not in record.k_per_layer]:
        raise CacheError(f"{folder / RECORD} has no k for {', '.join(unknown)}. Publish the set again.")
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(f"{path} cannot be read: {error}. Expected the paths of a set; publish it again.") from error
    if rows != record.num_examples:
        raise CacheError(
            f"{path} has {rows:,} examples; set.json says {record.num_examples:,}. They do not belong together; publish "
            "the set again."
        )
    return record


def read_columns(folder: Path) -> Columns:
    """A set of ours.

    Raises:
        CacheError: its files are missing, damaged, or do not fit together.
    """
    record = check_whole(folder)
    rows = read_rows(folder, record)
    if (str(rows.ids.dtype), str(rows.distances.dtype)) != ("int64", "float32"):
        raise CacheError(
            f"{folder / PATHS} has ids of {rows.ids.dtype} and distances of {rows.distances.dtype}. Expected int64 and "
            "float32, without gaps; publish the set again."
        )
    if len(rows.ids) > 1 and not (np.diff(rows.ids) > 0).all():
        raise CacheError(f"{folder / PATHS} has ids that do not ascend. Expected each once; publish the set again.")
    splits, names = _split_codes(folder / PATHS)
    return Columns(
        record=record,
        layers=record.layers,
        k=tuple(record.k_per_layer[layer] for layer in record.layers),
        ids=rows.ids,
        clusters=rows.clusters,
        distances=rows.distances,
        labels=rows.labels,
        predictions=rows.predictions,
        splits=splits,
        split_names=names,
        files=rows.files.combine_chunks(),
        attributes=read_attributes(folder.parent, rows.ids),
    )


def read_foreign(folder: Path) -> Columns:
    """A set of which there are only paths.json and centroids.json; layers in the order of ../metadata.json, if it fits.

    Attributes are those that the cache knows of examples of these ids. Its labels and class scores are not taken over:
    nothing says that they are of the same model.

    Raises:
        CacheError: the documents are not what the contract says, or do not fit together.
    """
    centroids, paths = (_document(folder / name) for name in reversed(FOREIGN))
    if not centroids or not all(isinstance(rows, list) and rows for rows in centroids.values()):
        raise CacheError(f"{folder / FOREIGN[1]} has no centroids. Expected lists of them by layer.")
    if strange := next((layer for layer in centroids if not is_utf8(layer)), None):
        raise CacheError(
            f"{folder / FOREIGN[1]} has the layer {strange[:80]!a}. Expected names that are whole in Unicode."
        )
    layers = _layer_order(folder.parent / "metadata.json", tuple(centroids))
    matches = [_KEY.fullmatch(key) for key in paths]
    strange = next((key for key, match in zip(paths, matches, strict=True) if not match), None)
    if strange is not None:
        raise CacheError(f"{folder / FOREIGN[0]} has the key {strange[:80]!r}. Expected example_0016, with a number.")
    ids = np.array([int(match[1]) for match in matches if match], np.int64)
    rows = list(paths.values())
    kinds = set(map(type, itertools.chain.from_iterable(rows))) if set(map(type, rows)) <= {list} else {object}
    try:
        if not kinds <= {int}:  # NumPy would make 1 of 1.7, "1" and true
            raise ValueError("it holds something else than lists of whole numbers")
        clusters = np.array(rows, np.int64).reshape(len(ids), len(layers))
    except (ValueError, OverflowError) as error:
        raise CacheError(
            f"{folder / FOREIGN[0]} does not hold paths of {len(layers)} clusters each, one for each of "
            f"{', '.join(layers)}: {error}. It does not belong to the centroids.json beside it."
        ) from error
    k = tuple(len(centroids[layer]) for layer in layers)
    if len(ids) and not ((clusters >= 0).all() and (clusters < np.array(k)).all()):
        raise CacheError(
            f"{folder / FOREIGN[0]} has clusters from {clusters.min()} to {clusters.max()}; centroids.json has "
            f"{', '.join(map(str, k))} a layer. They do not belong together."
        )
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (np.diff(ids) == 0).any():
        raise CacheError(f"{folder / FOREIGN[0]} has the same example twice, under keys of different length.")
    keys = pa.array(list(paths), pa.string()).take(pa.array(order))
    unknown = np.full(len(ids), -1, np.int16)
    return Columns(
        record=None,
        layers=layers,
        k=k,
        ids=ids,
        clusters=clusters[order].astype(np.int16),
        distances=None,
        labels=unknown,
        predictions=unknown,
        splits=unknown,
        split_names=(),
        files=None,
        attributes=read_attributes(folder.parent, ids),
        keys=keys,
    )


def read_attributes(cache: Path, ids: NDArray[np.int64]) -> dict[str, NDArray[np.int8]]:
    """Attribute -> (n,) of these ids; 0 for examples that the cache does not have. Empty where it has no table.

    Raises:
        CacheError: examples.parquet is there and cannot be read.
    """
    path = fetch(cache / EXAMPLES)
    if not path.is_file():
        return {}
    try:
        names = [name for name in pq.read_schema(path).names if name.startswith(ATTRIBUTE)]
        if not names:
            return {}
        table = pq.read_table(path, columns=["id", *names])
    except FileNotFoundError:  # taken away meanwhile
        return {}
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the cache's examples; run the flow again."
        ) from error
    at, known = _rows_of(table["id"].to_numpy(), ids)
    found = {}
    for name in names:
        values: NDArray[np.int8] = pc.fill_null(table[name].cast(pa.int8()), 0).to_numpy()
        found[name.removeprefix(ATTRIBUTE)] = np.where(known, values[at], 0).astype(np.int8)
    return found


def read_top_scores(cache: Path, ids: NDArray[np.int64], top: int) -> TopScores | None:
    """The most probable classes of each of these ids: (n, top) class, -1 where not known, and (n, top) softmax.

    Read in pieces: the class scores of a whole cache may be larger than memory. None where the cache has none.

    Raises:
        CacheError: examples.parquet is there and cannot be read.
    """
    path = fetch(cache / EXAMPLES)
    classes = np.full((len(ids), top), -1, np.int16)
    shares = np.zeros((len(ids), top), np.float32)
    try:
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            if "logits" not in file.schema_arrow.names:
                return None
            for batch in file.iter_batches(1024, columns=["id", "logits"]):
                known = batch.filter(batch.column("logits").is_valid())
                at, ours = _rows_of(ids, known.column("id").to_numpy())
                wanted = known.filter(pa.array(ours))
                best, values = _softmax(wanted.column("logits"), len(wanted), top)
                finite = np.isfinite(values).all(axis=1)
                rows = at[ours][finite]
                classes[rows, : best.shape[1]], shares[rows, : best.shape[1]] = best[finite], values[finite]
    except FileNotFoundError:  # there is none, or it was taken away meanwhile
        return None
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(
            f"{path} cannot be read: {error}. Expected the cache's examples; run the flow again."
        ) from error
    return (classes, shares) if (classes >= 0).any() else None


def _softmax(lists: Any, n: int, top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `top` most probable classes of n lists of class scores, and their softmax: (n, top) each, or fewer."""
    scores = lists.flatten().to_numpy(zero_copy_only=False).reshape(n, -1) if n else np.empty((0, 0), np.float32)
    width = scores.shape[1]
    some = (
        np.argpartition(scores, width - top, axis=1)[:, width - top :]
        if top < width
        else np.tile(np.arange(width), (n, 1))
    )
    best = np.take_along_axis(
        some, np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable"), axis=1
    )
    with np.errstate(invalid="ignore"):  # rows of NaN stay so
        powers = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
        values: NDArray[np.float32] = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), best, axis=1)
    return best, values


def short_hash(*parts: object) -> str:
    """Twelve hex digits that change when one of the parts does."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _rows_of(stored: NDArray[np.int64], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each id stands in `stored`, ascending and not empty, and whether it does."""
    if not len(stored):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(stored, ids), len(stored) - 1)
    return at, stored[at] == ids


def _split_codes(path: Path) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    column = pq.read_table(path, columns=["split"])["split"] if "split" in pq.read_schema(path).names else None
    if column is None:
        return np.full(pq.read_metadata(path).num_rows, -1, np.int16), ()
    values = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    stored = values.dictionary.to_pylist()
    names = tuple(sorted(name for name in stored if name))
    rank = np.array([names.index(name) if name else -1 for name in stored], np.int16)
    indices = values.indices.to_numpy()
    return (rank[indices] if len(rank) else np.empty(0, np.int16)), names


def read_json(content: bytes) -> tuple[Any, bytes]:
    """A document of another program, and its text without a byte order mark.

    Raises:
        ValueError: it is no JSON in UTF-8, or too deep.
    """
    text = content.removeprefix(codecs.BOM_UTF8)
    try:
        return json.loads(text.decode(), parse_constant=_refuse), text
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}")


def _document(path: Path) -> dict[str, Any]:
    try:
        found, _ = read_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CacheError(f"{path} does not exist. Expected the documents of a set.") from error
    except ValueError as error:
        raise CacheError(f"{path} is no JSON: {error}. Make the set again with the program that wrote it.") from error
    if not isinstance(found, dict):
        raise CacheError(f"{path} is a {type(found).__name__}. Expected an object with a key for each entry.")
    return found


def _layer_order(metadata: Path, named: tuple[str, ...]) -> tuple[str, ...]:
    """As metadata.json says, where it is of the same layers: paths.json has no names of its own."""
    if not metadata.is_file():
        return named
    try:
        layers = read_json(metadata.read_bytes())[0].get("layers")
    except (ValueError, AttributeError) as error:
        raise CacheError(f"{metadata} is no JSON object: {error}. It says in which order the layers are.") from error
    fits = isinstance(layers, list) and all(isinstance(x, str) for x in layers) and sorted(layers) == sorted(named)
    return tuple(layers) if fits else named
