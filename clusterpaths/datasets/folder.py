"""A directory of images: flat, one directory per class, split into train, valid and test, or with a CSV file of labels.

Belongs here: finding the images and the labels from their directories. Labels from a CSV file are `folder_labels.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clusterpaths.common.text import is_utf8
from clusterpaths.datasets.base import ExampleTable, file_digest, path_in, require_directory
from clusterpaths.datasets.decode import open_upright
from clusterpaths.datasets.folder_labels import SPLITS, apply_labels, too_many_classes
from clusterpaths.errors import DatasetError, DiskError, NoImagesError
from clusterpaths.records import DatasetSpec

LABELS = "labels.csv"
"""Used as labels where it is beside the images and no other file is named."""

_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow recognises these formats but cannot decode them


CELEBA = "list_attr_celeba"


@dataclass(frozen=True)
class Folder:
    """A directory as found on disk; see `Dataset` for the members."""

    root: Path
    notes: tuple[str, ...]
    table: ExampleTable
    name: str = "folder"

    def examples(self) -> ExampleTable:
        """All images in and below the directory, by name."""
        return self.table

    def read_image(self, file: str) -> Image.Image:
        """Decode an image, rotated by its EXIF orientation; names that lead out of the directory are rejected."""
        return open_upright(path_in(self.root, file))

    def digest(self, file: str) -> int:
        """xxh3_64 of the file's bytes."""
        return file_digest(path_in(self.root, file))


def open_folder(spec: DatasetSpec) -> Folder:
    """Scan a directory for images of any format that Pillow opens, nested or not, and label them.

    Labels come from the CSV file that the record names, or labels.csv in the directory; else, where all images lie in two
    directories or more, from the name of the first of them (classes sorted as by torchvision's ImageFolder). Where
    the first directories are called train, val, valid, validation and test, they are splits, and the directories in them
    classes. Hidden files and others that are no images are left out, and a note counts them. ids count the sorted names;
    in a cache, they are those of the first run that saw a file (`cache/registry.py`).

    Raises:
        DatasetError: no such directory, no image in it, names that differ only in letter case, or labels that do not fit.
        DiskError: a directory may not be read.
    """
    root = Path(spec.root)
    require_directory(spec.root)
    labels = _labels_file(root, spec.labels)
    try:
        found, ignored = _scan(root)
    except PermissionError as error:
        raise DiskError(f"{error.filename} may not be read ({error.strerror}). Allow it, or name another.") from error
    if labels is not None:
        ignored = [name for name in ignored if (root / name).resolve() != labels.resolve()]
    if not found:
        raise NoImagesError(
            f"There is no image in {root}: {_counted(ignored)}. Expected files that Pillow opens, such as .jpg, .png, "
            ".webp or .tif, in it or in directories below it. Name their directory with --images."
        )
    found.sort()
    files = tuple(name for name, _, _ in found)
    _refuse_twins(root, files)
    notes = [f"In {root} {_counted(ignored)} left out: hidden, or no image."] if ignored else []
    splits, classes, note = _from_folders(files)
    if labels is None and any((root / f"{CELEBA}{suffix}").is_file() for suffix in (".txt", ".csv")):
        notes.append(
            f"{root} has {CELEBA}, which is not read as a folder: --dataset celeba takes its labels and attributes."
        )
    if note and (labels is None or any(splits)):
        notes.append(note)
    class_names = tuple(sorted(set(classes) - {""}))
    too_many_classes(class_names, str(root))
    index = {name: number for number, name in enumerate(class_names)} | {"": -1}
    table = ExampleTable(
        ids=np.arange(len(files), dtype=np.int64),
        files=files,
        sizes=np.array([size for _, size, _ in found], dtype=np.int64),
        splits=splits,
        labels=np.array([index[name] for name in classes], dtype=np.int32),
        class_names=class_names,
        mtimes=np.array([mtime for _, _, mtime in found], dtype=np.int64),
    )
    if labels is not None:
        table = apply_labels(table, labels, notes)
    return Folder(root=root, notes=tuple(notes), table=table)


def _labels_file(root: Path, named: str) -> Path | None:
    """The CSV file that is meant: as named, from here or from the image directory, or labels.csv in that directory."""
    if not named:
        return root / LABELS if (root / LABELS).is_file() else None
    return root / named if not Path(named).exists() and (root / named).exists() else Path(named)


def image_suffixes() -> frozenset[str]:
    """Lower-case endings, with the dot, of files that Pillow decodes here."""
    known = Image.registered_extensions()
    return frozenset(end.lower() for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED)


def _scan(root: Path) -> tuple[list[tuple[str, int, int]], list[str]]:
    """(name below root, bytes, mtime in ns) of each image, unsorted; and names of what else is there."""
    suffixes = image_suffixes()
    found: list[tuple[str, int, int]] = []
    ignored: list[str] = []
    for entry, name in _walk(root, "", (), ignored):
        if os.path.splitext(name)[1].lower() in suffixes and is_utf8(name):  # noqa: PTH122  200,000 calls
            state = entry.stat()
            found.append((name, state.st_size, state.st_mtime_ns))
        else:
            ignored.append(name)
    return found, sorted(ignored)


def _walk(
    folder: Path | str, prefix: str, above: tuple[tuple[int, int], ...], ignored: list[str]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Files in and below a directory. Links to directories are followed, but not into a directory that contains them."""
    state = os.stat(folder)  # noqa: PTH116  it may be a string: Path objects cost more than the scan
    here = (*above, (state.st_dev, state.st_ino))
    if here[-1] in above:
        ignored.append(prefix)
        return
    below = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            kind = "" if entry.name.startswith(".") else _kind(entry)
            if kind == "directory":
                below.append((entry.path, f"{name}/"))
            elif kind == "file":
                yield entry, name
            else:
                ignored.append(name)  # hidden, a link to nothing or to itself, a pipe
    for path, name in below:
        yield from _walk(path, name, here, ignored)


def _kind(entry: os.DirEntry[str]) -> str:
    """What it is, or what it is a link to; empty: neither a directory nor a file."""
    try:
        return "directory" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            return ""
        raise


def _refuse_twins(root: Path, files: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        if (twin := seen.setdefault(_folded(file), file)) != file:
            raise DatasetError(
                f"{root} holds {twin} and {file}, names that differ only in letter case. Expected names that stay "
                "different on every system: a Mac or Windows keeps one of the two when the directory is copied. Rename one."
            )


def _folded(name: str) -> str:
    """Without letter case, as file systems compare names: letter by letter, so that ß is not ss (Unicode's simple folding)."""
    if name.isascii():
        return name.lower()
    return "".join(next((one for one in (c.casefold(), c.lower()) if len(one) == 1), c) for c in name)


def _from_folders(files: Sequence[str]) -> tuple[tuple[str, ...], list[str], str]:
    """The split and the class name ("" where none) from each name's directories; and a note on them, or ""."""
    parts = [file.split("/") for file in files]
    tops = sorted({names[0] for names in parts if len(names) > 1})
    none, loose = ("",) * len(files), sum(len(names) == 1 for names in parts)
    if not tops:
        return none, [""] * len(files), ""
    if loose:
        note = f"{loose:,} images lie in no directory, so directories are not used as classes: no labels."
        return none, [""] * len(files), note
    if all(top.lower() in SPLITS for top in tops):
        splits = tuple(SPLITS[names[0].lower()] for names in parts)
        classes = [names[1] if len(names) > 2 else "" for names in parts]
        return splits, classes, f"The directories {', '.join(tops)} are used as splits."
    if len(tops) == 1:
        return none, [""] * len(files), f"All images lie in {tops[0]}; a single directory is not used as a class."
    return none, [names[0] for names in parts], ""


def _counted(names: Sequence[str]) -> str:
    if not names:
        return "it is empty"
    printable = [name.encode("utf-8", "backslashreplace").decode() for name in names[:3]]
    return f"{len(names):,} other {'entry' if len(names) == 1 else 'entries'} ({', '.join(printable)}{', …' * (len(names) > 3)})"
