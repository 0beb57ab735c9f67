"""Classification data sets of torchvision, in torchvision's layout, checked and decoded by torchvision.

Belongs here: the list of data sets, their splits, and where each stores labels and files. torchvision is slow to import
(it imports torch) and is imported only when such a data set is opened.
"""

from __future__ import annotations

import errno
import http.client
import inspect
import urllib.error
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from clusterpaths.common.extras import require_extra
from clusterpaths.common.text import did_you_mean
from clusterpaths.datasets.base import ExampleTable, file_digest
from clusterpaths.datasets.decode import as_rgb, open_rgb
from clusterpaths.datasets.download import contents, disk_error, unresolved
from clusterpaths.datasets.folder_labels import SPLITS
from clusterpaths.errors import DatasetError, DownloadError, InputError, OfflineError
from clusterpaths.records import DatasetSpec

PREFIX = "torchvision:"

_ALL: tuple[tuple[str, dict[str, Any]], ...] = (("", {}),)
_BY_TRAIN: tuple[tuple[str, dict[str, Any]], ...] = (("train", {"train": True}), ("test", {"train": False}))


def _by_split(*names: str) -> tuple[tuple[str, dict[str, Any]], ...]:
    called = {"trainval": "train", "train-standard": "train"}
    return tuple((SPLITS[called.get(name, name)], {"split": name}) for name in names)


# Our split and the constructor's arguments for it, in order of the ids. Parts without labels (STL10's unlabeled) and
# SVHN's half a million extra images are not used.
_SETS: Mapping[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS"), _BY_TRAIN),
    **dict.fromkeys(("ImageFolder", "EuroSAT", "Caltech101", "Caltech256", "SUN397", "SEMEION"), _ALL),
    **dict.fromkeys(("SVHN", "STL10", "Food101", "GTSRB", "StanfordCars", "FER2013"), _by_split("train", "test")),
    **dict.fromkeys(("Flowers102", "DTD", "FGVCAircraft", "PCAM", "RenderedSST2"), _by_split("train", "val", "test")),
    **dict.fromkeys(("ImageNet", "Imagenette", "CLEVRClassification"), _by_split("train", "val")),
    "Country211": _by_split("train", "valid", "test"),
    "OxfordIIITPet": _by_split("trainval", "test"),
    "LFWPeople": _by_split("train", "test"),
    "Places365": _by_split("train-standard", "val"),
}

_LABELS = ("targets", "_labels", "labels", "y")
_PAIRS = ("_samples", "samples", "imgs")  # lists of (path, label)
_FILES = ("_image_files", "_images")


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set of torchvision; see `Dataset` for the members.

    Attributes:
        parts: torchvision's own objects, one per split, by the prefix of their examples' names.
        paths: name -> path of each example that has its own file.
    """

    name: str
    root: Path
    notes: tuple[str, ...]
    table: ExampleTable
    parts: Mapping[str, Any]
    paths: Mapping[str, Path] = field(repr=False)

    def examples(self) -> ExampleTable:
        """All examples, split by split: train, valid, test."""
        return self.table

    def read_image(self, file: str) -> Image.Image:
        """One image from torchvision, in RGB; OSError for anything but an example's name."""
        path = self.paths.get(file)
        return self._decode(file) if path is None else open_rgb(path)

    def digest(self, file: str) -> int:
        """xxh3_64 of the file; of the decoded pixels where torchvision stores all images in one file."""
        path = self.paths.get(file)
        return xxhash.xxh3_64_intdigest(self._decode(file).tobytes()) if path is None else file_digest(path)

    def _decode(self, file: str) -> Image.Image:
        part, _, number = file.rpartition("/")
        if (
            part not in self.parts
            or not (number.isascii() and number.isdigit())
            or int(number) >= len(self.parts[part])
        ):
            raise OSError(errno.EINVAL, f"not the name of an image of {self.name}", file)
        image: Image.Image = self.parts[part][int(number)][0]
        return as_rgb(image)


def names() -> tuple[str, ...]:
    """The NAMEs of torchvision:NAME, sorted."""
    return tuple(sorted(_SETS, key=str.lower))


def open_torchvision(spec: DatasetSpec) -> TorchvisionSet:
    """Open all splits of a data set in the root, in torchvision's layout; nothing is downloaded.

    Raises:
        DatasetError: no such data set in torchvision, or it is missing or corrupted.
        InputError: torchvision or a package that it needs for this one is not installed.
    """
    name = _known(spec.name)
    notes: list[str] = []
    parts: dict[str, Any] = {}
    splits: list[str] = []
    absent: Exception | None = None
    if not spec.root or not Path(spec.root).is_dir():
        absent = FileNotFoundError("there is no such directory")
    for split, arguments in _SETS[name] if absent is None else ():
        try:
            parts[split or "all"] = _construct(name, spec.root, arguments)
            splits.append(split)
        except (RuntimeError, OSError) as error:  # torchvision's "not found or corrupted"
            absent = error
            notes.append(f"{spec.name} has no split {split} in {spec.root}: {error}")
    if absent is not None and not parts:
        raise DatasetError(
            f"{spec.name} cannot be opened in {spec.root}: {_text(absent)} Expected it in torchvision's layout. Name the "
            "directory that torchvision calls root with --images, or have it downloaded there."
        ) from absent
    table, paths = _table(Path(spec.root), parts, splits)
    return TorchvisionSet(spec.name, Path(spec.root), tuple(notes), table, parts, paths)


def fetch_torchvision(spec: DatasetSpec, log: Callable[[str], None]) -> None:
    """Have torchvision download what is not there yet of all splits into the root, and check it.

    Raises:
        DownloadError: the network failed, or the download is corrupted; a retry can help.
        DatasetError: no such data set, or one that is no longer hosted or that torchvision cannot download.
        DiskError: no room, or no permission to write.
        InputError: torchvision or a package that it needs for this one is not installed.
    """
    name, root = _known(spec.name), Path(spec.root)
    can_download = _can_download(_class(name))
    try:
        complete = not open_torchvision(spec).notes
    except DatasetError as error:
        if not can_download:
            raise DatasetError(f"{error} torchvision does not download {name}: download it yourself.") from error
        complete = False
    if complete or not can_download:
        log(f"Using {spec.name} that is in {root}")
        return
    log(f"Downloading {spec.name} to {root} with torchvision")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            for _, arguments in _SETS[name]:
                _construct(name, spec.root, {**arguments, "download": True})
    except (urllib.error.HTTPError, ValueError) as error:  # ValueError: torchvision's "cannot be downloaded anymore"
        code = getattr(error, "code", None)
        if code is not None and (code == 429 or code >= 500):
            raise _network(spec, error) from error
        raise DatasetError(
            f"{spec.name} cannot be downloaded: {_text(error)} Its files are not where torchvision {_version()} looks for "
            f"them. Install a newer torchvision, or put the files into {root} yourself."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        raise _network(spec, error) from error
    except OSError as error:
        raise disk_error(error, f"download {spec.name}", root) from error


def _network(spec: DatasetSpec, error: Exception) -> DownloadError:
    kind = OfflineError if unresolved(error) else DownloadError
    return kind(
        f"Downloading {spec.name} failed: {type(error).__name__}: {_text(error)} Check the network "
        f"and run again; complete files are reused. Or put the files into {spec.root} yourself, in torchvision's layout. "
        f"{contents(Path(spec.root))}"
    )


def _text(error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return text if text.endswith((".", "!")) else f"{text}."


def _known(name: str) -> str:
    which = name.removeprefix(PREFIX)
    if which not in _SETS:
        raise DatasetError(
            f"torchvision has no classification data set called {which!r} that can be used.{did_you_mean(which, _SETS)} Expected "
            f"torchvision: and one of {', '.join(names())}."
        )
    return which


def _construct(name: str, root: str, arguments: Mapping[str, Any]) -> Any:
    kind = _class(name)
    if _can_download(kind):  # explicit, since SEMEION downloads by default
        arguments = {"download": False, **arguments}
    try:
        return kind(root, **arguments)
    except ImportError as error:
        package = error.name or "it"
        raise InputError(f"{PREFIX}{name} needs the package {package}: pip install {package}") from error


def _class(name: str) -> Any:
    require_extra(f"{PREFIX}{name}", "torch", "torchvision")
    from torchvision import datasets

    if not hasattr(datasets, name):
        raise DatasetError(f"torchvision {_version()} has no {name}. Install a newer one: pip install -U torchvision")
    return getattr(datasets, name)


def _can_download(kind: Any) -> bool:
    """Whether the constructor, or the one that it passes its other arguments to, accepts `download`."""
    return any("download" in inspect.signature(base.__init__).parameters for base in kind.__mro__)


def _version() -> str:
    import torchvision

    return str(torchvision.__version__)


def _table(root: Path, parts: Mapping[str, Any], splits: Sequence[str]) -> tuple[ExampleTable, dict[str, Path]]:
    files: list[str] = []
    all_splits: list[str] = []
    labels: list[NDArray[np.int32]] = []
    sizes: list[int] = []
    mtimes: list[int] = []
    paths: dict[str, Path] = {}
    class_names: tuple[str, ...] = ()
    for (part, data), split in zip(parts.items(), splits, strict=True):
        class_names = max(class_names, _classes(data), key=len)
        own = _own_files(data)
        for number in range(len(data)):
            name = f"{part}/{number:06d}"
            if own:
                name = own[number].relative_to(root).as_posix() if own[number].is_relative_to(root) else name
                paths[name] = own[number]
                state = own[number].stat() if own[number].exists() else None  # reading it will raise that it is missing
                sizes.append(state.st_size if state else 0)
                mtimes.append(state.st_mtime_ns if state else 0)
            else:
                sizes.append(_row_bytes(data))
            files.append(name)
        all_splits += [split] * len(data)
        labels.append(_labels(data))
    every = np.concatenate(labels)
    highest = int(every.max(initial=-1))
    if highest >= len(class_names):
        class_names = tuple(map(str, range(highest + 1)))
    table = ExampleTable(
        ids=np.arange(len(files), dtype=np.int64),
        files=tuple(files),
        sizes=np.array(sizes, np.int64),
        splits=tuple(all_splits),
        labels=every,
        class_names=class_names,
        mtimes=np.array(mtimes, np.int64) if len(mtimes) == len(files) else None,
    )
    return table, paths


def _classes(data: Any) -> tuple[str, ...]:
    """Names by label; ImageNet has several for one."""
    names = getattr(data, "classes", None) or ()
    return tuple(", ".join(name) if isinstance(name, (tuple, list)) else str(name) for name in names)


def _own_files(data: Any) -> list[Path]:
    """The file of each example, in order; empty where they have no separate files."""
    for attribute in _PAIRS:
        pairs = getattr(data, attribute, None)
        if pairs is not None and len(pairs) == len(data) and all(isinstance(first, (str, Path)) for first, _ in pairs):
            return [Path(first) for first, _ in pairs]
    for attribute in _FILES:
        found = getattr(data, attribute, None)
        if isinstance(found, list) and len(found) == len(data) and all(isinstance(path, (str, Path)) for path in found):
            return [Path(path) for path in found]
    return []


def _row_bytes(data: Any) -> int:
    pixels = getattr(data, "data", None)
    shape = getattr(pixels, "shape", None)
    return int(np.prod(shape[1:])) if shape is not None else 0


def _labels(data: Any) -> NDArray[np.int32]:
    """(len(data),) labels, -1 for none; without decoding the images where torchvision stores the labels separately."""
    for attribute in _LABELS:
        values = getattr(data, attribute, None)
        if values is not None and len(values) == len(data):
            return _as_labels(values)
    for attribute in _PAIRS:
        pairs = getattr(data, attribute, None)
        if pairs is not None and len(pairs) == len(data):
            return _as_labels(label for _, label in pairs)
    return _as_labels(data[number][1] for number in range(len(data)))


def _as_labels(values: Iterable[Any]) -> NDArray[np.int32]:
    numbers = [-1 if value is None else int(value) for value in values]
    return np.array(numbers, np.int32)
