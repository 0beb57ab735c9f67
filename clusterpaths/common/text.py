"""Names of files, layers and models, which come from elsewhere."""

from __future__ import annotations


def is_utf8(name: str) -> bool:
    """Whether a name can be written down, in tables, reports and addresses: a file's, or one of JSON, may hold half a
    character.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
