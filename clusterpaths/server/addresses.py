"""Addresses of this server: pages, sets, images and selections of examples.

Belongs here: building and parsing addresses, without lookups. `SetView` has those of clusters and paths.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from clusterpaths.explore.records import SetSummary


def is_page(path: str) -> bool:
    """Whether the address is a page, not the API."""
    return path in ("/", "/compare") or path.startswith("/explore")


def local_address(given: str) -> str:
    """Target after the login: an address of this server, else the start page."""
    plain = given.isascii() and given.isprintable() and "\\" not in given
    return given if plain and given.startswith("/") and not given.startswith("//") else "/"


@lru_cache(4096)
def encoded(name: str) -> str:
    """A name as one segment of an address."""
    return quote(name, safe="")


def set_url(summary: SetSummary) -> str:
    """The overview of a set."""
    return f"/explore/{encoded(summary.model)}/{encoded(summary.set)}"


def api_url(summary: SetSummary) -> str:
    """A set in /api/v1."""
    return f"/api/v1/models/{encoded(summary.model)}/sets/{encoded(summary.set)}"


def names_url(summary: SetSummary) -> str:
    """The names of a set in /api/v1."""
    return f"{api_url(summary)}/names"


def image_url(summary: SetSummary, example: int, size: int = 160) -> str:
    """An example's image, its longer side `size` pixels; the version lets browsers cache it for an hour."""
    return f"{api_url(summary)}/examples/{example}/image?size={size}&v={encoded(summary.version)}"


def monitoring_url(summary: SetSummary, series: str = "", page: int = 1) -> str:
    """The series of a set, or the time line of one of them."""
    return (
        f"{set_url(summary)}/monitoring"
        + (f"/{encoded(series)}" if series else "")
        + (f"?page={page}" if page > 1 else "")
    )


def window_url(summary: SetSummary, series: str, number: int) -> str:
    """One window of a series."""
    return f"{monitoring_url(summary, series)}/{number}"


def picture_url(summary: SetSummary, series: str, number: int, picture: str) -> str:
    """A picture of a window."""
    return f"{api_url(summary)}/monitoring/{encoded(series)}/windows/{number}/pictures/{encoded(picture)}"


def query_of(pairs: Iterable[tuple[str, str]]) -> str:
    """Fields of a `Question` as the query of an address, ? included; empty where there are none."""
    query = "&".join(_field(name, value) for name, value in pairs)
    return f"?{query}" if query else ""


@lru_cache(4096)  # a page with a thousand ids has them in dozens of addresses
def _field(name: str, value: str) -> str:
    return f"{name}={quote(value, safe=':-*,')}"


def pairs_of(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each field; several values of a field become several pairs."""
    several = ((name, value if isinstance(value, tuple | list) else (value,)) for name, value in fields.items())
    return [(name, str(one)) for name, values in several for one in values]
