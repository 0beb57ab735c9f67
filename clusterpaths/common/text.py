"""Checks of names of files, layers and models from external sources."""

from __future__ import annotations


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8 in tables, reports and addresses: names of files or from JSON may contain
    lone surrogates.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
