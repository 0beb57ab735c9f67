"""The images of a set's examples, as JPEG of a chosen size.

Belongs here: from an example to bytes, through the data set that the set's record names, with a cache. Images are shown as
extraction read them, without metadata such as EXIF. An image whose file was replaced is read again; of other
content, it is not shown as the example's.
"""

from __future__ import annotations

import base64
import errno
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from clusterpaths.cache.registry import current_file
from clusterpaths.common.lru import LRUCache
from clusterpaths.datasets.base import Dataset, ExampleTable, path_in
from clusterpaths.datasets.celeba import CelebA, find_images
from clusterpaths.datasets.folder import Folder
from clusterpaths.datasets.registry import open_source
from clusterpaths.errors import ClusterPathsError, DatasetError, NotFoundError
from clusterpaths.records import DatasetSpec
from clusterpaths.sets.images import find_file
from clusterpaths.sets.places import data_of
from clusterpaths.sets.published import PublishedSet

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex
    from clusterpaths.explore.library import Library

QUALITY = 85
BUDGET = 32 << 20  # bytes of cached JPEG: 4,000 pictures of CelebA's size, 10,000 thumbnails
AT_ONCE = 4  # pictures being decoded: bounds the memory that large ones take
_OPEN = 4  # data sets
Stamp = tuple[int, ...]  # when a file was last written, nanoseconds since 1970, and its bytes
_NONE = np.empty(0, np.int64)
_NO_TABLE = ExampleTable(ids=_NONE, files=(), sizes=_NONE, splits=(), labels=_NONE.astype(np.int32))

log = logging.getLogger(__name__)


class Images:
    """Images of a library's sets. Thread-safe."""

    def __init__(self, library: Library, budget: int = BUDGET) -> None:
        self.library = library
        self._jpegs: LRUCache[bytes] = LRUCache(budget, len)
        self._data_sets: LRUCache[Dataset] = LRUCache(_OPEN)
        self._room = threading.BoundedSemaphore(AT_ONCE)

    def jpeg(self, index: SetIndex, row: int, size: int = 0, stamp: Stamp | None = None) -> bytes:
        """One example's picture; its longest side is at most `size` pixels, 0: as it is.

        Args:
            stamp: of this example, if already known.

        Raises:
            NotFoundError: the set has no images, or this one cannot be read.
        """
        file, spec = _file_of(index, row)
        key = spec, file, size, self.stamp(index, row) if stamp is None else stamp
        return self._jpegs.get(key, lambda: self._read(index, spec, row, size))

    def picture(self, index: SetIndex, row: int) -> Image.Image:
        """One example's image as the data set has it.

        Raises:
            NotFoundError: as `jpeg`.
        """
        _, spec = _file_of(index, row)
        return self._decode(index, spec, row)

    def stamp(self, index: SetIndex, row: int) -> Stamp:
        """Changes when an example's file is replaced; () if the data set has no file to check.

        Raises:
            NotFoundError: the set has no images, or this one is gone.
        """
        file, spec = _file_of(index, row)
        try:
            data_set = self._open(index, spec)
            path = _place(data_set, file)
            if path is not None and not path.exists():
                path = _place(data_set, current_file(index.source.cache, int(index.ids[row])) or file)
            if path is None:
                return ()
            found = path.stat()
        except OSError as error:
            raise _gone(index, file) from error
        return found.st_mtime_ns, found.st_size

    def base64(self, index: SetIndex, row: int, size: int = 0, stamp: Stamp | None = None) -> bytes:
        """As `jpeg`, in ASCII letters."""
        return base64.b64encode(self.jpeg(index, row, size, stamp))

    def _read(self, index: SetIndex, spec: DatasetSpec, row: int, size: int) -> bytes:
        with self._room:
            image = self._decode(index, spec, row)
            try:
                return encode(image, size)
            except OSError as error:
                raise _unreadable(index, index.file(row), error) from error

    def _decode(self, index: SetIndex, spec: DatasetSpec, row: int) -> Image.Image:
        data_set, file = self._open(index, spec), index.file(row)
        try:
            if isinstance(index.source, PublishedSet):
                file = find_file(index.source, row, data_set)
            return data_set.read_image(file)
        except FileNotFoundError as error:
            raise _gone(index, file) from error
        except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                raise NotFoundError(f"The image {file} of {index.name} was replaced since the set was made.") from error
            raise _unreadable(index, file, error) from error

    def _open(self, index: SetIndex, spec: DatasetSpec) -> Dataset:
        try:
            return self._data_sets.get(spec, lambda: _reader(spec))  # once: 200,000 files take seconds
        except (ClusterPathsError, OSError) as error:  # its text names directories of this machine
            log.warning("The images of %s cannot be opened: %s", index.name, error)
            raise NotFoundError(
                f"The images of {index.name} (data set {spec.name}) have been moved since the set was made."
            ) from error


def _file_of(index: SetIndex, row: int) -> tuple[str, DatasetSpec]:
    """Raises: NotFoundError: the set does not say."""
    file, spec = index.file(row), data_set_of(index)
    if not file:
        raise NotFoundError(f"{index.name} does not record the image of this example.")
    return file, spec


def _gone(index: SetIndex, file: str) -> NotFoundError:
    return NotFoundError(f"The image {file} of {index.name} no longer exists.")


def _unreadable(index: SetIndex, file: str, error: Exception) -> NotFoundError:
    log.warning("The image %s of %s cannot be read: %s", file, index.name, error)
    return NotFoundError(f"The image {file} of {index.name} cannot be read: it is corrupted, or not an image.")


def _place(data_set: Dataset, file: str) -> Path | None:
    """The file that an example's pixels lie in; None: not known, as for a plugin's data set.

    Raises:
        OSError: a name that leads out of the data set.
    """
    if isinstance(data_set, CelebA):
        return path_in(data_set.images, file)
    if isinstance(data_set, Folder):
        return path_in(data_set.root, file)
    of_each: Mapping[str, Path] = getattr(data_set, "paths", {})  # torchvision's, where each image has a file
    if file in of_each:
        return of_each[file]
    return data_set.root if data_set.root.is_file() else None  # all images in one file


def data_set_of(index: SetIndex) -> DatasetSpec:
    """The data set of a set's examples.

    Raises:
        NotFoundError: another program's set, which has no record.
    """
    record = index.record
    if record is None:
        raise NotFoundError(f"{index.name} has no set.json, so its images are not known.")
    return data_of(index.folder, record)


def _reader(spec: DatasetSpec) -> Dataset:
    """The data set, or the part that is needed to read images by name.

    CelebA's 200,000 files and their annotations take seconds and 100 MB to list, and a zip beside them would be extracted.
    """
    if spec.name != "celeba":
        return open_source(spec)
    found = find_images(Path(spec.root))
    if found is None:
        raise DatasetError(f"{spec.root} holds no CelebA images.")
    return CelebA(root=Path(spec.root), images=found[1], notes=(), table=_NO_TABLE)


def encode(image: Image.Image, size: int) -> bytes:
    """An RGB image as JPEG, its longest side brought down to `size` pixels (0: as it is); never enlarged."""
    if size and max(image.size) > size:
        image = image.copy()
        image.thumbnail((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if max(image.size) > 65_000:  # beyond what the format holds
        raise OSError(f"{image.width} x {image.height} pixels are too many for a JPEG")
    pixels = np.ascontiguousarray(image.convert("RGB"))
    content: bytes = simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420")
    return content
