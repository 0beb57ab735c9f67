"""Authentication: the token, and the session cookie of a browser.

Belongs here: creating and validating them. `middleware/security.py` decides which requests need one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from itsdangerous import BadData, TimestampSigner
from starlette.datastructures import Headers

COOKIE = "clusterpaths_session"
SESSION_SECONDS = 7 * 24 * 3600


def is_authenticated(headers: Headers, token: str) -> bool:
    """Whether a request has the token in its Authorization header, or a valid session cookie."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and same(given.strip(), token):
        return True
    return any(_is_session(value, token) for value in _cookies(headers.getlist("cookie")))


def same(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def new_session(token: str) -> str:
    """Value of the session cookie: a timestamp signed with the token (HMAC-SHA256)."""
    return signer(token).sign("session").decode()


def _is_session(value: str, token: str) -> bool:
    try:
        signer(token).unsign(value, max_age=SESSION_SECONDS)
    except BadData:
        return False
    return True


def signer(token: str) -> TimestampSigner:
    """Signs sessions; sessions of another token are invalid."""
    return TimestampSigner(token, salt="clusterpaths session", digest_method=hashlib.sha256)


def _cookies(lines: Iterable[str]) -> list[str]:
    """Values of the session cookie; cookies of other servers on this machine may be malformed, as cookies ignore ports."""
    pairs = (part.strip().partition("=") for line in lines for part in line.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]
