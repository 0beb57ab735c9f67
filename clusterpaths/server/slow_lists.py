"""Lists of `clusterpaths/find` that take seconds to compute, for the API and for the page.

Belongs here: queueing. An endpoint that computed them itself would hold one of the few threads (`app.AT_ONCE`), and so would
every further request for the same list, which waits for the first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from clusterpaths.find.find import is_prepared, prepare

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex


async def compute_in_turn(request: Request, index: SetIndex, kind: str, layer: str = "") -> None:
    """Compute and cache a list, unless it is; one at a time.

    Raises:
        ConfigError, NotFoundError: as `find`.
    """
    if is_prepared(index, kind, layer):
        return
    turn: asyncio.Semaphore = request.app.state.finding
    async with turn:  # waiting here does not block a thread
        await run_in_threadpool(prepare, index, kind, layer)
