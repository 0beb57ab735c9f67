"""What of an expected error may be sent to a client: its HTTP status, and a text that names no file of this machine.

Belongs here: the status of each exception, and which messages may be sent. Messages of the library name files; such a message is
logged, and a general one is sent. The HTTP API, the pages and the assistant's tools answer with these texts.
"""

from __future__ import annotations

import logging
import re
import secrets

from clusterpaths.errors import (
    CacheError,
    ClusterPathsError,
    ConfigError,
    DatasetError,
    EditConflictError,
    InputError,
    ModelError,
    NotFoundError,
    RefusedImageError,
)

LOGGER = logging.getLogger("clusterpaths.server")  # the server's, whose level `clusterpaths serve` sets
_LONGEST = 300
# An absolute POSIX or Windows path with two or more parts, or one below the home directory
_FILE = re.compile(r"(?:(?<![\w.<:/])(?:~|\.\.?)?/[^\s/'\"]+/|[A-Za-z]:\\|\\\\)[^\s'\"]")
_STATUS: tuple[tuple[type[ClusterPathsError], int], ...] = (  # the first that fits
    (NotFoundError, 404),
    (RefusedImageError, 422),
    (ConfigError, 422),
    (EditConflictError, 409),
    (ModelError, 409),
    (DatasetError, 409),
    (CacheError, 503),
    (InputError, 503),
)
_GENERAL = {
    404: "not found",
    409: "the set's model or images have been moved or changed since the set was made",
    413: "the image is too large",
    415: "not an image of a supported format",
    422: "invalid request",
    503: "the set cannot be read: it is corrupted or being replaced; try again, or publish it again",
}


def names_file(text: str) -> bool:
    """Whether a message contains a path of this machine."""
    return _FILE.search(text) is not None


def describe(error: ClusterPathsError) -> tuple[int, str]:
    """Status and text of an expected error; details that the text omits are logged."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    if isinstance(error, RefusedImageError):
        status = error.status
    text = str(error)
    if status == 503 or names_file(text):
        number = reference()
        LOGGER.log(logging.INFO if status == 404 else logging.WARNING, "[%s] %s", number, printable(text))
        return status, f"{_GENERAL[status]} (details in the server's log, reference {number})"
    return status, text


def printable(text: str) -> str:
    """Escapes control characters, quotes and line breaks; at most 300 characters."""
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return "".join(c if c.isprintable() and c not in '\\"' else c.encode("unicode_escape").decode() for c in cut)


def reference() -> str:
    """By which an answer is found in the log."""
    return secrets.token_hex(4)
