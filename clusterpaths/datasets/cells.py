"""What the text of a cell means: a number, a missing value, yes or no.

Belongs here: texts as spreadsheets and pandas write them. Which columns a file has is up to its reader.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
_MISSING = {"", "nan", "na", "n/a", "<na>", "none", "null"}
_WORDS = {"true": 1, "yes": 1, "t": 1, "y": 1, "false": -1, "no": -1, "f": -1, "n": -1}
_ONES = (1, 0, -1)


def is_number(text: str) -> bool:
    """Whether it is a decimal number, such as 3, -1 or 11.0."""
    return _NUMBER.fullmatch(text) is not None


def is_missing(text: str) -> bool:
    """Whether it stands for no value: nothing, or what pandas writes for it."""
    return text.lower() in _MISSING


def as_numbers(texts: Sequence[str]) -> list[float | None] | None:
    """The numbers of a column, None where one is missing; None where the column holds anything else, or no number."""
    missing = [is_missing(text) for text in texts]
    if all(missing) or not all(gone or is_number(text) for gone, text in zip(missing, texts, strict=True)):
        return None
    return [None if gone else float(text) for gone, text in zip(missing, texts, strict=True)]


def number_text(value: float) -> str:
    """11.0 is "11", 0.5 is "0.5"."""
    return str(int(value)) if value.is_integer() else str(value)


def as_attribute(texts: Sequence[str]) -> list[int] | None:
    """An attribute's column as 1, -1, and 0 where it is not known; None where it holds anything else.

    Codings: 1 and -1, with 0 for unknown, as CelebA has it; without any -1, 1 and 0, so that 0 means no; true and false or yes
    and no, in any case. A missing value is unknown in each.
    """
    if numbers := as_numbers(texts):
        return as_signs(numbers)
    found = [0 if is_missing(text) else _WORDS.get(text.lower()) for text in texts]
    known = [value for value in found if value is not None]
    return known if len(known) == len(found) and any(known) else None


def as_signs(numbers: Sequence[float | None]) -> list[int] | None:
    """As `as_attribute`, of numbers."""
    given = set(numbers) - {None}
    if not given <= set(_ONES):
        return None
    zero = 0 if -1 in given else -1
    return [0 if value is None else int(value) or zero for value in numbers]
