"""CelebA on disk, as torchvision, Kaggle or the CelebA page lay it out, complete or in part.

Belongs here: finding the images, reading the annotations, hair colour as labels.
Getting the files, from the network or out of the zip, is download.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.common import roots
from clusterpaths.datasets.base import ExampleTable, file_digest
from clusterpaths.datasets.decode import open_rgb
from clusterpaths.datasets.download import (
    ALL_IMAGES,
    ZIP_NAME,
    Progress,
    celeba_folder,
    has_image,
    image_members,
    image_number,
    refuse_web_page,
    unpack_images,
)
from clusterpaths.errors import DatasetError, DiskError

HAIR = {"Bald": "Bald", "Black": "Black_Hair", "Blond": "Blond_Hair", "Brown": "Brown_Hair", "Gray": "Gray_Hair"}

_IMAGE_FOLDERS = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
_ZIP_PLACES = (ZIP_NAME, f"Img/{ZIP_NAME}")
_ANNOTATION_FOLDERS = (".", "Anno", "Eval")  # Anno and Eval as on the CelebA page
_OTHER_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
_ATTRIBUTE_CODES = {"1": 1, "-1": 255, "0": 0}  # bytes of int8
_SPLIT_CODES = {"0": 0, "1": 1, "2": 2}
_SPLIT_NAMES = np.array(["train", "valid", "test", ""], object)  # objects: examples share the four strings


@dataclass(frozen=True)
class CelebA:
    """CelebA as found on disk; see `Dataset` for the members. `images` is the directory of the image files."""

    root: Path
    images: Path
    notes: tuple[str, ...]
    table: ExampleTable
    name: str = "celeba"

    def examples(self) -> ExampleTable:
        """All images of the directory, by number."""
        return self.table

    def read_image(self, file: str) -> Image.Image:
        """Decode an image of the directory; names that lead out of it are rejected with OSError."""
        return open_rgb(self._path(file))

    def digest(self, file: str) -> int:
        """xxh3_64 of an image file's bytes; names as in `read_image`."""
        return file_digest(self._path(file))

    def _path(self, file: str) -> str:
        if file in ("", ".", "..") or set(file) & set("/\\\0"):
            raise OSError(errno.EINVAL, f"not the name of a file in {self.images}", file)
        return f"{self.images}/{file}"  # hot: a Path takes longer than reading a small file


def open_celeba(root: Path, progress: Progress | None = None) -> CelebA:
    """Find CelebA in or below `root`, unpacking img_align_celeba.zip where the images are not there yet.

    Takes torchvision's root, its celeba directory, Kaggle's layout and the CelebA page's. Annotations may be missing or
    cover a part only. `progress` follows the unpacking, in images.

    Raises:
        DatasetError: no images, two files of one number, malformed annotations.
        QuotaError: an annotation file or the zip is a saved "quota exceeded" page.
        DiskError: the zip cannot be unpacked here.
    """
    with _readable():
        return _open(Path(root), progress)


def celeba_present(root: Path) -> bool:
    """Whether there is data for `open_celeba`: one image, or a zip file with its end record. Quick."""
    root = Path(root)
    with _readable():
        if find_images(root) is not None:
            return True
        archive = _find_zip(root)
        return archive is not None and zipfile.is_zipfile(archive)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise DiskError(f"{error.filename} may not be read ({error.strerror}). Allow it, or name another.") from error


def _open(root: Path, progress: Progress | None) -> CelebA:
    found = find_images(root)
    unpacked: list[str] = []
    if found is None:
        archive = _find_zip(root)
        if archive is None:
            raise DatasetError(_not_found(root))
        count = unpack_images(archive, progress)
        unpacked = [f"{archive.name} was unpacked: {count:,} images in {archive.parent / 'img_align_celeba'}."]
        found = archive.parent, archive.parent / "img_align_celeba"
    base, images = found
    numbers, files, sizes, mtimes, notes = _scan(images)
    notes = unpacked + notes
    archive = next((base / place for place in _ZIP_PLACES if (base / place).is_file()), None)
    if archive is not None and not unpacked and len(files) < ALL_IMAGES:
        notes += _zip_holds_more(archive, images, len(files))
    attributes = _attributes(_find_annotation(base, images, "list_attr_celeba"), numbers, notes)
    splits = _splits(_find_annotation(base, images, "list_eval_partition"), numbers, notes)
    table = ExampleTable(
        ids=numbers - 1,
        files=files,
        sizes=sizes,
        splits=splits,
        labels=_hair_colour(attributes, len(files), notes),
        class_names=tuple(HAIR),
        attributes=attributes,
        mtimes=mtimes,
    )
    return CelebA(root=root, images=images, notes=tuple(notes), table=table)


def _zip_holds_more(archive: Path, images: Path, count: int) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as source:
            packed = len(image_members(archive, source.infolist()))
    except (OSError, zipfile.BadZipFile, DatasetError):
        return [f"{archive.name} beside the images cannot be read; it is not needed."]
    if packed <= count:
        return []
    return [
        f"{archive.name} holds {packed:,} images and {images} only {count:,} (an interrupted unpack?); these {count:,} "
        f"are used. To use all, delete that directory and run again."
    ]


def _bases(root: Path) -> tuple[Path, Path]:
    return root, root / "celeba"


def find_images(root: Path) -> tuple[Path, Path] | None:
    """The base directory and the image directory of the CelebA below `root`, or at it; None where there is none."""
    pairs = ((base, base / place) for base in _bases(root) for place in _IMAGE_FOLDERS)
    if found := next((pair for pair in pairs if has_image(pair[1])), None):
        return found
    images = next((base for base in _bases(root) if _has_six_digits(base)), None)  # named itself
    return None if images is None else (_base_of(images), images)


def _base_of(images: Path) -> Path:
    """The directory that an image directory belongs to: above img_align_celeba, twice in Kaggle's layout, or Img."""
    base = images.absolute().parent
    while base.name in ("img_align_celeba", "Img"):
        base = base.parent
    return base


def _has_six_digits(folder: Path) -> bool:
    """Whether a file is named exactly as CelebA's are: another directory's 1.png does not make it CelebA."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(len(entry.name.partition(".")[0]) == 6 and image_number(entry.name) for entry in entries)


def locate(root: Path) -> Path:
    """The root of the CelebA that a user's directory means: itself, or its only directory with one (Kaggle's archive).

    Raises:
        DatasetError: several directories in it hold one.
    """
    with _readable():
        if not root.is_dir() or celeba_present(root):
            return root
        found = [folder for folder in _directories(root) if find_images(folder) and not _is_drawn(folder)]
    if len(found) > 1:
        raise DatasetError(
            f"{root} holds several directories with images of CelebA ({', '.join(folder.name for folder in found)}). Name one "
            "of them with --images."
        )
    return found[0] if found else root


def refuse_other_images(root: Path) -> None:
    """Raise if a directory for the download holds somebody's images, in it or in a directory of it.

    Of the default directory, where other data sets are downloaded too, only its own files count.

    Raises:
        DatasetError: an image is there.
    """
    with _readable():
        below = root.absolute() != roots.data_root().absolute()
        folders = [root, *(_directories(root) if below else [])] if root.is_dir() else []
        found = next(filter(None, map(_some_image, folders)), None)
    if found is not None:
        raise DatasetError(
            f"{root} holds images ({found.relative_to(root)}), but none of CelebA (img_align_celeba/000001.jpg and the like), so "
            "CelebA (1.4 GB) is not downloaded into it. For these images use `clusterpaths images MODEL.onnx "
            f"{root}`; for CelebA name its directory, or an empty one."
        )


def _some_image(folder: Path) -> Path | None:
    with os.scandir(folder) as entries:
        return next((Path(e.path) for e in entries if e.name.lower().endswith(_OTHER_IMAGES) and e.is_file()), None)


def _directories(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _is_drawn(folder: Path) -> bool:
    return any((base / "faces.json").is_file() for base in _bases(folder))


def _find_zip(root: Path) -> Path | None:
    places = (base / place for base in _bases(root) for place in _ZIP_PLACES)
    return next((path for path in places if path.is_file()), None)


def _find_annotation(base: Path, images: Path, stem: str) -> Path | None:
    bases = dict.fromkeys((base, _base_of(images), images))  # a root inside: the annotations lie above it, or beside
    folders = [*(one / folder for one in bases for folder in _ANNOTATION_FOLDERS), images.parent]
    places = (folder / f"{stem}{suffix}" for folder in folders for suffix in (".txt", ".csv"))
    return next((path for path in places if path.is_file()), None)


def _not_found(root: Path) -> str:
    state = "is empty" if root.is_dir() and not any(root.iterdir()) else "holds no CelebA images"
    if not root.is_dir():
        state = "is a file, not a directory" if root.exists() else "does not exist"
    return (
        f"{root} {state}. Looked for img_align_celeba/000001.jpg and the like, and for {ZIP_NAME}, in "
        f"{root} and {root / 'celeba'}. Name the directory that holds img_align_celeba; or put {ZIP_NAME} from the CelebA "
        f"page at {celeba_folder(root) / ZIP_NAME}; `--sample` runs without CelebA."
    )


def _scan(
    images: Path,
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Numbers (n,) ascending, file names, sizes (n,), mtimes (n,) of the directory's images; notes on what else is there."""
    found: list[tuple[int, str, int, int]] = []
    others: list[str] = []
    with os.scandir(images) as entries:
        for entry in entries:
            number = image_number(entry.name)
            if number is None or not entry.is_file():
                others.append(entry.name)
            else:
                state = entry.stat()
                found.append((number, entry.name, state.st_size, state.st_mtime_ns))
    found.sort()
    if found and found[0][0] == 0:
        raise DatasetError(
            f"{images / found[0][1]} has the number 0; CelebA's images are numbered from 1 (000001.jpg). Annotations "
            f"go by number, so this may be another numbering: rename the files, or remove this one."
        )
    for (number, name, *_), (after, other, *_) in itertools.pairwise(found):
        if number == after:
            raise DatasetError(f"{images} holds {name} and {other}, both number {number}; remove one of them.")
    notes = []
    if others:
        notes.append(f"{_some(sorted(others))} in {images} {_is(len(others))} not named by a number and ignored.")
    numbers, sizes, mtimes = (np.array([row[i] for row in found], dtype=np.int64) for i in (0, 2, 3))
    return numbers, tuple(row[1] for row in found), sizes, mtimes, notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{len(names):,} entries ({', '.join(names[:3])} …)"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


@dataclass(frozen=True)
class _Annotations:
    names: tuple[str, ...]
    numbers: NDArray[np.int64]  # (rows,)
    values: NDArray[np.int8]  # (rows, names)


def _read_annotations(path: Path, codes: Mapping[str, int], names: Sequence[str], notes: list[str]) -> _Annotations:
    """Read a table of one image per row, space or comma separated; `names` are the columns where the file may omit them."""
    refuse_web_page(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not text: byte {error.start} is not UTF-8. Get the file again.") from error
    lines = [(i, line) for i, line in enumerate(text.replace('"', "").split("\n"), 1) if not line.isspace() and line]
    if not lines:
        raise DatasetError(f"{path} is empty; expected one line per image, such as `000001.jpg -1 1 …`.")
    comma = "," in lines[0][1]
    split: Callable[[str], list[str]] = (lambda s: "".join(s.split()).split(",")) if comma else str.split
    announced = None
    if len(first := split(lines[0][1])) == 1 and first[0].isdigit():
        announced, lines = int(first[0]), lines[1:]
    columns = tuple(names)
    if lines and image_number((header := split(lines[0][1]))[0]) is None:
        columns = tuple(header[1:] if comma or header[0] == "image_id" else header)
        lines = lines[1:]
        if names and columns != tuple(names):
            raise DatasetError(f"{path} has the columns {', '.join(columns)}; expected {', '.join(names)}.")
    if not columns or len(set(columns)) < len(columns):
        got = "a row of an image" if not columns else "a name twice"
        raise DatasetError(f"{path}: expected a line with each attribute's name once before the rows, got {got}.")
    seen: dict[int, int] = {}
    rows = bytearray()
    for line_number, line in lines:
        file, *values = split(line)
        number = image_number(file)
        if number is None:
            raise _malformed(path, line_number, f"starts with {file[:40]!r}", "a file name like 000001.jpg")
        if len(values) != len(columns):
            raise _malformed(path, line_number, f"has {len(values)} values", f"{len(columns)}, one per column")
        if seen.setdefault(number, line_number) != line_number:
            raise _malformed(path, line_number, f"names {file} again", f"it once (line {seen[number]})")
        try:
            rows.extend(map(codes.__getitem__, values))
        except KeyError as error:
            raise _malformed(path, line_number, f"holds {error.args[0][:40]!r}", f"one of {', '.join(codes)}") from None
    if announced is not None and announced != len(lines):
        notes.append(f"{path.name} announces {announced:,} rows and has {len(lines):,}; the rows are used.")
    table = np.frombuffer(bytes(rows), dtype=np.int8).reshape(len(lines), len(columns))
    return _Annotations(columns, np.fromiter(seen, dtype=np.int64, count=len(seen)), table)


def _malformed(path: Path, line: int, got: str, expected: str) -> DatasetError:
    return DatasetError(f"{path}, line {line}, {got}; expected {expected}. Correct the line or get the file again.")


def _align(
    path: Path, table: _Annotations, numbers: NDArray[np.int64], fill: int, notes: list[str]
) -> NDArray[np.int8]:
    """Values (n, columns) of the images `numbers` (n,), `fill` where the file has no row."""
    result = np.full((len(numbers), len(table.names)), fill, dtype=np.int8)
    place = np.searchsorted(numbers, table.numbers).clip(max=len(numbers) - 1)
    here = numbers[place] == table.numbers
    result[place[here]] = table.values[here]
    absent = table.numbers[~here]
    if len(absent):
        which = _some([f"{n:06d}.jpg" for n in absent]) if len(absent) <= 5 else f"{len(absent):,} images"
        notes.append(f"{path.name} names {which} that {_is(len(absent))} not in the directory and so no example.")
    if bare := len(numbers) - int(here.sum()):
        notes.append(f"{path.name} has no row for {bare:,} of {len(numbers):,} images.")
    return result


def _attributes(path: Path | None, numbers: NDArray[np.int64], notes: list[str]) -> dict[str, NDArray[np.int8]]:
    if path is None:
        notes.append("There is no list_attr_celeba.txt or .csv, so no attributes and no hair colour as label.")
        return {}
    table = _read_annotations(path, _ATTRIBUTE_CODES, (), notes)
    if not (table.values == -1).any():  # coded 1 and 0: then 0 is no, not unknown
        table = dataclasses.replace(table, values=np.where(table.values == 0, np.int8(-1), table.values))
    values = _align(path, table, numbers, 0, notes)
    return {name: np.ascontiguousarray(values[:, column]) for column, name in enumerate(table.names)}


def _splits(path: Path | None, numbers: NDArray[np.int64], notes: list[str]) -> tuple[str, ...]:
    if path is None:
        notes.append("There is no list_eval_partition.txt or .csv, so it is unknown which images are for training.")
        return ("",) * len(numbers)
    table = _read_annotations(path, _SPLIT_CODES, ("partition",), notes)
    return tuple(_SPLIT_NAMES[_align(path, table, numbers, 3, notes)[:, 0]].tolist())


def _hair_colour(attributes: Mapping[str, NDArray[np.int8]], count: int, notes: list[str]) -> NDArray[np.int32]:
    """Index into HAIR (n,) where exactly one of the five colours is marked, else -1."""
    labels = np.full(count, -1, dtype=np.int32)
    if missing := [name for name in HAIR.values() if name not in attributes]:
        if attributes:
            notes.append(f"The attributes lack {', '.join(missing)}, so there is no hair colour as label.")
        return labels
    marked = np.stack([attributes[name] == 1 for name in HAIR.values()])  # (5, n)
    single = marked.sum(axis=0) == 1
    labels[single] = marked.argmax(axis=0)[single]
    return labels
