"""Decoding image files to RGB, whatever their format and however they are stored."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from clusterpaths.datasets.value_range import as_8_bit, load_8_bit

# What Pillow's decoders let through on corrupt bytes besides OSError. DecompressionBombWarning only where warnings
# are errors.
CORRUPT = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_PLAIN_JPEG_BYTES = 64 << 20


def open_upright(path: Path) -> Image.Image:
    """`open_rgb`, rotated by the EXIF orientation: cameras store a portrait lying on its side."""
    image = open_rgb(path)
    try:
        return ImageOps.exif_transpose(image)
    except CORRUPT:  # a corrupted EXIF block in a valid image: shown as stored, as in browsers
        return image


def open_rgb(path: Path | str) -> Image.Image:
    """Open any image Pillow knows (grey, CMYK, a PNG named .jpg) and return it fully decoded as RGB.

    Of transparent images the colours are taken and the transparency dropped, as torchvision does. More than 8 bits per
    channel, and floats, become 8 bits by the range of their values (`value_range.py`).

    Raises:
        OSError: missing, empty, truncated, corrupt, too large to be sane, no image at all, or of a range of values or a
            colour space that cannot be converted. Pillow reports some corrupt files by SyntaxError, struct.error and the
            like; those too become OSError here.
    """
    if (plain := _open_plain_jpeg(path)) is not None:
        return plain
    try:
        with Image.open(path) as image:
            return as_rgb(load_8_bit(image, path))
    except UnidentifiedImageError as error:
        size = Path(path).stat().st_size
        reason = f"not an image that can be read ({size:,} bytes)" if size else "the file is empty (0 bytes)"
        raise OSError(reason) from error
    except CORRUPT as error:
        raise OSError(f"corrupt image ({type(error).__name__}: {error})") from error


def _open_plain_jpeg(path: Path | str) -> Image.Image | None:
    """Decode a valid colour or grey JPEG without EXIF, in half of Pillow's time, with the same pixels; None for others.

    Both decode with libjpeg-turbo. What Pillow does otherwise (CMYK, EXIF, a limit of size), and its errors for corrupted files,
    are left to it.
    """
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - hot: every image
        start = file.read(3)
        if start != b"\xff\xd8\xff" or os.fstat(file.fileno()).st_size > _PLAIN_JPEG_BYTES:
            return None
        content = start + file.read()
    if b"Exif\0" in content or b"tiff:Orientation" in content:  # the latter in XMP: Pillow rotates by it, too
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in ("YCbCr", "Gray") or height * width > (Image.MAX_IMAGE_PIXELS or 0):
            return None
        return Image.fromarray(simplejpeg.decode_jpeg(content, "RGB"))
    except ValueError:
        return None


def as_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, whatever its mode.

    Raises:
        OSError: a range of values or a colour space that cannot be converted.
    """
    image = as_8_bit(image)
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA") and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # directly to RGB would warn
    if image.mode == "La":  # alpha is multiplied into it
        image = image.convert("LA")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise OSError(f"its colour space {image.mode} cannot be converted. Save it as RGB") from error
