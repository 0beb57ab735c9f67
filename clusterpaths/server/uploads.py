"""An image that is sent to be explained, for the API and for the page.

Belongs here: the form field `image`, and one after the other. Whether its bytes are an image is `explanation/uploaded.py`'s.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clusterpaths.explanation.uploaded import Explained, Explainer

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex

PATIENCE = 8  # seconds that an image waits for the ones before it


async def explain_upload(request: Request, index: SetIndex, image: UploadFile) -> Explained:
    """What a set says of the image in a form.

    Raises:
        RefusedImageError: no image, or too many pixels.
        ModelError: the set's model is gone or has changed.
        HTTPException: 413, too many bytes; 503, too many at once.
    """
    limit = request.app.state.settings.max_upload
    content = await image.read(limit + 1)
    if len(content) > limit:
        raise HTTPException(413, f"an image of at most {limit / 1e6:.3g} MB is explained; send a smaller one")
    explainer: Explainer = request.app.state.explainer
    turn: asyncio.Semaphore = request.app.state.explaining  # waiting here takes no thread away from other requests
    try:
        await asyncio.wait_for(turn.acquire(), PATIENCE)
    except TimeoutError as error:
        busy = "other images are being explained; try again in a moment"
        raise HTTPException(503, busy, {"Retry-After": "5"}) from error
    try:
        return await run_in_threadpool(explainer.explain, index, content, image.filename or "")
    finally:
        turn.release()
