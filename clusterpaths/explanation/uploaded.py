"""An image that somebody brings: is it one, and what does a set say of it.

Belongs here: bytes to an upright picture within limits, and the sets that are kept ready for it. What is said of a picture
is `explain.py`'s, which brings ONNX Runtime and is imported when the first image comes.
"""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from clusterpaths.common.lru import LRUCache
from clusterpaths.datasets.base import CORRUPT, as_rgb
from clusterpaths.errors import ClusterPathsError, ModelError, RefusedImageError
from clusterpaths.explanation.record import Explanation

if TYPE_CHECKING:
    from clusterpaths.explanation.explain import SetWithModel
    from clusterpaths.explore.index import SetIndex
    from clusterpaths.storage import Storage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # by content; few, as each decoder is code that strangers reach
MAX_PIXELS = 40_000_000
EXACT_PIXELS = 25_000_000  # beyond, a picture is halved first: it takes 4 bytes a pixel, and every turn a copy
WEBP_COPIES = 2.5  # its decoder holds the pixels four times over, others' once or twice
BAND = 512  # rows; even
SMALL = 320  # pixels of the longer side of what is shown again
OPENED = 2  # sets with their model in memory
_TURNS = {  # how an EXIF orientation is undone
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the second where warnings are errors


def open_picture(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB picture; its size is looked at before a pixel is decoded, its type by content alone.

    Up to 25 megapixels it is as `explain.read_upright` gives it; a larger one is halved.

    Raises:
        RefusedImageError: empty, of no known type (415), with too many pixels (413), damaged (422).
    """
    if not content:
        raise RefusedImageError("The file is empty. Expected a picture: JPEG, PNG, WebP, BMP or GIF.", 422)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            most = max_pixels / WEBP_COPIES if image.format == "WEBP" else max_pixels
            if image.width * image.height > most:
                raise RefusedImageError(
                    f"The {image.format} image has {image.width:,} x {image.height:,} pixels. Expected at most "
                    f"{most / 1e6:.3g} million; make it smaller, or raise --max-megapixels.",
                    413,
                )
            if image.width * image.height > EXACT_PIXELS:
                image.draft(None, (image.width // 2, image.height // 2))  # of a JPEG: it is decoded at that size
            image.load()
            turn = _TURNS.get(_orientation(image))
            picture = _halved(image) if image.width * image.height > EXACT_PIXELS else as_rgb(image)
        del image  # before another copy is made
        return picture if turn is None else picture.transpose(turn)
    except UnidentifiedImageError as error:
        raise RefusedImageError(
            f"These {len(content):,} bytes are no picture that is known here. Expected JPEG, PNG, WebP, BMP or GIF.",
            415,
        ) from error
    except _BOMB as error:
        raise RefusedImageError(
            f"The image has far too many pixels. Expected at most {max_pixels / 1e6:.3g} million; make it smaller.", 413
        ) from error
    except (OSError, *CORRUPT) as error:
        raise RefusedImageError(
            "The image is damaged or cut off: it cannot be decoded. Save it again with another program.", 422
        ) from error


def _orientation(image: Image.Image) -> int:
    """As EXIF or XMP says; 1: upright."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, *CORRUPT):  # a broken EXIF block in a sound image: shown as stored, as browsers show it
        return 1
    return found if isinstance(found, int) else 1


def _halved(image: Image.Image) -> Image.Image:
    """In RGB at half the width and height, each pixel the mean of four; band by band, without a second whole copy."""
    half = Image.new("RGB", ((image.width + 1) // 2, (image.height + 1) // 2))
    for top in range(0, image.height, BAND):
        band = image.crop((0, top, image.width, min(top + BAND, image.height)))
        band.format = image.format  # what a mode means is the format's
        half.paste(as_rgb(band).reduce(2), (0, top // 2))
    return half


class Explained(NamedTuple):
    """What a set says of an image, and the image in small, to be shown beside it."""

    explanation: Explanation
    small: Image.Image


class Explainer:
    """Explains images by sets, one at a time: a decoded image may take 200 MB. The last sets' models stay loaded."""

    def __init__(self, max_pixels: int = MAX_PIXELS, opened: int = OPENED) -> None:
        self.max_pixels = max_pixels
        self._opened: LRUCache[SetWithModel] = LRUCache(opened)
        self._lock = threading.Lock()

    def explain(self, index: SetIndex, content: bytes, name: str) -> Explained:
        """What a set says of these bytes, `name` being what the sender calls them.

        Raises:
            RefusedImageError: no image, or too large.
            ModelError: the set does not say which model it is of, or that one is gone or has changed.
            CacheError: the set cannot be read.
        """
        with self._lock:
            picture = open_picture(content, self.max_pixels)
            opened = self._open(index)
            explanation = opened.explain(picture, Path(name.replace("\\", "/")).name or "image")
            picture.thumbnail((SMALL, SMALL))
            return Explained(explanation, picture)

    def prepare(self, index: SetIndex) -> None:
        """Get a set's model ready in the background, as soon as somebody may bring an image: the first takes a second."""
        if (
            _key(index) not in self._opened and not self._lock.locked()
        ):  # else it is being made ready, or an image is just looked at
            threading.Thread(target=self._prepare, args=(index,), daemon=True).start()

    def _prepare(self, index: SetIndex) -> None:
        with contextlib.suppress(ClusterPathsError), self._lock:  # it is told to who brings an image
            self._open(index)

    def _open(self, index: SetIndex) -> SetWithModel:
        return self._opened.get(_key(index), lambda: _open(index))


def _key(index: SetIndex) -> tuple[Storage, str]:
    return index.folder, index.summary.version


def _open(index: SetIndex) -> SetWithModel:
    from clusterpaths.explanation.explain import load_model

    record = index.record
    name = f"{index.summary.model}/{index.summary.set}"
    if record is None:
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
    return load_model(index, Path(model))
