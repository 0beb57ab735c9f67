"""Monitoring in a real Chromium: two widths, light and dark, by keyboard and by pointer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Site, misfits, violations
from tests.server.watched import DRIFTED, EMPTY, LAST, LEFT_OUT, QUIET, SERIES

PAGES = "/explore/SampleFaces/set_01/monitoring"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark"), (2560, "dark")])
def test_every_page_is_accessible_and_fits(open_page: Any, site: Site, width: int, scheme: str) -> None:
    page = open_page(PAGES, width, scheme)
    found = {page.url: [*violations(page), *misfits(page)]}
    for address in (
        f"{PAGES}/{SERIES}",
        *(f"{PAGES}/{SERIES}/{number}" for number in (QUIET, EMPTY, LEFT_OUT, DRIFTED)),
        f"/explore/{site.model}/{site.other}/monitoring",
        f"/explore/{site.foreign}/monitoring",
    ):
        page.goto(address)
        found[address] = [*violations(page), *misfits(page)]
    assert {address: problems for address, problems in found.items() if problems} == {}


def test_arrow_keys_lead_to_the_neighbours_of_a_window_but_scroll_a_table(open_page: Any) -> None:
    page = open_page(f"{PAGES}/{SERIES}/{DRIFTED}")
    assert page.locator(".walk .keys").is_visible()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/{SERIES}/{LEFT_OUT}")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/{SERIES}/{DRIFTED}")
    page.keyboard.press("Shift+ArrowRight")
    page.locator("#tests .tablebox").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert page.url.endswith(f"/{SERIES}/{DRIFTED}")
    page.goto(f"{PAGES}/{SERIES}/{LAST}")
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    assert page.url.endswith(f"/{SERIES}/{LAST}"), "there is none after the last one"


def test_a_walk_from_the_overview_to_a_cluster_that_grew(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    page.get_by_role("link", name="Monitoring").click()
    page.wait_for_url(f"**{PAGES}")
    page.get_by_role("link", name=SERIES, exact=True).click()
    page.wait_for_url(f"**{PAGES}/{SERIES}")
    page.locator("#windows tbody").get_by_role("link", name=str(DRIFTED), exact=True).press("Enter")
    page.wait_for_url(f"**{PAGES}/{SERIES}/{DRIFTED}")
    picture = page.locator("img[src*='/pictures/']").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 90
    example = page.locator(".sides a.thumb img").first
    assert example.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator(".grown h3 > a").first.click()
    page.wait_for_url("**/clusters/*/0")


def test_a_column_of_the_charts_opens_its_window(open_page: Any) -> None:
    page = open_page(f"{PAGES}/{SERIES}")
    column = page.locator(".chart").first.locator(f"a[href$='/{DRIFTED}'] .hit")
    assert "drifted from fc1 on" in page.locator(f".chart a[href$='/{DRIFTED}'] title").first.text_content()
    column.click()
    page.wait_for_url(f"**{PAGES}/{SERIES}/{DRIFTED}")


def test_on_a_phone_the_charts_begin_at_the_newest_window(open_page: Any) -> None:
    page = open_page(f"{PAGES}/{SERIES}", 390)
    page.set_viewport_size({"width": 250, "height": 800})
    box, last = (page.locator(place).first.bounding_box() for place in (".charts", f".chart a[href$='/{LAST}'] .hit"))
    assert last["x"] >= box["x"]
    assert last["x"] + last["width"] <= box["x"] + box["width"]


def test_without_javascript_everything_is_there(chromium: Any, site: Site) -> None:
    context = chromium.new_context(base_url=site.url, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{PAGES}/{SERIES}/{DRIFTED}")
    assert not page.locator(".walk .keys").is_visible()
    page.get_by_role("link", name="Next").click()
    page.wait_for_url(f"**/{SERIES}/{LAST}")
    context.close()
