"""Overview, cluster, path and example in a real Chromium: what a visitor does, at two widths, light and dark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.conftest import Site, violations

LOOKS = [(1440, "light", True), (1440, "dark", False), (390, "light", False), (390, "dark", True)]


def sankey(page: Any) -> Any:
    """The blocks that plotly drew, once all can be reached by keyboard."""
    page.wait_for_selector(".routes.live .sankey-node[data-href]")
    return page.locator(".routes .sankey-node")


@pytest.mark.parametrize(("width", "scheme", "with_axe"), LOOKS)
def test_every_page_is_accessible_and_as_wide_as_the_screen(
    open_page: Any, site: Site, width: int, scheme: str, with_axe: bool
) -> None:
    page = open_page(site.overview, width, scheme)
    sankey(page)
    path = page.locator(".paths .count a").first.get_attribute("href")
    found: dict[str, Any] = {}
    for address in (
        site.overview,
        f"{site.overview}/paths",
        f"{site.overview}/clusters/fc1/0",
        path,
        f"{site.overview}/examples/3",
        f"/explore/{site.foreign}",
        f"/explore/{site.foreign}/examples/4",
    ):
        page.goto(address)
        if address in (site.overview, f"/explore/{site.foreign}"):
            sankey(page)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        found[address] = (violations(page) if with_axe else [], max(wide, 0))
    assert found == dict.fromkeys(found, ([], 0))


def test_a_block_of_the_routes_leads_to_its_cluster_and_a_band_to_its_examples(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    blocks = sankey(page)
    assert blocks.count() == sum(1 for _ in site.layers) * site.k
    href = blocks.nth(7).get_attribute("data-href")
    blocks.nth(7).locator(".node-rect").click()
    page.wait_for_url(f"**{href}")
    assert re.fullmatch(r"conv\d, cluster \d", page.locator("h1").inner_text().split(" ", 1)[1].strip())
    page.go_back()
    sankey(page)
    page.locator(".sankey-link").first.dispatch_event("click")
    page.wait_for_url("**/ask?cluster=*")
    assert "cluster=conv1:0&cluster=conv2:" in page.url


def test_a_block_can_be_opened_from_the_keyboard(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    blocks = sankey(page)
    for key, place in (("Enter", 3), ("Space", 12)):
        href = blocks.nth(place).get_attribute("data-href")
        assert blocks.nth(place).get_attribute("role") == "link"
        assert "examples" in str(blocks.nth(place).get_attribute("aria-label"))
        blocks.nth(place).focus()
        page.keyboard.press(key)
        page.wait_for_url(f"**{href}")
        page.go_back()
        blocks = sankey(page)


def test_the_routes_follow_the_theme_and_the_width(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    sankey(page)
    layer = page.locator(".routes .annotation-text").first
    before = layer.evaluate("node => getComputedStyle(node).fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('.annotation-text')).fill !== before", arg=before
    )
    page.set_viewport_size({"width": 900, "height": 900})
    page.wait_for_function("() => document.querySelector('.routes .main-svg').clientWidth < 900")


def test_without_plotly_the_figure_of_the_server_stays(open_page: Any, site: Site) -> None:
    page = open_page("/")
    page.route("**/plotly.min.js*", lambda route: route.abort())
    page.goto(site.overview)
    page.wait_for_timeout(300)
    page.seen.problems = [one for one in page.seen.problems if "plotly.min.js" not in one and "ERR_FAILED" not in one]
    figure = page.locator("svg.overview")
    assert figure.is_visible()
    figure.locator("a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/clusters/conv1/*")


def test_a_walk_from_path_to_example_and_back(open_page: Any, site: Site) -> None:
    page = open_page(f"{site.overview}/paths")
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**/paths?page=2")
    second = page.locator(".paths .count a").first
    href = second.get_attribute("href")
    second.click()
    page.wait_for_url(f"**{href}")
    assert page.locator(".wall img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator(".wall a").first.click()
    page.wait_for_url("**/examples/*")
    shown = page.locator("h1").inner_text()
    page.reload()
    assert page.locator("h1").inner_text() == shown
    page.go_back()
    page.wait_for_url(f"**{href}")
    page.go_back()
    page.wait_for_url("**/paths?page=2")
    page.go_forward()
    page.wait_for_url(f"**{href}")


def test_the_list_of_sets_opens_another_one_and_closes_with_escape(open_page: Any, site: Site) -> None:
    page = open_page(site.overview, 390)
    menu = page.locator("details.switch")
    menu.locator("summary").click()
    assert menu.locator(".menu").is_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert not menu.locator(".menu").is_visible()
    menu.locator("summary").click()
    menu.get_by_role("link", name=site.other).click()
    page.wait_for_url(f"**/{site.model}/{site.other}")


def test_the_first_tab_skips_to_the_content(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
