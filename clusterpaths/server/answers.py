"""Answers about a set: computed once and cached; clients that already have the answer get 304.

Belongs here: ETag, Cache-Control, and the cache of encoded answers. Their content is `api/`'s.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import Request
from pydantic import BaseModel, TypeAdapter
from starlette.responses import Response

from clusterpaths.common.lru import LRUCache

if TYPE_CHECKING:
    from clusterpaths.explore.index import SetIndex
    from clusterpaths.explore.library import Library

BUDGET = 36 << 20  # bytes of cached answers and pages
LARGEST = 2 << 20  # of one of them
# Held while an answer is computed: because of the GIL, concurrent threads need up to a third longer than sequential ones
# (benchmarks/load.py). Only for milliseconds: not held for work of seconds or for disk access.
ONE_AT_A_TIME = threading.RLock()
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
_PROGRAM = version("clusterpaths")  # another version may answer differently for the same set


def answer_cache() -> LRUCache[bytes]:
    """Cache of encoded answers and pages."""
    return LRUCache(BUDGET, len, largest=LARGEST)


def encode(value: Any) -> bytes:
    """A record, or several, as JSON."""
    return value.model_dump_json().encode() if isinstance(value, BaseModel) else _ANYTHING.dump_json(value)


def of_set(
    request: Request,
    model: str,
    set_name: str,
    make: Callable[[SetIndex], Any],
    before: Callable[[SetIndex], object] = lambda _: None,
) -> Response:
    """The result of `make` for a set, as JSON: cached while the set is unchanged, 304 to clients that have it.

    `before` reads data that `make` needs, or has numpy compute and cache it: `make` calls are serialised, and must not wait for
    that.

    Raises:
        NotFoundError: no such model or set; and what `make` raises.
    """
    library: Library = request.app.state.library
    index = library.set(model, set_name)

    def answer() -> Any:
        before(index)
        with ONE_AT_A_TIME:
            return make(index)

    return of_version(request, index.summary.version, str(index.folder), answer)


def of_version(request: Request, of: str, place: str, make: Callable[[], Any]) -> Response:
    """As `of_set`, for anything with a version."""
    tag = tag_of(of, request.url.path, request.url.query)
    if has(request, tag):
        return not_modified(tag)
    answers: LRUCache[bytes] = request.app.state.answers
    key = (of, place, f"{request.url.path}?{request.url.query}")
    return json_answer(answers.get(key, lambda: encode(make())), tag)


def json_answer(content: bytes, tag: str | None = None) -> Response:
    """Encoded JSON; with a tag, clients revalidate it."""
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"} if tag else {"Cache-Control": "private, no-store"}
    return Response(content, media_type="application/json", headers=headers)


def tag_of(*parts: str) -> str:
    """A strong ETag of everything that an answer depends on."""
    text = "\0".join((_PROGRAM, *parts))
    return f'"{hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()}"'


def has(request: Request, tag: str) -> bool:
    """Whether the client has this answer already."""
    given = request.headers.get("if-none-match", "")
    return tag in (part.strip().removeprefix("W/") for part in given.split(","))


def not_modified(tag: str, cache_control: str = "private, no-cache") -> Response:
    """304."""
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": cache_control})
