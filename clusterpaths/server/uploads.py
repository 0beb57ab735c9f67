"""Uploaded images, for the API and for the page.

Belongs here: the form field `image`, and queueing. `explanation/uploaded.py` decodes the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clusterpaths.explanation.uploaded import Explained, Explainer
from clusterpaths.explore.images import Images

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

PATIENCE = 8  # seconds that an image may wait in the queue


async def explain_upload(request: Request, index: SetIndex, image: UploadFile) -> Explained:
    """The explanation of the image in a form.

    Raises:
        RefusedImageError: not an image, or too many pixels.
        ModelError: the set's model is missing or has changed.
        HTTPException: 413, too many bytes; 503, queue timeout.
    """
    limit = request.app.state.settings.max_upload
    content = await image.read(limit + 1)
    if len(content) > limit:
        raise HTTPException(413, f"the limit for images is {limit / 1e6:.3g} MB; send a smaller one")
    explainer: Explainer = request.app.state.explainer
    return await _in_turn(request, lambda: explainer.explain(index, content, image.filename or ""))


async def explain_own(request: Request, index: SetIndex, example: int) -> Explained:
    """The explanation of an example of the set, for which the model is run on its image.

    Raises:
        NotFoundError: no such example, or its image cannot be read.
        ModelError: the set's model is missing or has changed.
        HTTPException: 503, queue timeout.
    """
    explainer: Explainer = request.app.state.explainer
    images: Images = request.app.state.images
    row = index.row_of(example)
    return await _in_turn(
        request, lambda: explainer.explain_picture(index, lambda: images.picture(index, row), index.file(row))
    )


async def _in_turn(request: Request, explain: Callable[[], Explained]) -> Explained:
    """Raises: HTTPException: 503, queue timeout."""
    turn: asyncio.Semaphore = request.app.state.explaining  # waiting here does not block a thread
    try:
        await asyncio.wait_for(turn.acquire(), PATIENCE)
    except TimeoutError as error:
        busy = "other images are being explained; try again in a moment"
        raise HTTPException(503, busy, {"Retry-After": "5"}) from error
    try:
        return await run_in_threadpool(explain)
    finally:
        turn.release()
