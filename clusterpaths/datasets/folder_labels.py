"""A CSV file that labels the images of a directory.

Belongs here: the file's columns, and its rows against the images that are there. Finding images is `folder.py`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from clusterpaths.common.text import did_you_mean
from clusterpaths.datasets.base import Caution, ExampleTable
from clusterpaths.datasets.cells import as_attribute, as_numbers, is_missing, number_text
from clusterpaths.errors import DatasetError

SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
"""Common names of splits -> ours."""

MOST_CLASSES = 1_000_000  # beyond, a column of labels is one of something else

_COMPARED = 10_000  # names compared with a misspelt one: takes a second


def apply_labels(table: ExampleTable, path: Path, notes: list[str]) -> ExampleTable:
    """The table with the labels of the CSV file in place of those from directories.

    Columns `file` and `label`, in any order; `split` if it is there; any other column of yes and no (`cells.as_attribute`)
    becomes an attribute. Without a line of names: two columns, file and label. Separated by commas, semicolons or tabs.
    Labels that are all whole numbers from 0, also written as 3.0, are class numbers; any others are names, sorted, numbers by
    their value. An empty one means no label, as does an image without a row. Rows of images that are not there, as of deleted
    ones, are left out with a warning; their labels count as classes, so that the others keep their numbers.

    Raises:
        DatasetError: no such file, no text, a column missing, a row that names an image named before, or half of the rows or
            more name none that is there.
    """
    columns, rows = _read(path)
    at = {name: column for column, name in enumerate(columns)}
    position = {file: row for row, file in enumerate(table.files)}
    line_of: dict[str, int] = {}
    absent: list[tuple[int, str]] = []
    positions = np.full(len(rows), -1, np.int64)
    for number, (line, cells) in enumerate(rows):
        if len(cells) != len(columns):
            raise _malformed(path, line, f"has {len(cells)} values; expected {len(columns)}, one per column")
        file = cells[at["file"]].removeprefix("./")
        if line_of.setdefault(file, line) != line:
            raise _malformed(path, line, f"names {file!r} again; expected it once (line {line_of[file]})")
        if file in position:
            positions[number] = position[file]
        else:
            absent.append((line, file))
    here = positions >= 0
    if absent:
        notes.append(_without_image(path, absent, len(rows), table.files))
    if bare := len(table) - int(here.sum()):
        notes.append(f"{path.name} has no row for {bare:,} of {len(table):,} images; they have no label.")
    labels, class_names = _labels(path, [cells[at["label"]] for _, cells in rows], [line for line, _ in rows])
    splits = list(table.splits)
    if "split" in at:
        for (line, cells), row in zip(rows, positions, strict=True):
            split = _split(path, line, cells[at["split"]])
            if row >= 0:
                splits[row] = split
    attributes: dict[str, NDArray[np.int8]] = {}
    for name in columns:
        if name not in ("file", "label", "split"):
            _add_attribute(attributes, name, [cells[at[name]] for _, cells in rows], positions, len(table), path, notes)
    all_labels = np.full(len(table), -1, np.int32)
    all_labels[positions[here]] = labels[here]
    return dataclasses.replace(
        table, labels=all_labels, class_names=class_names, splits=tuple(splits), attributes=attributes
    )


def _without_image(path: Path, absent: list[tuple[int, str]], count: int, files: Sequence[str]) -> Caution:
    """Rows (line, file) of `count` that name no image; refused where they are half of them or more: most likely a mistake."""
    line, first = absent[0]
    near = _near(first, files)
    if 2 * len(absent) >= count:
        raise _malformed(path, line, f"names {first!r}, which is not in the directory.{near}")
    return Caution(
        f"{path.name} names {len(absent):,} of {count:,} images that are not in the directory; their rows are left out. The "
        f"first, in line {line}: {first!r}.{near}"
    )


def too_many_classes(class_names: Sequence[str], where: str) -> None:
    """Raises:
    DatasetError: more classes than labels can count.
    """
    if len(class_names) > MOST_CLASSES:
        raise DatasetError(
            f"{where} has {len(class_names):,} classes; expected at most {MOST_CLASSES:,}. If each image has a directory or "
            "label of its own, these are no classes: put the images into one directory, or leave the labels out."
        )


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names in lower case for file, label and split; and (line number from 1, stripped cells) of each row."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text: byte {error.start} is not UTF-8. Save it as CSV in UTF-8.") from error
    except OSError as error:
        raise DatasetError(
            f"The file of labels {path} cannot be read ({error.strerror}). Name another with --labels."
        ) from error
    rows = list(_rows(path, text))
    if not rows:
        raise DatasetError(f"{path} is empty; expected the columns file and label, and one line per image.")
    names = [cell.lower() if cell.lower() in ("file", "label", "split") else cell for cell in rows[0][1]]
    if "file" in names and "label" in names:
        if len(set(names)) < len(names):
            raise DatasetError(f"{path} has the columns {', '.join(names)}; expected each name once.")
        return names, rows[1:]
    if "file" in names or "label" in names or not any(PurePosixPath(cell).suffix for cell in names):
        absent = [name for name in ("file", "label") if name not in names]
        missing = f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'}"
        raise DatasetError(
            f"{path} has the columns {', '.join(names)}: {missing} missing. Expected file and label, in any order; "
            "split and columns of yes and no may follow. Name the columns so in its first line."
        )
    if len(names) != 2:
        raise DatasetError(
            f"{path} has {len(names)} columns and no line of names; expected file,label only, or a first line that names "
            "the columns. Add it."
        )
    return ["file", "label"], rows


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise _malformed(path, reader.line_num, f"is no CSV: {error}") from error


def _malformed(path: Path, line: int, got: str) -> DatasetError:
    return DatasetError(
        f"{path}, line {line}, {got.rstrip('.')}. Correct the line, or name another file with --labels."
    )


def _near(file: str, files: Sequence[str]) -> str:
    """The nearest names: the same file in another directory or with another ending first, then others of its directory."""
    wanted = PurePosixPath(file)
    same = [other for other in files if PurePosixPath(other).stem.casefold() == wanted.stem.casefold()][:3]
    if same:
        return f" Nearest: {', '.join(same)}."
    beside = [other for other in files if other.rpartition("/")[0] == file.rpartition("/")[0]] or files
    alike = [other for other in beside if abs(len(other) - len(file)) <= 3]
    return did_you_mean(file, alike[:_COMPARED])


def _labels(path: Path, texts: list[str], lines: list[int]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    if numbers := as_numbers(texts):
        if all(value is None or (value >= 0 and value.is_integer()) for value in numbers):
            values = [-1 if value is None else int(value) for value in numbers]
            highest = max(values)
            if highest >= MOST_CLASSES:
                line = lines[values.index(highest)]
                raise _malformed(
                    path, line, f"has the label {highest:,}; expected class numbers below {MOST_CLASSES:,}"
                )
            return np.array(values, np.int32), tuple(map(str, range(highest + 1)))
        class_names = tuple(number_text(value) for value in sorted({value for value in numbers if value is not None}))
        texts = ["" if value is None else number_text(value) for value in numbers]
    else:
        class_names = tuple(sorted(set(texts) - {""}))
    too_many_classes(class_names, str(path))
    index = {name: number for number, name in enumerate(class_names)} | {"": -1}
    return np.array([index[text] for text in texts], np.int32), class_names


def _split(path: Path, line: int, text: str) -> str:
    if text and text.lower() not in SPLITS:
        raise _malformed(path, line, f"has the split {text!r}; expected train, valid or test, or nothing")
    return SPLITS[text.lower()] if text else ""


def _add_attribute(
    attributes: dict[str, NDArray[np.int8]],
    name: str,
    texts: list[str],
    positions: NDArray[np.int64],
    count: int,
    path: Path,
    notes: list[str],
) -> None:
    found = as_attribute(texts) if name else None
    if found is None:
        strange = (text for text in texts if not is_missing(text) and as_attribute([text]) is None)
        odd = next(strange, max(texts, default=""))
        notes.append(
            f"{path.name}: the column {name!r} is not used; it holds {odd!r}, and an attribute only 1 and -1 (0: unknown), "
            "1 and 0, true and false, or yes and no."
        )
        return
    values = np.zeros(count, np.int8)
    here = positions >= 0
    values[positions[here]] = np.asarray(found)[here]
    attributes[name] = values
