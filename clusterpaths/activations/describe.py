"""What is known of the rows: ids, files, splits, labels, predictions, attributes and texts, tied to rows by id or by order.

Belongs here: arrays and tables to one row per example. Layers are `find.py`, writing them `take.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clusterpaths.activations.config import ActivationsConfig
from clusterpaths.activations.find import FoundLayer, natural
from clusterpaths.cache.manifest import parse_ids
from clusterpaths.common.corrupted import one_line, reading
from clusterpaths.common.text import did_you_mean
from clusterpaths.datasets import open_dataset
from clusterpaths.datasets.base import ExampleTable
from clusterpaths.datasets.cells import as_attribute, as_numbers, is_missing
from clusterpaths.datasets.folder_labels import MOST_CLASSES, SPLITS
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

_TABLES = (".csv", ".tsv", ".parquet")
_COLUMNS = ("id", "file", "split", "label", "prediction", "text")


@dataclass(frozen=True)
class Description:
    """n examples, ids ascending.

    Attributes:
        table: of the examples.
        order: (n,) the row of each example in the arrays; None: they are in order of id.
        predictions: (n,) class numbers, -1 where there is none; None: not given.
        scores: (n, classes); None: not given.
        class_names: of predictions.
        images: the directory of images; "" where there are none.
        texts: of each example; empty where there are none.
        notes: what was not used, one sentence each.
    """

    table: ExampleTable
    order: NDArray[np.int64] | None
    predictions: NDArray[np.int32] | None = None
    scores: NDArray[np.float32] | None = None
    class_names: tuple[str, ...] = ()
    images: str = ""
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def describe(
    config: ActivationsConfig,
    source: Path | None,
    layers: Sequence[FoundLayer],
    predictions: NDArray[Any] | None = None,
    labels: NDArray[Any] | None = None,
) -> Description:
    """The examples of these layers.

    Args:
        config: names the files.
        source: where files of the usual names are looked for; None: nowhere.
        layers: of equal numbers of rows, or refused.
        predictions: (n,) or (n, classes), in place of a file.
        labels: (n,), in place of a file.

    Raises:
        DatasetError: numbers of rows that differ, with all of them, or files that cannot be used.
    """
    files = {
        name: getattr(config, name) or _beside(source, name) for name in ("examples", "predictions", "labels", "ids")
    }
    counts = {layer.name: layer.rows for layer in layers}
    given: dict[str, Any] = {"predictions": predictions, "labels": labels}
    read: dict[str, Any] = {}
    for name, path in files.items():
        if given.get(name) is not None:
            read[name] = np.asarray(given[name])
        elif path is not None:
            read[name] = _read(Path(path).expanduser())
    for name, value in read.items():
        path = files[name]
        counts["given " + name if given.get(name) is not None or path is None else path.name] = len(value)
    found = _images(config) if config.images else None
    table = read.get("examples")
    if found is not None and (table is None or "file" not in table.column_names):
        counts[f"images ({config.images})"] = len(found)
    _require_same_counts(counts)
    _require_same_ids(layers)
    count = layers[0].rows
    rows = _row_ids(layers, read.get("ids"), count)
    order = np.argsort(rows, kind="stable")
    in_order = bool((order == np.arange(count)).all())
    ids = rows[order]
    tables = {name: _tied(value, rows, order, name) for name, value in read.items() if name != "ids"}
    notes: list[str] = []
    columns = tables.get("examples", {})
    names, pictures = _files(columns, found, ids, order, config)
    label_numbers, label_names = _classes(_one(tables, "labels", "label"), "labels", count)
    if label_numbers is None and pictures is not None:  # of directories called by their class, or labels.csv
        label_numbers, label_names = np.asarray(pictures.labels, np.int32), pictures.class_names
    decided = _one(tables, "predictions", "prediction")
    scores = _scores(decided) if isinstance(decided, np.ndarray) and decided.ndim == 2 else None
    numbers, class_names = _classes(None if scores is not None else decided, "predictions", count)
    attributes, others = _attributes({n: v for n, v in columns.items() if n not in _COLUMNS})
    texts = tuple(_texts(columns, others, count))
    if others and not texts:
        notes.append(f"The columns {', '.join(others)} are not used.")
    return Description(
        table=ExampleTable(
            ids=ids,
            files=names,
            sizes=np.zeros(count, np.int64) if pictures is None else pictures.sizes,
            splits=_splits(columns.get("split"), count),
            labels=np.full(count, -1, np.int32) if label_numbers is None else label_numbers,
            class_names=label_names,
            attributes=attributes,
            mtimes=None if pictures is None else pictures.mtimes,
        ),
        order=None if in_order else order,
        predictions=numbers,
        scores=scores,
        class_names=class_names,
        images="" if pictures is None else str(Path(config.images or "").expanduser().absolute()),
        texts=() if pictures is not None else texts,
        notes=tuple(notes),
    )


def _beside(source: Path | None, name: str) -> Path | None:
    if source is None or not source.is_dir():
        return None
    endings = (".npy",) if name == "ids" else _TABLES if name == "examples" else (".npy", *_TABLES)
    return next((path for end in endings if (path := source / f"{name}{end}").is_file()), None)


def _read(path: Path) -> Any:
    """An array, or a table."""
    try:
        with reading():
            if path.suffix.lower() == ".npy":
                array: NDArray[Any] = np.load(path, allow_pickle=False)
                if not array.ndim:
                    raise ValueError(f"it holds a single value of {array.dtype}")
                return array
            if path.suffix.lower() == ".parquet":
                return pq.read_table(path)
            if path.suffix.lower() in _TABLES:
                options = pa.csv.ParseOptions(
                    delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
                )
                every = pa.csv.read_csv(path, parse_options=options)
                # as text: 007 and 1.0 are what they are, and pandas' words for a missing value are known elsewhere
                text = pa.csv.ConvertOptions(column_types=dict.fromkeys(every.column_names, pa.string()))
                return pa.csv.read_csv(path, parse_options=options, convert_options=text)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be read ({one_line(error)}). Expected a .npy file of plain numbers, "
            "or a table as CSV in UTF-8 or as parquet."
        ) from error
    raise DatasetError(f"{path} is neither .npy nor a table. Expected .npy, .csv, .tsv or .parquet.")


def _images(config: ActivationsConfig) -> ExampleTable:
    root = str(Path(config.images or "").expanduser().absolute())
    return open_dataset(DatasetSpec(name="folder", root=root)).examples()


def _require_same_counts(counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise DatasetError(
            f"The numbers of examples differ: {listed}. Expected one row per example in all of them, in the same order. Leave "
            "out what does not belong (--layers), or write the rows again."
        )


def _require_same_ids(layers: Sequence[FoundLayer]) -> None:
    named = [layer for layer in layers if layer.ids is not None]
    for layer in named[1:]:
        if layer.ids != named[0].ids:
            first, other = (set(parse_ids(one.ids or "").tolist()) for one in (named[0], layer))
            lacking = [f"{name} lacks {len(gone):,} ({', '.join(map(str, sorted(gone)[:5]))} …)"
                       for name, gone in ((layer.name, first - other), (named[0].name, other - first)) if gone]  # fmt: skip
            raise DatasetError(
                f"The layers {named[0].name} and {layer.name} have the same number of files, of other examples: "
                f"{'; '.join(lacking)}. Expected a file of each example in each layer."
            )


def _row_ids(layers: Sequence[FoundLayer], given: Any, count: int) -> NDArray[np.int64]:
    """(n,) id of each row."""
    of_files = next((layer.ids for layer in layers if layer.ids is not None), None)
    if of_files is not None:
        return parse_ids(of_files)
    if given is None:
        return np.arange(count, dtype=np.int64)
    ids = np.asarray(given)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or len(np.unique(ids)) < len(ids):
        raise DatasetError(
            f"The ids are {ids.dtype} of shape {ids.shape}, {len(np.unique(ids)):,} different ones. Expected one integer from 0 "
            "for each row, each once."
        )
    return ids.astype(np.int64)


def _tied(value: Any, rows: NDArray[np.int64], order: NDArray[np.int64], name: str) -> dict[str, Any]:
    """Columns in order of id: tied by the column id, or by the order of rows."""
    if isinstance(value, np.ndarray):
        return {"": value[order]}
    table: pa.Table = value.rename_columns([_plain(column) for column in value.column_names])
    if "id" not in table.column_names:
        return {column: table[column].take(pa.array(order)) for column in table.column_names}
    try:
        ids = table["id"].cast(pa.int64()).to_numpy()
    except (pa.ArrowException, ValueError) as error:
        raise DatasetError(f"The column id of the {name} is no whole number in each row: {error}.") from error
    by_id = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[by_id], rows[order]):
        missing, unknown = np.setdiff1d(rows, ids), np.setdiff1d(ids, rows)
        raise DatasetError(
            f"The column id of the {name} does not have each example once: {len(missing):,} are missing "
            f"({', '.join(map(str, missing[:5])) or 'none'}), {len(unknown):,} are of no row "
            f"({', '.join(map(str, unknown[:5])) or 'none'}). Leave the column out where rows are in the same order."
        )
    return {column: table[column].take(pa.array(by_id)) for column in table.column_names}


def _plain(column: str) -> str:
    return column.lower() if column.lower() in _COLUMNS else column


def _one(tables: dict[str, dict[str, Any]], name: str, column: str) -> Any:
    """Labels or predictions: an array, a column of a file of their own, or of the table of examples."""
    own = tables.get(name)
    if own is None:
        return tables.get("examples", {}).get(column)
    if "" in own:
        return own[""]
    if column in own:
        return own[column]
    rest = [other for other in own if other not in ("id", "file")]
    raise DatasetError(
        f"The table of {name} has the columns {', '.join(own)}, and no column {column}.{did_you_mean(column, rest)} Name it so."
    )


def _classes(values: Any, name: str, count: int) -> tuple[NDArray[np.int32] | None, tuple[str, ...]]:
    """(n,) class numbers and names: of integers, or of names as text, sorted."""
    if values is None:
        return None, ()
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 or values.dtype.kind not in "iuU":
            raise DatasetError(
                f"The {name} are {values.dtype} of shape {values.shape}. Expected a class number or name per example, shape "
                f"({count:,},)" + (", or scores (examples, classes)." if name == "predictions" else ".")
            )
        texts = [str(value) for value in values.tolist()]
    else:
        texts = _as_texts(values)
    numbers = as_numbers(texts)
    if numbers and all(value is None or (value >= -1 and value.is_integer()) for value in numbers):
        whole = np.array([-1 if value is None else int(value) for value in numbers], np.int64)
        if whole.max(initial=0) >= MOST_CLASSES:
            raise DatasetError(f"The {name} go up to {whole.max():,}. Expected class numbers below {MOST_CLASSES:,}.")
        return whole.astype(np.int32), tuple(map(str, range(int(whole.max(initial=-1)) + 1)))
    names = tuple(sorted({text for text in texts if not is_missing(text)}, key=natural))
    index = {text: at for at, text in enumerate(names)}
    return np.array([index.get(text, -1) for text in texts], np.int32), names


def _as_texts(column: Any) -> list[str]:
    return [value or "" for value in pc.cast(column, pa.string()).to_pylist()]


def _scores(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype.kind not in "fiu" or values.shape[1] < 2 or not np.isfinite(values).all():
        raise DatasetError(
            f"The predictions are {values.dtype} of shape {values.shape}, and not all of them finite scores of two classes or "
            "more. Expected class numbers (examples,), or finite scores (examples, classes)."
        )
    return values.astype(np.float32)


def _files(
    columns: dict[str, Any],
    found: ExampleTable | None,
    ids: NDArray[np.int64],
    order: NDArray[np.int64],
    config: ActivationsConfig,
) -> tuple[tuple[str, ...], ExampleTable | None]:
    """Names of the examples, and what is known of their images."""
    named = tuple(_as_texts(columns["file"])) if "file" in columns else None
    if named and len(set(named)) < len(named):
        raise DatasetError("The column file of the examples names a file twice. Expected each example's own.")
    if found is None:
        return named or tuple(f"{number:08d}" for number in ids.tolist()), None
    if named:
        at = {file: row for row, file in enumerate(found.files)}
        gone = [file for file in named if file not in at]
        if gone:
            raise DatasetError(
                f"{len(gone):,} of {len(named):,} files that the examples name are not in {config.images}, such as "
                f"{gone[0]!r}.{did_you_mean(gone[0], found.files[:10_000])} Expected names relative to that directory."
            )
        order = np.array([at[file] for file in named], np.int64)
    table = found.take(order)
    return table.files, table


def _splits(column: Any, count: int) -> tuple[str, ...]:
    if column is None:
        return ("",) * count
    texts = [text.lower() for text in _as_texts(column)]
    if unknown := next((text for text in texts if text and text not in SPLITS), None):
        raise DatasetError(
            f"The column split of the examples has {unknown!r}. Expected train, valid or test, or nothing."
        )
    return tuple(SPLITS.get(text, "") for text in texts)


def _attributes(columns: dict[str, Any]) -> tuple[dict[str, NDArray[np.int8]], dict[str, list[str]]]:
    """Columns of yes and no, and the texts of all others."""
    attributes: dict[str, NDArray[np.int8]] = {}
    others: dict[str, list[str]] = {}
    for name, column in columns.items():
        texts = _as_texts(column)
        signs = as_attribute(texts)
        if signs is None:
            others[name] = texts
        else:
            attributes[name] = np.array(signs, np.int8)
    return attributes, others


def _texts(columns: dict[str, Any], others: dict[str, list[str]], count: int) -> list[str]:
    """What shows an example without an image: its text, then the values of other columns."""
    if "text" not in columns and not others:
        return []
    first = _as_texts(columns["text"]) if "text" in columns else [""] * count
    values = ["\n".join(f"{name}: {texts[row]}" for name, texts in others.items()) for row in range(count)]
    return ["\n".join(part for part in pair if part) for pair in zip(first, values, strict=True)]
