"""Names and addresses from external sources: what can be written, what was probably meant, and what must not be shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*@")


def without_credentials(text: str) -> str:
    """A text without the user and the password of each address in it: http://USER:PASSWORD@host becomes http://host."""
    return _CREDENTIALS.sub("", text)


def is_utf8(name: str) -> bool:
    """Whether a name can be written as UTF-8 in tables, reports and addresses: names of files or from JSON may contain
    lone surrogates.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Nearest: A, B." (at most three, ignoring letter case), or "" where nothing is near."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=3)
    return f" Nearest: {', '.join(folded[match] for match in near)}." if near else ""


def times(lift: float | None) -> str:
    """A lift in words: ×3.1, ×1/29, ×0, ×1,200; None: absent outside."""
    if not lift:
        return "only here" if lift is None else "×0"
    value = lift if lift >= 1 else 1 / lift
    shown = f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"×{shown}" if lift >= 1 or shown == "1" else f"×1/{shown}"
