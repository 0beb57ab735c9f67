"""Explaining uploaded images.

Belongs here: decoding bytes to an upright image within limits, and caching sets with their models. `explain.py` explains
the image; it imports ONNX Runtime, so it is imported with the first image.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from clusterpaths.common.lru import LRUCache
from clusterpaths.datasets.decode import CORRUPT, as_rgb
from clusterpaths.datasets.value_range import RangeError, load_8_bit
from clusterpaths.errors import ClusterPathsError, ModelError, RefusedImageError
from clusterpaths.explanation.record import Explanation
from clusterpaths.sets.places import model_of

if TYPE_CHECKING:
    from clusterpaths.explanation.explain import SetWithModel
    from clusterpaths.explore.index import SetIndex
    from clusterpaths.storage import Storage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # by content; few, as each decoder is exposed to untrusted input
MAX_PIXELS = 40_000_000
MOST_SCANS = 200  # of a JPEG: progressive ones have about ten, and each takes as long as the complete image
_START_OF_SCAN = b"\xff\xda"
EXACT_PIXELS = 25_000_000  # larger images are halved first: 4 bytes per pixel, and a rotation copies
WEBP_COPIES = 2.5  # its decoder needs four copies of the pixels, others one or two
BAND = 512  # rows; even
SMALL = 320  # pixels of the longer side of the displayed image
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
    """Decode an upright RGB image; its size is checked before decoding, its type detected from the content.

    Up to 25 megapixels it is as `explain.read_upright` gives it; a larger one is halved.

    Raises:
        RefusedImageError: empty, of unknown type (415), with too many pixels (413), corrupted (422).
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
            if image.format == "JPEG" and (scans := content.count(_START_OF_SCAN)) > MOST_SCANS:
                raise RefusedImageError(
                    f"The JPEG image has {scans:,} scans, each of which is decoded over the complete image. Expected at most "
                    f"{MOST_SCANS}; save it again with another program.",
                    413,
                )
            if image.width * image.height > EXACT_PIXELS:
                image.draft(None, (image.width // 2, image.height // 2))  # of a JPEG: it is decoded at that size
            pixels = load_8_bit(image, io.BytesIO(content))
            turn = _TURNS.get(_orientation(image))
            picture = _halved(pixels) if image.width * image.height > EXACT_PIXELS else as_rgb(pixels)
        del image, pixels  # before another copy is made
        return picture if turn is None else picture.transpose(turn)
    except UnidentifiedImageError as error:
        raise RefusedImageError(
            f"These {len(content):,} bytes are not an image of a supported format. Expected JPEG, PNG, WebP, BMP or GIF.",
            415,
        ) from error
    except _BOMB as error:
        raise RefusedImageError(
            f"The image has far too many pixels. Expected at most {max_pixels / 1e6:.3g} million; make it smaller.", 413
        ) from error
    except RangeError as error:
        raise RefusedImageError(f"The image cannot be used: {error}.", 422) from error
    except (OSError, *CORRUPT) as error:
        raise RefusedImageError(
            "The image is corrupted or truncated: it cannot be decoded. Save it again with another program.", 422
        ) from error


def _orientation(image: Image.Image) -> int:
    """As EXIF or XMP says; 1: upright."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, *CORRUPT):  # a corrupted EXIF block in a valid image: shown as stored, like browsers do
        return 1
    return found if isinstance(found, int) else 1


def _halved(image: Image.Image) -> Image.Image:
    """In RGB at half the width and height, each pixel the mean of four; band by band, without a second full copy."""
    half = Image.new("RGB", ((image.width + 1) // 2, (image.height + 1) // 2))
    for top in range(0, image.height, BAND):
        band = image.crop((0, top, image.width, min(top + BAND, image.height)))
        half.paste(as_rgb(band).reduce(2), (0, top // 2))
    return half


class Explained(NamedTuple):
    """An explanation, and a thumbnail of the image."""

    explanation: Explanation
    small: Image.Image


class Explainer:
    """Explains images by sets, one at a time: a decoded image may take 200 MB. Models of recent sets stay loaded."""

    def __init__(self, max_pixels: int = MAX_PIXELS, opened: int = OPENED) -> None:
        self.max_pixels = max_pixels
        self._opened: LRUCache[SetWithModel] = LRUCache(opened)
        self._lock = threading.Lock()

    def explain(self, index: SetIndex, content: bytes, name: str) -> Explained:
        """The explanation of these bytes by a set; `name` is the uploaded file name.

        Raises:
            RefusedImageError: not an image, or too large.
            ModelError: the set's model is not recorded, missing, or has changed.
            CacheError: the set cannot be read.
        """
        return self.explain_picture(index, lambda: open_picture(content, self.max_pixels), name)

    def explain_picture(self, index: SetIndex, read: Callable[[], Image.Image], name: str) -> Explained:
        """As `explain`, of an RGB image that `read` gives; it is called once the others are explained.

        Raises:
            ModelError: the set's model is not recorded, missing, or has changed.
            CacheError: the set cannot be read.
        """
        with self._lock:
            picture = read()
            opened = self._open(index)
            explanation = opened.explain(picture, Path(name.replace("\\", "/")).name or "image")
            small = picture.copy()
            small.thumbnail((SMALL, SMALL))
            return Explained(explanation, small)

    def prepare(self, index: SetIndex) -> None:
        """Load a set's model in the background, before the first image: loading takes a second."""
        if (
            _key(index) not in self._opened and not self._lock.locked()
        ):  # else it is being loaded, or an image is being explained
            threading.Thread(target=self._prepare, args=(index,), daemon=True).start()

    def _prepare(self, index: SetIndex) -> None:
        # Reported with the first image, as are errors of the disk.
        with contextlib.suppress(ClusterPathsError, OSError, MemoryError), self._lock:
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
    if record.without_model:
        raise ModelError(
            f"{name} was made of activations, without the model, so no image can be explained by it. Expected a set that was "
            "made with a model; choose another."
        )
    if record.collected:
        raise ModelError(
            f"{name} was collected from a PyTorch model, which is no file that this server could run. Export it with "
            "clusterpaths.export_onnx and run that file on the same images, or explain the image in Python."
        )
    model = model_of(index.folder, record)
    if model is None or not model.is_file():
        raise ModelError(
            f"The model of {name}, {record.model.file}, is no longer where it was when the set was made, so no image can be "
            "explained by this set. Put the file back."
        )
    return load_model(index, model)
