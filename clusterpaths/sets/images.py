"""The images of a set, as long as they are the ones that it was made of.

Belongs here: from a set's example to a file of its data set with the recorded content. A file that was renamed is found by the
registry of the cache, a file of other content is not shown in its place. Sets from before contents were recorded are trusted.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
from PIL import Image

from clusterpaths.cache.registry import current_file
from clusterpaths.datasets import open_dataset
from clusterpaths.datasets.base import Dataset
from clusterpaths.errors import DatasetError
from clusterpaths.sets.places import data_of
from clusterpaths.sets.published import PublishedSet


def find_file(published: PublishedSet, row: int, dataset: Dataset) -> str:
    """The name that the image in this row of the set has now.

    Raises:
        FileNotFoundError: no file of the data set has its content.
        OSError: the same, and a file of other content has its name (errno.ESTALE); or a file cannot be read.
    """
    file, contents = published.files[row].as_py(), published.contents
    if contents is None:
        return str(file)
    content = int(contents[row])
    lost = OSError(errno.ESTALE, "no longer the image that the set was made of", file)
    try:
        if dataset.digest(file) == content:
            return str(file)
    except FileNotFoundError as error:
        lost = error
    renamed = current_file(published.cache, int(published.ids[row]))
    if renamed is not None and renamed != file and dataset.digest(renamed) == content:
        return renamed
    raise lost


def image_reader(published: PublishedSet, dataset: Dataset) -> Callable[[str], Image.Image]:
    """Reads images by the names that the set has for them; raises as `find_file`."""

    def read(file: str) -> Image.Image:
        row = pc.index(published.files, file).as_py()
        return dataset.read_image(find_file(published, row, dataset) if row >= 0 else file)

    return read


def find_images(
    published: PublishedSet, data_root: Path | None, lost: Callable[[DatasetError], None] = lambda _: None
) -> Callable[[str], Image.Image]:
    """Reads images of the given directory, which must exist, or of the one that the set records.

    Where that is gone, `lost` is called once, and every image is missing: readers show placeholders.

    Raises:
        DatasetError: the given directory does not exist, or has no images.
    """
    try:
        return image_reader(published, open_dataset(data_of(published.folder, published.record, data_root)))
    except DatasetError as error:
        if data_root:
            raise
        lost(error)
        return _gone


def _gone(file: str) -> Image.Image:
    raise FileNotFoundError(file)
