"""A list as CSV, and as a document for FiftyOne.

Belongs here: columns and fields, one row or sample per example. The lists are those of the other modules.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterpaths.explore.as_csv import as_text
from clusterpaths.explore.index import SetIndex
from clusterpaths.find.find import prepare
from clusterpaths.find.label_errors import find_label_errors
from clusterpaths.find.near_duplicates import find_near_duplicates, labels_differ
from clusterpaths.find.record import LABEL_ERRORS, NEAR_DUPLICATES, UNDER_COVERED
from clusterpaths.find.under_covered import find_under_covered

_PIECE = 2_000  # rows at a time
_FIFTYONE = "fiftyone.core.fields."
_CLASSIFICATION = f"{_FIFTYONE}EmbeddedDocumentField(fiftyone.core.labels.Classification)"
_TYPES: dict[type, str] = {bool: "BooleanField", int: "IntField", float: "FloatField", str: "StringField"}
Rows = NDArray[np.int64]
Values = dict[str, Any]  # of one example: what its list says of it


def csv_lines(index: SetIndex, kind: str, layer: str = "") -> Iterator[str]:
    """A header and a line per example of the complete list, in its order, in chunks; what is not known is empty.

    Columns: id, file, split, label, prediction, right (1 or 0), then those of the kind. label-errors: suggested, confidence,
    path_share, model_share, path_others. near-duplicates: group (from 1), exact, distance, across_splits, labels_differ.
    under-covered: region (from 1), path, sparse_share. Text that a spreadsheet would interpret as a formula is prefixed with an
    apostrophe.

    Raises:
        ConfigError, NotFoundError: as `find`.
    """
    prepare(index, kind, layer)
    return _lines(index, kind, layer)


def fiftyone_lines(index: SetIndex, kind: str, layer: str = "") -> Iterator[str]:
    """The complete list, in chunks, in the JSON of FiftyOne's `Dataset.to_dict`, which `fiftyone.Dataset.from_json` reads.

    Samples are examples: ground_truth and prediction are Classifications, fields are the columns of `csv_lines` without what
    these hold, tags are the kind and the split. File names are relative to the data set's images: `rel_dir` of `from_json`.

    Raises:
        ConfigError, NotFoundError: as `find`.
    """
    prepare(index, kind, layer)
    return _document(index, kind, layer)


def _document(index: SetIndex, kind: str, layer: str) -> Iterator[str]:
    fields = {"filepath": "StringField", "tags": "ListField(fiftyone.core.fields.StringField)"}
    schema = {name: _FIFTYONE + field for name, field in fields.items()}
    schema |= {"ground_truth": _CLASSIFICATION, "prediction": _CLASSIFICATION, "example": f"{_FIFTYONE}IntField"}
    schema |= {name: _FIFTYONE + _TYPES[type_] for name, type_ in _COLUMNS[kind].items()}
    summary = index.summary
    head = {
        "name": f"{summary.model} {summary.set} {kind}",
        "media_type": "image",
        "sample_fields": schema,
        "info": {"set": index.name, "kind": kind, "dataset": summary.dataset} | ({"layer": layer} if layer else {}),
        "samples": [],
    }
    yield json.dumps(head).removesuffix("]}")
    between = "\n"
    for rows, values in _pieces(index, kind, layer):
        samples = (
            {
                "filepath": example.file or f"{example.id}",
                "tags": [kind, *([example.split] if example.split else [])],
                "ground_truth": _classification(example.label),
                "prediction": _classification(example.prediction),
                "example": example.id,
                **value,
            }
            for example, value in zip(index.examples(rows), values, strict=True)
        )
        yield between + ",\n".join(map(json.dumps, samples))
        between = ",\n"
    yield "]}\n"


def _classification(name: str | None) -> dict[str, str] | None:
    return None if name is None else {"_cls": "Classification", "label": name}


def _lines(index: SetIndex, kind: str, layer: str) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "file", "split", "label", "prediction", "right", *_COLUMNS[kind]])
    for rows, values in _pieces(index, kind, layer):
        for one, value in zip(index.examples(rows), values, strict=True):
            own = [
                one.id,
                as_text(one.file),
                as_text(one.split),
                as_text(one.label or ""),
                as_text(one.prediction or ""),
            ]
            writer.writerow([*own, _cell(one.right), *map(_cell, value.values())])
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else as_text(value) if isinstance(value, str) else value


def _pieces(index: SetIndex, kind: str, layer: str) -> Iterator[tuple[Rows, list[Values]]]:
    """Rows and what the list says of them, some thousand at a time."""
    rows: list[int] = []
    values: list[Values] = []
    for row, value in _LISTS[kind](index, layer):
        rows.append(row)
        values.append(value)
        if len(rows) == _PIECE:
            yield np.array(rows, np.int64), values
            rows, values = [], []
    if rows:
        yield np.array(rows, np.int64), values


def _label_errors(index: SetIndex, _layer: str) -> Iterator[tuple[int, Values]]:
    found = find_label_errors(index)
    columns = (found.suggested, found.confidence, found.path_share, found.model_share, found.path_others)
    for row, suggested, *numbers, of_model, others in zip(
        found.rows.tolist(), *(column.tolist() for column in columns), strict=True
    ):
        shares = [*numbers, None if np.isnan(of_model) else of_model, others]
        yield row, dict(zip(_COLUMNS[LABEL_ERRORS], [index.label_name(suggested), *shares], strict=True))


def _near_duplicates(index: SetIndex, _layer: str) -> Iterator[tuple[int, Values]]:
    for number, group in enumerate(find_near_duplicates(index), 1):
        across, differ = len(group.splits) > 1, labels_differ(index, group)
        for row in group.rows.tolist():
            values = (number, group.exact, group.distance, across, differ)
            yield row, dict(zip(_COLUMNS[NEAR_DUPLICATES], values, strict=True))


def _under_covered(index: SetIndex, layer: str) -> Iterator[tuple[int, Values]]:
    for number, region in enumerate(find_under_covered(index, layer), 1):
        for row in region.rows.tolist():
            values = (number, region.path, region.sparse / len(region.rows))
            yield row, dict(zip(_COLUMNS[UNDER_COVERED], values, strict=True))


_COLUMNS: dict[str, dict[str, type]] = {  # with the type of what is known
    LABEL_ERRORS: {
        "suggested": str, "confidence": float, "path_share": float, "model_share": float, "path_others": int,
    },
    NEAR_DUPLICATES: {"group": int, "exact": bool, "distance": float, "across_splits": bool, "labels_differ": bool},
    UNDER_COVERED: {"region": int, "path": str, "sparse_share": float},
}  # fmt: skip
_LISTS: dict[str, Callable[[SetIndex, str], Iterator[tuple[int, Values]]]] = {
    LABEL_ERRORS: _label_errors,
    NEAR_DUPLICATES: _near_duplicates,
    UNDER_COVERED: _under_covered,
}
