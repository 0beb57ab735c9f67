"""Image files: mutated JPEG, PNG, WebP, TIFF, GIF and BMP, through the project's readers against Pillow.

Belongs here: making small images of each format, and comparing. A reader gives the pixels that Pillow gives, or refuses
what Pillow refuses; it raises nothing else.
"""

from __future__ import annotations

import io
import random
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from clusterpaths.datasets.decode import open_upright
from clusterpaths.errors import RefusedImageError
from clusterpaths.explanation.uploaded import EXACT_PIXELS, FORMATS, MAX_PIXELS, MOST_SCANS, WEBP_COPIES, open_picture
from tests.fuzz.documents import require_paragraph
from tests.fuzz.engine import Case, FindError
from tests.fuzz.mutate import mutate_bytes

SECONDS = 30.0
_SIDES = (1, 2, 7, 8, 16, 33, 64)
_MARKERS = (
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc0",
    b"\xff\xc2",
    b"\xff\xc4",
    b"\xff\xdb",
    b"\xff\xdd",
    b"\xff\xe1",
    b"\xff\xee",
)


def prepare(root: Path) -> None:
    """Nothing is shared."""


def an_image(rng: random.Random) -> tuple[str, bytes]:
    """A format and a valid file of it."""
    kind = rng.choice(("JPEG", "JPEG", "JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"))
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"),
        "TIFF": ("RGB", "L", "CMYK", "I;16", "F", "1", "RGBA", "LAB", "YCbCr"),
        "BMP": ("RGB", "L", "1", "P"),
    }
    mode = rng.choice(modes[kind])
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(noise if rng.random() < 0.5 else np.full_like(noise, rng.randrange(256)))
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    elif mode == "LAB":
        image = Image.fromarray(noise, "LAB")
    else:
        image = image.convert(mode)
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {
            "quality": rng.choice((1, 50, 95)),
            "progressive": rng.random() < 0.3,
            "subsampling": rng.choice((0, 1, 2)),
        }
        if rng.random() < 0.3:
            exif = Image.Exif()
            exif[0x0112] = rng.randrange(12)
            options["exif"] = exif
    elif kind == "TIFF" and mode in ("RGB", "L"):
        options = {"compression": rng.choice((None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"))}
    elif kind == "GIF" and rng.random() < 0.3:
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    elif kind == "WEBP":
        options = {"lossless": rng.random() < 0.3}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return kind, buffer.getvalue()


def mutate_image(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed; a JPEG's markers inserted or its sizes changed; files joined."""
    match rng.randrange(8):
        case 0:
            return content
        case 1:
            at = rng.randrange(len(content) + 1)
            return content[:at] + rng.choice(_MARKERS) + content[at:]
        case 2:
            at = rng.randrange(len(content) + 1)
            return content[:at] + an_image(rng)[1]
        case 3 if (at := max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))) > 0:
            sides = struct.pack(">HH", *(rng.choice((0, 1, 8, 15, 17, 65, 500, 65_535)) for _ in range(2)))
            return content[: at + 5] + sides + content[at + 9 :]
        case 4 if content[:4] == b"\x89PNG":
            sides = struct.pack(">II", *(rng.choice((0, 1, 8, 63, 65, 2**31 - 1, 2**31)) for _ in range(2)))
            return content[:16] + sides + content[24:]
        case _:
            return mutate_bytes(rng, content)


def open_kind(root: Path, scratch: Path) -> Case:
    """A case: a file, through the reader of data sets and that of uploads."""
    warnings.simplefilter("ignore")
    path = scratch / "image.jpg"

    def run(rng: random.Random) -> tuple[str, str]:
        kind, content = an_image(rng)
        content = mutate_image(rng, content)
        path.write_bytes(content)
        try:
            wanted = _by_pillow(content, path)
            found = _pixels(path)
            _compare(wanted, found, "the reader")
            outcome = "refused" if found is None else "read"
            _compare(_by_pillow(content), _uploaded(content), "the reader of uploads")
        except BaseException as error:
            error.add_note(kind)
            raise
        return kind, outcome

    return run


def _by_pillow(content: bytes, path: Path | None = None) -> Any:
    """(h, w, 3) as Pillow reads it upright; None: it refuses it; "deep": it reads it, and its values are not of 8 bits."""
    uploaded = path is None
    try:  # of a file it maps uncompressed pixels, with fewer checks than it makes of a stream
        with Image.open(path or io.BytesIO(content), formats=FORMATS if uploaded else None) as image:
            if uploaded and image.width * image.height > min(EXACT_PIXELS, MAX_PIXELS / WEBP_COPIES):
                return "large"
            if uploaded and image.format == "JPEG" and content.count(b"\xff\xda") > MOST_SCANS:
                return "large"
            image.load()
            if image.mode not in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "PA"):
                return "deep"
            try:
                turned = ImageOps.exif_transpose(image)
            except Exception:  # noqa: BLE001
                return "deep"
            if turned.mode in ("P", "PA") and "transparency" in turned.info:
                turned = turned.convert("RGBA")
            return np.asarray(turned.convert("RGB"))
    except Exception:  # noqa: BLE001 - Pillow raises many kinds
        return None


def _pixels(path: Path) -> Any:
    try:
        return np.asarray(open_upright(path))
    except OSError:
        return None


def _uploaded(content: bytes) -> Any:
    try:
        return np.asarray(open_picture(content))
    except RefusedImageError as error:
        require_paragraph(error, "upload")
        return None


def _compare(wanted: Any, found: Any, who: str) -> None:
    if isinstance(wanted, str):
        return
    if (wanted is None) != (found is None):
        raise FindError(f"{who} {'refuses' if found is None else 'reads'} what Pillow does not")
    if wanted is not None and not np.array_equal(wanted, found):
        raise FindError(f"{who} gives other pixels than Pillow: shapes {found.shape}, {wanted.shape}")
