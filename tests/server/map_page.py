"""What tests of the map's page do in a browser, and what they compare it with."""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tests.server.conftest import Site


def count(page: Any) -> int:
    """How many examples the page says are selected."""
    return int(page.locator("#map-count").inner_text().replace(",", ""))


def asked(page: Any) -> list[tuple[str, str]]:
    """The selection in the page's address, once it is written."""
    page.wait_for_timeout(400)
    return parse_qsl(page.url.partition("?")[2])


def total(site: Site, pairs: list[tuple[str, str]]) -> int:
    """How many examples the API finds for a selection."""
    own = [pair for pair in pairs if pair[0] not in ("layer", "colour")]
    place = f"{site.url}/api/v1/models/{site.model}/sets/{site.set}/examples?limit=1&{urlencode(own)}"
    with urllib.request.urlopen(place) as answer:
        return int(json.load(answer)["total"])


def lasso(page: Any) -> None:
    """Draw around the middle of the large map."""
    canvas = page.locator("#map-canvas")
    canvas.scroll_into_view_if_needed()
    page.get_by_role("button", name="Lasso").click()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 150, y - 150)
    page.mouse.down()
    for dx, dy in ((150, -140), (160, 150), (-140, 160)):
        page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()
