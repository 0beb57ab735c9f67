"""From stored pixel values of any depth to 0..255: what the range of an image's values means.

Belongs here: grey images of more than 8 bits (Pillow's modes I, I;16 and F) and colour of 16 bits. Modes of 8 bits and the
conversion to RGB are `decode.py`'s.

Most files do not say which range their values use: microscopes and scanners write 12 bits into 16, other programs 0..1
or 0..255 as float. One rule for all, on the values of each image, so that an image becomes the same pixels in every set:

| values | range |
|---|---|
| integers to 255, 4,095, 65,535 | the smallest of these that holds the brightest pixel |
| integers from 2**27 on, in files of 32 bits | all 31 or 32 bits |
| floats below 2 | 0..1 (a resampled image overshoots a little) |
| other floats | as integers to 65,535 |

TIFF's 12 bits, and PGM and JPEG 2000, whose decoders scale to 16 bits, state their range. Negative values, NaN and anything
else are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

RANGE = "value_range"
"""Key in `Image.info` of a converted image: its range as text, such as "0..4095"."""

_DEPTHS = (8, 12, 16)  # bits
_FULL_32 = 1 << 27
_UNIT_BELOW = 2.0
_OVERSHOOT = 0.05  # of the range: below zero by resampling
_SCALED_TO_16 = ("PPM", "JPEG2000")
_ROWS = 512  # at a time: an uploaded image may be large
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # TIFF tags
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


class RangeError(OSError):
    """Pixel values of a range that has no known meaning."""


def is_deep(image: Image.Image) -> bool:
    """Whether the image is grey of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def load_8_bit(image: ImageFile.ImageFile, source: Path | str | BytesIO) -> Image.Image:
    """The opened image, decoded, with 8 bits per channel.

    Args:
        image: opened from `source` and not loaded yet.
        source: colour of 16 bits is opened a second time if it is needed: Pillow decodes the upper bytes only, and these
            are all but black where 12 bits are stored.

    Raises:
        RangeError: as `as_8_bit`, or colour of 12 bits in 16 in a layout of which the lower bytes cannot be decoded.
        OSError, ...: as `Image.load`.
    """
    raw = _raw_mode(image)
    image.load()
    if ";16" not in raw or image.mode not in ("RGB", "RGBA") or _brightest(image) >= 1 << 12 - 8:
        return as_8_bit(image)
    swapped = _swapped(raw)
    if swapped is None:
        raise RangeError(
            f"16-bit colour whose values stay below 4096 (stored as {raw}); its range cannot be told. Save it with 8 bits "
            "per channel"
        )
    with Image.open(source) as again:
        again.tile = [tile._replace(args=_with_raw_mode(tile.args, swapped)) for tile in again.tile]
        again.load()
        upper, lower = (np.asarray(part)[..., :3].astype(np.uint16) for part in (image, again))
    values = upper << 8 | lower
    top = _integer_range(int(values.max()))
    return _as_read(Image.fromarray(_scaled(values, top)), image, top)


def as_8_bit(image: Image.Image) -> Image.Image:
    """A loaded image with 8 bits per channel: itself, or grey (mode L) if it has more.

    Raises:
        RangeError: negative values, NaN or infinity, or a range that is none of those above.
    """
    if not is_deep(image):
        return image
    lows, highs = zip(*((float(values.min()), float(values.max())) for _, values in _bands(image)), strict=True)
    top = _range_of(image, min(lows), max(highs))
    grey = Image.new("L", image.size)
    for row, values in _bands(image):
        grey.paste(Image.fromarray(_scaled(values, top)), (0, row))
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = grey.point(lambda value: 255 - value)  # Pillow does so for 8 bits only
    return _as_read(grey, image, top)


def _as_read(converted: Image.Image, image: Image.Image, top: float) -> Image.Image:
    converted.info = {**image.info, RANGE: f"0..{top:.0f}"}
    converted.info.pop("transparency", None)  # a grey value of the file's own depth
    return converted


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, values (rows, width)) of each band of the image."""
    unsigned = image.mode == "I" and _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED and _tag(image, _BITS) == 32
    for row in range(0, image.height, _ROWS):
        values = np.asarray(image.crop((0, row, image.width, min(row + _ROWS, image.height))))
        yield row, values.view(np.uint32) if unsigned else values  # Pillow reads them as signed


def _range_of(image: Image.Image, low: float, high: float) -> float:
    """The largest value of the image's range: white."""
    if not np.isfinite((low, high)).all():
        raise RangeError("its pixels hold NaN or infinity. Save it as 8-bit or 16-bit grey")
    if image.mode == "F" and high < _UNIT_BELOW:
        top = 1.0
    elif image.format in _SCALED_TO_16 and image.mode != "F":
        top = 65535.0
    elif (bits := _tag(image, _BITS, 16)) < 16:
        top = float((1 << bits) - 1)
    elif image.mode == "I" and high >= _FULL_32:
        top = float(2**32 - 1 if high >= 2**31 or _tag(image, _SAMPLE_FORMAT) == _UNSIGNED else 2**31 - 1)
    else:
        top = _integer_range(high)
    if top == 0 or low < (-_OVERSHOOT * top if image.mode == "F" else 0):
        raise RangeError(
            f"its pixel values, {low:g} to {high:g} (Pillow's mode {image.mode}), are of no known range: expected 0..1, 0..255, "
            "0..4095 or 0..65535. Save it as 8-bit or 16-bit grey"
        )
    return top


def _integer_range(high: float) -> float:
    """The smallest range of whole bits that holds this value; 0: none."""
    return next((float((1 << bits) - 1) for bits in _DEPTHS if high < 1 << bits), 0.0)


def _scaled(values: NDArray[Any], top: float) -> NDArray[np.uint8]:
    """Values of 0..top as 0..255: integers by their upper bits, floats rounded."""
    if np.issubdtype(values.dtype, np.integer):
        return (values >> int(top).bit_length() - 8).astype(np.uint8)
    return np.rint(np.clip(values * (255 / top), 0, 255)).astype(np.uint8)


def _tag(image: Image.Image, number: int, default: int = -1) -> int:
    """A number of a TIFF file's header; of more than one, the first."""
    found = getattr(image, "tag_v2", {}).get(number, default)
    return int(found[0] if isinstance(found, tuple) else found)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How pixels are laid out in the file, in Pillow's words, such as RGB;16B; "" where unknown."""
    args = image.tile[0].args if image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _brightest(image: Image.Image) -> int:
    """Of red, green and blue."""
    return max(int(high) for _, high in image.getextrema()[:3])  # type: ignore[misc]  # three bands or four


def _swapped(raw: str) -> str | None:
    """The layout with its bytes swapped, by which Pillow decodes the lower byte of each value; None where it knows none."""
    if raw.partition(";")[0] not in ("RGB", "RGBX", "RGBA"):
        return None
    native = {"little": "L", "big": "B"}[sys.byteorder]
    end = raw[-1].replace("N", native)
    return raw[:-1] + {"L": "B", "B": "L"}[end] if end in "LB" else None


def _with_raw_mode(args: Any, raw: str) -> Any:
    return (raw, *args[1:]) if isinstance(args, tuple) else raw
