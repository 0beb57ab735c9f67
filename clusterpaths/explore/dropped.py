"""An image that somebody brings: is it one, and what does a set say of it.

Belongs here: bytes to an upright picture within limits, and the sets that are kept ready for it. What is said of a picture
is `explain.py`'s, which brings ONNX Runtime and is imported when the first image comes.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from clusterpaths.datasets.base import as_rgb
from clusterpaths.errors import ClusterPathsError, ModelError, RefusedImageError
from clusterpaths.explanation import Explanation

if TYPE_CHECKING:
    from clusterpaths.explain import Opened
    from clusterpaths.explore.index import SetIndex

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # by content; few, as each decoder is code that strangers reach
MAX_PIXELS = 40_000_000
KEPT = 2  # sets with their model in memory
_CORRUPT = (  # what Pillow's decoders let through on corrupt bytes
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the second where warnings are errors


def open_picture(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB picture; its size is looked at before a pixel is decoded, its type by content alone.

    Raises:
        RefusedImageError: empty, of no known type (415), with too many pixels (413), damaged (422).
    """
    if not content:
        raise RefusedImageError("The file is empty. Expected a picture: JPEG, PNG, WebP, BMP or GIF.", 422)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise RefusedImageError(
                    f"The image has {image.width:,} x {image.height:,} pixels. Expected at most "
                    f"{max_pixels / 1e6:.3g} million; make it smaller, or raise --max-megapixels.",
                    413,
                )
            image.load()
            return as_rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise RefusedImageError(
            f"These {len(content):,} bytes are no picture that is known here. Expected JPEG, PNG, WebP, BMP or GIF.",
            415,
        ) from error
    except _BOMB as error:
        raise RefusedImageError(
            f"The image has far too many pixels. Expected at most {max_pixels / 1e6:.3g} million; make it smaller.", 413
        ) from error
    except _CORRUPT as error:
        raise RefusedImageError(
            "The image is damaged or cut off: it cannot be decoded. Save it again with another program.", 422
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _CORRUPT:  # a broken EXIF block in a sound image: shown as stored, as browsers show it
        return image


class Explainer:
    """Explains images by sets, one at a time: a decoded image may take 200 MB. Keeps the last sets' models ready."""

    def __init__(self, max_pixels: int = MAX_PIXELS, kept: int = KEPT) -> None:
        self.max_pixels, self.kept = max_pixels, kept
        self._opened: OrderedDict[tuple[str, str], Opened] = OrderedDict()
        self._lock = threading.Lock()

    def explain(self, index: SetIndex, content: bytes, name: str) -> Explanation:
        """What a set says of these bytes, `name` being what the sender calls them.

        Raises:
            RefusedImageError: no image, or too large.
            ModelError: the set does not say which model it is of, or that one is gone or has changed.
            CacheError: the set cannot be read.
        """
        with self._lock:
            picture = open_picture(content, self.max_pixels)
            opened = self._open(index)
            return opened.explain(picture, Path(name.replace("\\", "/")).name or "image")

    def prepare(self, index: SetIndex) -> None:
        """Get a set's model ready in the background, as soon as somebody may bring an image: the first takes a second."""
        new = (str(index.folder), index.summary.version) not in self._opened
        if new and not self._lock.locked():  # else it is being made ready, or an image is just looked at
            threading.Thread(target=self._prepare, args=(index,), daemon=True).start()

    def _prepare(self, index: SetIndex) -> None:
        with contextlib.suppress(ClusterPathsError), self._lock:  # it is told to who brings an image
            self._open(index)

    def _open(self, index: SetIndex) -> Opened:
        key = (str(index.folder), index.summary.version)
        found = self._opened.get(key)
        if found is None:
            found = _open(index)
            self._opened[key] = found
            while len(self._opened) > self.kept:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return found


def _open(index: SetIndex) -> Opened:
    from clusterpaths.explain import open_set
    from clusterpaths.set_files import Rows

    record = index.record
    name = f"{index.summary.model}/{index.summary.set}"
    if record is None or index.distances is None:
        raise ModelError(
            f"{name} was made by another program and does not say which model it is of, so no image can be explained by it. "
            "Expected a set that ClusterPaths made; choose another."
        )
    model = record.config.get("model")
    if not model or not Path(model).is_file():
        raise ModelError(
            f"The model of {name}, {record.model.file}, is no longer where it was when the set was made, so no image can be "
            "explained by this set. Put the file back."
        )
    rows = Rows(
        ids=index.ids,
        labels=index.labels,
        predictions=index.predictions,
        clusters=index.clusters,
        distances=index.distances,
        files=index.files,
    )
    return open_set(index.folder, record, rows, Path(model))


_explainer = Explainer()


def explain_bytes(index: SetIndex, content: bytes, name: str) -> Explanation:
    """As `Explainer.explain`, with the default limits, of one that this process keeps."""
    return _explainer.explain(index, content, name)
