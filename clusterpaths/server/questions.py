"""A selection of examples in an address: from the query to a `Question` and back, and in words.

Belongs here: the fields of addresses and of the form of the ask page. `explore/records.py` defines a `Question`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from clusterpaths.errors import ConfigError
from clusterpaths.explore.ask import NONE
from clusterpaths.explore.records import Question
from clusterpaths.server.api.v1 import MANY, refusal

ORDERS = {
    "id": "by id",
    "rare": "rare paths first",
    "common": "common paths first",
    "near": "nearest to their centroids first",
    "far": "farthest from their centroids first",
    "strange": "highest OOD score first",
    "unsure": "lowest confidence first",
}
NO_FILTER = ("id", "order", "page")  # ids are one filter together
LISTED_IDS = 5
ONE = ("right", "path", "ood", "confidence", "order")
_ENDS = ("ood", "confidence", "distance")  # ranges: two fields of the form each
FORM = ("step", "page", "distance.layer", *(f"{name}.{end}" for name in _ENDS for end in ("low", "high")))

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Filter:
    """One filter in words; `pairs`: the fields that it is, all ids at once."""

    name: str
    value: str
    pairs: tuple[tuple[str, str], ...]


def filters_of(pairs: Pairs) -> tuple[Filter, ...]:
    """The filters of a query, in words; the order and the page are none."""
    found = [Filter(word_of(*pair), value_in_words(*pair), (pair,)) for pair in pairs if pair[0] not in NO_FILTER]
    if ids := tuple(pair for pair in pairs if pair[0] == "id"):
        listed = ", ".join(value for _, value in ids[:LISTED_IDS])
        more = f" and {len(ids) - LISTED_IDS:,} more" if len(ids) > LISTED_IDS else ""
        found.append(Filter("id" if len(ids) == 1 else "ids", listed + more, ids))
    return tuple(found)


def without(pairs: Pairs, one: Filter) -> Pairs:
    """The query without this filter."""
    taken = set(one.pairs)
    return [pair for pair in pairs if pair not in taken]


def tidy(given: Pairs, layers: Sequence[str]) -> Pairs:
    """The same query without empty, repeated and default fields, and with clusters per layer as a path.

    Raises:
        ConfigError: an unknown field, a repeated field, or too many.
    """
    unknown = [name for name, _ in given if name not in (*MANY, *ONE, *FORM)]
    if unknown:
        raise ConfigError(
            f"Unknown parameter {unknown[0]!r}. Expected one of {', '.join((*MANY, *ONE, 'page'))}; remove it."
        )
    pairs: Pairs = []
    for name, value in given:
        values = value.replace(",", " ").split() if name == "id" else [value]
        if name != "step":
            pairs += [(name, one) for one in values if one and (name, one) not in (("order", "id"), ("page", "1"))]
    steps = [value for name, value in given if name == "step"]
    if steps:
        clusters = [step.split(",") if step else [] for step in steps]  # 3,5 in one field: 3 or 5
        lead = next((i for i, step in enumerate(clusters) if len(step) != 1), len(clusters))
        pairs = [(name, value) for name, value in pairs if name not in ("path", "cluster")]
        pairs += [("path", "-".join(steps[:lead]))] if lead else []
        pairs += [
            ("cluster", f"{layers[i]}:{one}")
            for i in range(lead, min(len(clusters), len(layers)))
            for one in clusters[i]
        ]
    pairs = _with_ranges(pairs)
    order = {name: place for place, name in enumerate((*Question.model_fields, "page"))}
    pairs = sorted(dict.fromkeys(pairs), key=lambda pair: order[pair[0]])
    if wrong := refusal(pairs):
        raise ConfigError(wrong)
    return pairs


def _with_ranges(pairs: Pairs) -> Pairs:
    """The fields of the form for both ends of a range as one."""
    form = {name: value for name, value in pairs if name in FORM}
    pairs = [(name, value) for name, value in pairs if name not in FORM or name == "page"]
    for name in _ENDS:
        low, high = form.get(f"{name}.low", ""), form.get(f"{name}.high", "")
        if low or high:
            layer = f"{form.get('distance.layer', '')}:" if name == "distance" else ""
            pairs = [*(pair for pair in pairs if pair[0] != name or name in MANY), (name, f"{layer}{low}..{high}")]
    return pairs


def question_of(pairs: Pairs) -> tuple[Question, int]:
    """The query, and the page, from 1.

    Raises:
        ConfigError: an invalid field.
    """
    fields: dict[str, Any] = {name: [v for n, v in pairs if n == name] for name in MANY}
    fields |= {name: value for name, value in pairs if name in ONE}
    pages = [value for name, value in pairs if name == "page"]
    if pages and not re.fullmatch("0{0,9}[1-9][0-9]{0,7}", pages[0]):
        raise ConfigError(f"There is no page {pages[0][:80]!r}. Expected a number from 1 on.")
    try:
        return Question.model_validate(fields), int(pages[0]) if pages else 1
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        expected = {"right": "right or wrong", "order": ", ".join(ORDERS), "id": "integers, such as 16"}
        name = str(first["loc"][0])
        what = f"Expected {expected[name]}" if name in expected else first["msg"].removeprefix("Value error, ")
        given = first["input"]
        value = str(given[0] if isinstance(given, list) and len(given) == 1 else given)
        raise ConfigError(f"{name} is {value[:80]!r}. {what}.") from error


def word_of(name: str, value: str) -> str:
    """The name of a filter, before its value."""
    if name == "attribute":
        return "without" if value.startswith("-") else "with"
    words = {"right": "prediction is", "ood": "OOD score", "distance": "distance in", "within": "region of the map of"}
    return words.get(name, name)


def shown_range(text: str) -> str:
    """LOW..HIGH in words."""
    low, _, high = text.partition("..")
    return f"{low} to {high}" if low and high else f"{low} or more" if low else f"{high} or less"


def value_in_words(name: str, value: str) -> str:
    """The value of a filter."""
    if name == "attribute":
        return value.removeprefix("-").replace("_", " ")
    if name == "label" and value == NONE:
        return "missing"
    if name == "right":
        return {"right": "correct", "wrong": "incorrect"}.get(value, value)
    if name in ("ood", "confidence"):
        return shown_range(value)
    if name in ("distance", "within"):
        layer, _, rest = value.rpartition(":")
        return f"{layer}: {shown_range(rest)}" if name == "distance" else f"{layer}, {rest.count(',')} corners"
    return value.rpartition(":")[0] + " " + value.rpartition(":")[2] if name == "cluster" else value
