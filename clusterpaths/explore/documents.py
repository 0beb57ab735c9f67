"""A set's answers as JSON text for existing readers: computed once per set, sliced for each request.

Belongs here: bytes. At 202,599 examples a loop over all of them, or parsing paths.json, is too slow for a request.
`server/contract/dashboards.py` maps requests to texts.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from clusterpaths.common.lru import LRUCache
from clusterpaths.errors import CacheError, NotFoundError
from clusterpaths.sets.external import CENTROIDS_JSON, METADATA, read_json
from clusterpaths.storage import Storage
from clusterpaths.storage.base import stamp_of

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

BUDGET = 48 << 20  # bytes of cached text of all sets; of 202,599 examples in five layers it is 13 MB
_BETWEEN = ", "
_AT_ONCE = 8192  # examples
_KEY = re.compile(r"example_([0-9]{1,19})")
_LARGEST = np.iinfo(np.int64).max
_checked: LRUCache[bool] = LRUCache(256)  # files that are JSON, by their stamp


@dataclass(frozen=True)
class _Text:
    """The text of one set, n examples."""

    rows: bytes  # "example_0063": [1, 1, 4], … one after the other
    starts: NDArray[np.int64]  # (n + 1,) where each begins
    numbers: NDArray[np.uint8]  # (n, w) each id as JSON, padded with leading spaces, followed by a comma
    id_to_index: bytes  # {"63": 63, …}

    @property
    def size(self) -> int:
        return len(self.rows) + self.starts.nbytes + self.numbers.nbytes + len(self.id_to_index)


class Documents:
    """The texts of recently used sets. Thread-safe."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._texts: LRUCache[_Text] = LRUCache(budget, lambda text: text.size, minimum=1)

    def paths(self, index: SetIndex, limit: int, offset: int) -> memoryview:
        """ "example_0016": [3, 2, 1], … of `limit` examples from the `offset`th on, in the set's order: an object's inside."""
        text = self._text(index)
        first, last = min(offset, len(text.starts) - 1), min(offset + limit, len(text.starts) - 1)
        end = text.starts[last] - len(_BETWEEN) if last > first else text.starts[first]
        return memoryview(text.rows)[text.starts[first] : end]

    def id_to_index(self, index: SetIndex) -> bytes:
        """{id: id} of every example, as `with_attribute` and the keys of `paths` have them.

        A reader looks an id of an attribute up here and compares what it finds with the number in the keys.
        """
        return self._text(index).id_to_index

    def with_attribute(self, index: SetIndex, name: str, value: int) -> tuple[int, memoryview]:
        """How many examples have this value (1 or -1) of an attribute, and their ids: a list's inside.

        Raises:
            NotFoundError: no attribute of that name.
        """
        values = index.attributes.get(name)
        if values is None:
            known = ", ".join(index.attributes) or "none"
            raise NotFoundError(f"There is no attribute {shown(name)}. Expected one of: {known}.")
        chosen = np.flatnonzero(values == value)
        listed = self._text(index).numbers.take(chosen, axis=0).tobytes()
        return len(chosen), memoryview(listed)[:-1]  # without the last comma

    def _text(self, index: SetIndex) -> _Text:
        return self._texts.get(index.folder, lambda: _make(index), version=index.summary.version)


def row_of_key(index: SetIndex, key: str) -> int:
    """The row of an example by its key in paths.json, `example_0016`.

    Raises:
        NotFoundError: no example has exactly this key.
    """
    match = _KEY.fullmatch(key)
    row = row_of_id(index, int(match[1])) if match else -1
    if row < 0 or _keys(index, row, row + 1)[0] != key:
        raise NotFoundError(f"There is no example {shown(key)}. Expected a key such as example_0016.")
    return row


def row_of_id(index: SetIndex, example_id: int) -> int:
    """The row of an example by its id, however large the number.

    Raises:
        NotFoundError: no example has this id.
    """
    if not 0 <= example_id <= _LARGEST:
        raise NotFoundError(f"There is no example {shown(str(example_id))}. Expected the id of an example of the set.")
    return index.row_of(example_id)


def path_of(index: SetIndex, row: int) -> list[int]:
    """The clusters of one example, one per layer."""
    clusters: list[int] = index.clusters[row].tolist()
    return clusters


def key_of(example_id: int) -> str:
    """An example's name in paths.json."""
    return f"example_{example_id:04d}"


def _keys(index: SetIndex, first: int, last: int) -> list[str]:
    """The keys of these rows: external sets may have other keys."""
    if index.keys is None:
        return [key_of(i) for i in index.ids[first:last].tolist()]
    keys: list[str] = index.keys.slice(first, last - first).to_pylist()
    return keys


def metadata(folder: Storage) -> bytes:
    """metadata.json of a model's directory, unchanged but without a byte order mark.

    Raises:
        NotFoundError: there is none, or it is not JSON.
    """
    try:
        _, text = read_json(folder.read(METADATA))
    except FileNotFoundError as error:
        raise NotFoundError(f"{folder.name} has no metadata.json.") from error
    except ValueError as error:
        raise NotFoundError(f"metadata.json of {folder.name} is not JSON ({error}). Publish the set again.") from error
    except OSError as error:
        raise NotFoundError(
            f"metadata.json of {folder.name} cannot be read ({error.strerror}). Expected a file; publish the set again."
        ) from error
    return text


def centroids(index: SetIndex) -> Path | bytes:
    """The file centroids.json of a set, {layer: [[number …] …]}: large, so it is read once, to check that it is JSON.

    Where another program put a byte order mark before it, the text without it.

    Raises:
        NotFoundError: there is none.
        CacheError: it is corrupted.
    """
    path = index.source.file(CENTROIDS_JSON)
    if not path.is_file():
        raise NotFoundError(f"{index.name} has no centroids.json.")
    _checked.get(str(path), lambda: _require_json(index, path), version=stamp_of(path))
    if index.record is None:
        with path.open("rb") as file:
            if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                return file.read()
    return path


def _require_json(index: SetIndex, path: Path) -> bool:
    try:
        pydantic_core.from_json(path.read_bytes().removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        raise CacheError(f"{index.name}/centroids.json is corrupted ({error}). Publish the set again.") from error
    return True


def shown(text: str) -> str:
    """Text of a request for a message: quoted and truncated."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _make(index: SetIndex) -> _Text:
    """All of a set's text; 0.1 to 0.2 s at 202,599 examples."""
    endings = [f'": {path}{_BETWEEN}' for path in index.paths.paths.tolist()]  # of each distinct path
    starts = np.zeros(len(index.ids) + 1, np.int64)
    rows, numbers = [], []
    for at in range(0, len(index.ids), _AT_ONCE):  # all at once would need 100 MB temporarily
        ids, of_example = index.ids[at : at + _AT_ONCE].tolist(), index.paths.of_example[at : at + _AT_ONCE].tolist()
        keys = _keys(index, at, at + _AT_ONCE)
        some = [f'"{key}{endings[path]}' for key, path in zip(keys, of_example, strict=True)]
        starts[at + 1 : at + 1 + len(some)] = np.fromiter(map(len, some), np.int64, len(some))
        rows.append("".join(some).encode())
        numbers.append(_BETWEEN.join(f'"{i}": {i}' for i in ids).encode())
    np.cumsum(starts, out=starts)
    return _Text(
        rows=b"".join(rows),
        starts=starts,
        numbers=_columns(index.ids),
        id_to_index=b"{" + _BETWEEN.encode().join(numbers) + b"}",
    )


def _columns(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, w) the ids in decimal, right-aligned, each followed by a comma: concatenated rows are JSON."""
    width = max(2, len(str(ids.max())) + 1) if len(ids) else 2  # one space in front, so that a person can read it
    table = np.full((len(ids), width + 1), ord(" "), np.uint8)
    table[:, -1] = ord(",")
    left = ids.copy()
    for column in range(width - 1, 0, -1):
        needed = (left > 0) | (column == width - 1)
        table[:, column] = np.where(needed, left % 10 + ord("0"), ord(" "))
        left //= 10
    return table
