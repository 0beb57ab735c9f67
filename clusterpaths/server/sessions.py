"""Who may ask: the token, and the session that a browser has instead of it.

Belongs here: making and checking both. Which requests need one is `middleware/security.py`'s.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable

from starlette.datastructures import Headers

COOKIE = "clusterpaths_session"
SESSION_SECONDS = 7 * 24 * 3600


def shows_token(headers: Headers, token: str) -> bool:
    """Whether a request has the token in its Authorization header, or a session in a cookie."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and same(given.strip(), token):
        return True
    return any(_is_session(value, token) for value in _cookies(headers.getlist("cookie")))


def same(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def new_session(token: str, now: float | None = None) -> str:
    """What a browser stores instead of the token: until when, and that this server said so (HMAC-SHA256)."""
    until = int((time.time() if now is None else now) + SESSION_SECONDS)
    return f"{until}.{_signature(until, token)}"


def _is_session(value: str, token: str) -> bool:
    until, _, signature = value.partition(".")
    if not (until.isascii() and until.isdigit() and len(until) < 15):
        return False
    return same(signature, _signature(int(until), token)) and int(until) > time.time()


def _signature(until: int, token: str) -> str:
    return hmac.new(token.encode(), f"clusterpaths session until {until}".encode(), hashlib.sha256).hexdigest()


def _cookies(lines: Iterable[str]) -> list[str]:
    """Values under our name; other servers of this machine leave cookies of any form beside it, as these know no ports."""
    pairs = (part.strip().partition("=") for line in lines for part in line.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]
