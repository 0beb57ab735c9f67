"""Which data sets there are: the built-in ones, and those of other installed packages.

Belongs here: names, and how to get from a name to an open data set or its download. A package adds a data set by an
entry point in the group `clusterpaths.datasets`; what may go wrong in one is plugin.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clusterpaths.common.text import did_you_mean
from clusterpaths.datasets import plugin
from clusterpaths.datasets.base import Dataset
from clusterpaths.errors import DatasetError
from clusterpaths.records import DatasetSpec

Log = Callable[[str], None]

_TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    Attributes:
        name: name on the command line; "torchvision" for torchvision:NAME.
        open: opens the data set on disk. Quick; never downloads.
        description: one line for help and documentation.
        needs_root: the user must name its directory; else one below the data root is used.
        preprocessing: preset for models without one of their own; None: the data set has none.
        fetch: downloads it where it is missing; None: the user has to provide it.
        in_directory: its root is a directory; else it may be a file.
    """

    name: str
    open: Callable[[DatasetSpec], Dataset]
    description: str
    needs_root: bool = True
    preprocessing: str | None = None
    fetch: Callable[[DatasetSpec, Log], None] | None = None
    in_directory: bool = True


def _open_celeba(spec: DatasetSpec) -> Dataset:
    from pathlib import Path

    from clusterpaths.datasets.celeba import locate, open_celeba

    return open_celeba(locate(Path(spec.root)))


def _fetch_celeba(spec: DatasetSpec, log: Log) -> None:
    from pathlib import Path

    from clusterpaths.datasets.celeba import celeba_present, locate, refuse_other_images
    from clusterpaths.datasets.download import download_celeba

    root = locate(Path(spec.root))
    if celeba_present(root):
        log(f"Using the images that are in {root}")
        return
    refuse_other_images(root)
    log(f"No CelebA in {root}: downloading it (1.4 GB) with torchvision")
    download_celeba(root)


def _open_faces(spec: DatasetSpec) -> Dataset:
    from clusterpaths.datasets.drawn_faces.dataset import open_faces

    return open_faces(spec)


def _fetch_faces(spec: DatasetSpec, log: Log) -> None:
    from clusterpaths.datasets.drawn_faces.dataset import fetch_faces

    fetch_faces(spec, log)


def _open_folder(spec: DatasetSpec) -> Dataset:
    from clusterpaths.datasets.folder import open_folder

    return open_folder(spec)


def _open_arrays(spec: DatasetSpec) -> Dataset:
    from clusterpaths.datasets.arrays import open_arrays

    return open_arrays(spec)


def _open_activations(spec: DatasetSpec) -> Dataset:
    from clusterpaths.datasets.activations import open_activations

    return open_activations(spec)


def _open_torchvision(spec: DatasetSpec) -> Dataset:
    from clusterpaths.datasets.torchvision_sets import open_torchvision

    return open_torchvision(spec)


def _fetch_torchvision(spec: DatasetSpec, log: Log) -> None:
    from clusterpaths.datasets.torchvision_sets import fetch_torchvision

    fetch_torchvision(spec, log)


SOURCES: tuple[Source, ...] = (
    Source("celeba", _open_celeba, "CelebA, downloaded or as it is on disk", False, "imagenet", _fetch_celeba),
    Source(
        "folder", _open_folder, "a directory of images: flat, one directory per class, or with a CSV file of labels"
    ),
    Source(
        _TORCHVISION,
        _open_torchvision,
        "torchvision:NAME, such as torchvision:CIFAR10, downloaded by torchvision",
        needs_root=False,
        fetch=_fetch_torchvision,
    ),
    Source(
        "arrays", _open_arrays, "a .npy or .npz file of uint8 images (N, H, W, 3) and their labels", in_directory=False
    ),
    Source("faces", _open_faces, "the drawn sample of faces", False, "imagenet", _fetch_faces),
)
"""The built-in data sets; they take precedence over packages' data sets of the same name."""

_GIVEN: tuple[Source, ...] = (
    Source("activations", _open_activations, "examples of activations that are there: clusterpaths activations DIR"),
    Source("collected", _open_activations, "examples that a PyTorch model was collected with: clusterpaths.collect"),
)
"""No choices for a run: they have no table of images."""


def find_source(name: str) -> Source:
    """The source that a data set's name means; its `open` and `fetch` take the record with that full name.

    Raises:
        DatasetError: no such data set, or a name that two packages offer.
    """
    kind, _, which = name.partition(":")
    if kind == _TORCHVISION and not which:
        raise DatasetError(
            f"{name!r} does not name one of torchvision's data sets. Expected torchvision:NAME, such as torchvision:CIFAR10."
        )
    wanted = kind if kind == _TORCHVISION else name
    for source in (*SOURCES, *_GIVEN):
        if source.name == wanted:
            return source
    found = plugin.find(name)
    if found is not None:
        return Source(
            name,
            lambda spec: plugin.open_plugin(found, spec),
            f"from {plugin.package_of(found)}",
            in_directory=False,
        )
    known = known_names()
    raise DatasetError(
        f"There is no data set called {name!r}. Expected one of: {', '.join(known)}.{did_you_mean(name, known)} A directory of "
        "images is --dataset folder --images FOLDER; a package can add its own (docs/datasets.md)."
    )


def known_names() -> tuple[str, ...]:
    """What --dataset takes: the built-in names, then those of other packages."""
    builtin = tuple(f"{_TORCHVISION}:NAME" if source.name == _TORCHVISION else source.name for source in SOURCES)
    return builtin + tuple(name for name in plugin.names() if name not in builtin)


def open_source(spec: DatasetSpec) -> Dataset:
    """The data set that a record names, found and opened.

    Raises:
        DatasetError: no data set of that name, or its directory is not usable.
    """
    return find_source(spec.name).open(spec)


def fetch(spec: DatasetSpec, log: Log = lambda _: None) -> None:
    """Download a data set that is missing, where that is possible; `log` gets the progress messages.

    Raises:
        DownloadError: the network failed; a retry can help.
        DatasetError: no such data set, or what came is not it.
    """
    source = find_source(spec.name)
    if source.fetch is not None:
        source.fetch(spec, log)
