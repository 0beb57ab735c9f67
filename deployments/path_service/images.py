"""The images of a request: the body itself, or the parts of a form.

Belongs here: from a request to encoded images. Decoding is the path model's (`model.py`).
"""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from clusterpaths.errors import RefusedImageError

FIELD = "image"
_LONGEST_NAME = 200
_ENOUGH = 1 << 40  # parts stay in memory, which the limit of the body bounds: a container may have no writable disk


class Encoded(NamedTuple):
    """An image as it was sent."""

    file: str  # its name in a form; else empty
    content: bytes


class _Parser(MultiPartParser):
    spool_max_size = _ENOUGH


async def read_images(request: Request, most: int) -> list[Encoded]:
    """The images of a request, at least one; of a form, those of its field `image`.

    Raises:
        HTTPException: 413, more than `most`; 422, no form, another field, or no image in it.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [Encoded("", await request.body())]
    try:
        form = await _Parser(request.headers, request.stream(), max_files=most + 1, max_fields=1).parse()
    except (MultiPartException, KeyError) as error:
        text = getattr(error, "message", "") or "no boundary in its content type"
        if text.startswith("Too many files"):
            raise _too_many(most) from error
        raise HTTPException(422, f"the form cannot be read: {text}; send images as its field {FIELD!r}") from error
    try:
        found = form.multi_items()
        if len(found) > most:
            raise _too_many(most)
        if not found:
            raise HTTPException(422, f"the form has no image; send images as files of the field {FIELD!r}")
        return [await _encoded(name, part) for name, part in found]
    finally:
        await form.close()


async def _encoded(name: str, part: UploadFile | str) -> Encoded:
    if name != FIELD or isinstance(part, str):
        raise HTTPException(
            422, f"the form's field {name[:40]!r} is no image; send images as files of the field {FIELD!r}"
        )
    name = PurePath((part.filename or "").replace("\\", "/")).name  # some programs send the directory, too
    return Encoded(name[:_LONGEST_NAME], await part.read())


def numbered(error: RefusedImageError, at: int, images: list[Encoded]) -> RefusedImageError:
    """The error, with which of several images it is about."""
    if len(images) == 1:
        return error
    called = f" ({images[at].file})" if images[at].file else ""
    return RefusedImageError(f"Image {at + 1} of {len(images)}{called}: {error} No image was answered.", error.status)


def _too_many(most: int) -> HTTPException:
    return HTTPException(
        413, f"the form has more than {most} images, the limit (--max-images); send them in several requests"
    )
