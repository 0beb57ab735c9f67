"""JPEG thumbnails embedded in the page.

Belongs here: from an example's file name to a data: URI, each image read and encoded once. The template places them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

WIDTH = 80  # pixels; shown at about 60, sharper on high-density screens
TALLEST = 120
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """One encoded picture; `key` is its element id on the page, width and height are in pixels."""

    key: str
    width: int
    height: int
    uri: str


def encode(image: Image.Image, key: str) -> Thumbnail:
    """Shrink the image without cropping (a shortcut may be at the border) and encode it."""
    small = image.convert("RGB")
    small.thumbnail((WIDTH, TALLEST), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(key, small.width, small.height, f"data:image/jpeg;base64,{text}")


def make_thumbnails(files: Iterable[str], read_image: Callable[[str], Image.Image]) -> dict[str, Thumbnail]:
    """A thumbnail for each distinct file that can still be read; the others are left out."""
    made: dict[str, Thumbnail] = {}
    for number, file in enumerate(dict.fromkeys(files)):
        try:
            made[file] = encode(read_image(file), f"t{number}")
        except (OSError, Image.DecompressionBombError):
            continue  # the page shows a placeholder and their number
    return made


def median_ratio(thumbnails: Iterable[Thumbnail]) -> float:
    """Width over height of the median picture, within 2:3 and 3:2; 1 where there is none."""
    ratios = sorted(t.width / t.height for t in thumbnails)
    return min(max(ratios[len(ratios) // 2], 2 / 3), 3 / 2) if ratios else 1.0
