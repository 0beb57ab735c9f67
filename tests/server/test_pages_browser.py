"""Overview, cluster, path and example in a real Chromium: what a visitor does, at two widths, light and dark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.conftest import Site, misfits, violations


def sankey(page: Any) -> Any:
    """The blocks that plotly drew, once all can be reached by keyboard."""
    page.wait_for_selector(".routes.live .sankey-node[data-href]")
    return page.locator(".routes .sankey-node")


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(1440, "light"), (390, "dark"), (390, "light"), (1280, "dark"), (2560, "light"), (2560, "dark")],
)
def test_every_page_is_accessible_and_fits(open_page: Any, site: Site, width: int, scheme: str) -> None:
    page = open_page(f"{site.overview}/paths", width, scheme)
    path = page.locator(".paths .count a").first.get_attribute("href")
    found = {page.url: [*violations(page), *misfits(page)]}
    for address in (
        site.overview,
        f"{site.overview}/clusters/fc1/0",
        path,
        f"{site.overview}/examples/3",
        f"{site.overview}/ask?right=wrong",
        f"{site.overview}/image",
        f"{site.overview}/monitoring",
        "/",
        "/compare",
        f"/compare?first={site.model}/{site.set}&second={site.model}/{site.other}",
        f"/explore/{site.foreign}",
        f"/explore/{site.foreign}/examples/4",
    ):
        page.goto(address)
        if address == site.overview:
            sankey(page)
            assert page.locator(".sideways").is_visible() == (width < 700), "that there is more is said on a phone"
        found[address] = [*violations(page), *misfits(page)]
    assert {address: problems for address, problems in found.items() if problems} == {}


def test_blocks_and_bands_of_the_routes_lead_on_by_pointer_and_by_key(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    blocks = sankey(page)
    assert blocks.count() == len(site.layers) * site.k
    href = [blocks.nth(i).get_attribute("data-href") for i in range(blocks.count())]
    assert blocks.nth(3).get_attribute("role") == "link"
    assert "examples" in str(blocks.nth(3).get_attribute("aria-label"))
    stays = re.compile("/clusters/|/ask")
    page.route(stays, lambda route: route.fulfill(status=204))  # no content: the browser stays on this page
    for key, place in (("Enter", 3), ("Space", 12)):
        blocks.nth(place).focus()
        with page.expect_request(f"{site.url}{href[place]}"):
            page.keyboard.press(key)
    with page.expect_request(re.compile("/ask")) as asked:
        page.locator(".sankey-link").first.dispatch_event("click")
    assert "ask?cluster=conv1:0&cluster=conv2:" in asked.value.url
    with page.expect_request(f"{site.url}{href[7]}"):
        blocks.nth(7).locator(".node-rect").click()


def test_the_routes_follow_the_theme_and_the_width(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    sankey(page)
    said = page.locator(".routes .annotation-text").all_text_contents()
    classes = page.locator(".key .clamp").all_inner_texts()
    assert sum(any(name in text for name in classes) for text in said) >= site.k - 1, (
        "which clusters decide what is in words"
    )
    layer = page.locator(".routes .annotation-text").first
    before = layer.evaluate("node => getComputedStyle(node).fill")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('.annotation-text')).fill !== before", arg=before
    )
    page.set_viewport_size({"width": 900, "height": 900})
    page.wait_for_function("() => document.querySelector('.routes .main-svg').clientWidth < 900")


def test_colour_by_cluster_is_chosen_once_and_remembered(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    sankey(page)
    block = page.locator(".routes .sankey-node .node-rect")
    fills = "nodes => nodes.map(node => getComputedStyle(node).fill)"
    assert page.locator(".routes .plotly-box .pattern").count() == 0
    by_class = block.evaluate_all(fills)
    page.locator("#by-cluster").check()
    page.wait_for_selector(".routes .plotly-box .pattern")
    by_cluster = block.evaluate_all(fills)
    assert by_cluster != by_class
    assert len(set(by_cluster)) == site.k, "a colour for each number"
    assert page.locator("#routes .classes-key").is_hidden()
    page.goto(f"{site.overview}/clusters/fc1/1")
    assert page.locator("#by-cluster").is_checked()
    chips = page.locator("h1 .chip").evaluate("chip => [chip.className, getComputedStyle(chip).backgroundImage]")
    assert "g1 p1" in chips[0]
    assert "gradient" in chips[1], "a pattern beside the colour"
    assert violations(page) == []
    page.locator("#by-class").check()
    page.reload()
    assert page.locator("#by-class").is_checked()


def test_a_hint_is_shown_until_it_is_dismissed_and_nothing_moves(open_page: Any, site: Site) -> None:
    page = open_page(site.overview)
    page.evaluate("localStorage.clear()")
    shifts = """() => new Promise((done) => new PerformanceObserver((list, observer) => {
      observer.disconnect();
      done(list.getEntries().filter((shift) => shift.sources.some((one) => one.node?.closest?.("main > *"))).length);
    }).observe({ type: "layout-shift", buffered: true }))"""
    page.goto(f"{site.overview}/paths")
    hint = page.locator(".hint-once")
    assert hint.is_visible()
    assert hint.get_attribute("role") == "note"
    assert page.evaluate(f"Promise.race([({shifts})(), new Promise((done) => setTimeout(() => done(0), 500))])") == 0
    page.emulate_media(media="print")
    assert not hint.is_visible()
    page.emulate_media(media="screen")
    hint.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert not hint.is_visible()
    assert page.evaluate("document.activeElement.id") == "content", "the keyboard goes on from there"
    page.goto(f"{site.overview}/paths?page=2")
    assert not hint.is_visible()
    page.goto(f"{site.overview}/clusters/fc1/0")
    assert hint.is_visible(), "each view has its own"


def test_images_below_the_fold_are_there_when_the_page_is_printed(open_page: Any, site: Site) -> None:
    page = open_page(f"{site.overview}/clusters/fc1/0")
    assert page.evaluate("document.documentElement.scrollHeight > 2 * innerHeight")
    loaded = "() => [...document.images].filter((image) => image.complete && image.naturalWidth).length"
    assert page.evaluate(loaded) == page.locator("img").count() > 40


def test_without_plotly_the_figure_of_the_server_stays(open_page: Any, site: Site) -> None:
    page = open_page("/")
    page.route("**/plotly.min.js*", lambda route: route.abort())
    page.goto(site.overview)
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
    underlined = page.locator(".stop.differs").first.evaluate(
        "stop => [getComputedStyle(stop, '::after').height, stop.getBoundingClientRect().bottom"
        " <= stop.parentElement.getBoundingClientRect().bottom]"
    )
    assert underlined == ["4px", True], "the layer that differs is marked, and the mark is not cut off"
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
    page = open_page(f"{site.overview}/image", 390)
    menu = page.locator("details.switch")
    nav = page.locator("header.site nav")
    assert nav.evaluate("nav => nav.scrollWidth <= nav.clientWidth"), "nothing of it is cut off"
    menu.locator("summary").click()
    assert menu.locator(".menu").is_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert not menu.locator(".menu").is_visible()
    menu.locator("summary").click()
    menu.get_by_role("link", name=site.other).click()
    page.wait_for_url(f"**/{site.model}/{site.other}")


def test_the_first_tab_skips_to_the_content(open_page: Any, site: Site) -> None:
    page = open_page(f"{site.overview}/paths")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_an_image_that_failed_before_the_script_ran_is_a_hatched_tile(open_page: Any, site: Site) -> None:
    page = open_page("/compare")
    held: list[Any] = []
    page.route("**/page.js*", lambda route: held.append(route))
    page.route("**/image?*", lambda route: route.abort())
    page.goto(f"{site.overview}/clusters/fc1/0", wait_until="commit")
    page.wait_for_function(
        "() => { const one = document.querySelector('a.thumb img'); return one?.complete && one.currentSrc; }"
    )
    held[0].continue_()
    page.locator("a.thumb:first-child img.missing").first.wait_for(state="attached")
    page.seen.problems = [one for one in page.seen.problems if "ERR_FAILED" not in one]
