"""The map page while something is on its way: Back, a lasso, the link to the content; and what it says afterwards."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from clusterpaths.common.text import times
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.ranges import MOST_REGIONS
from clusterpaths.sets.published import open_set
from tests.generated_set import generate, write_random_maps
from tests.server.conftest import Site
from tests.server.map_page import asked, count, lasso, total
from tests.serving import serving

Open = Callable[..., Any]
LAYER = "fc2"  # the last one is shown first
SQUARE = "conv1:-1e6,-1e6;1e6,-1e6;1e6,1e6;-1e6,1e6"  # all examples are within it


@pytest.fixture(scope="module")
def index(site: Site) -> SetIndex:
    return SetIndex(open_set(site.root / site.model / site.set))


@pytest.fixture
def open_map(open_page: Open, site: Site) -> Open:
    def start(query: str = "", state: str = "ready", routes: dict[str, Any] | None = None) -> Any:
        page = open_page("/")
        for place, route in (routes or {}).items():
            page.route(place, route)
        page.goto(f"{site.overview}/map{query}")
        page.locator(f"#map[data-state={state}]").wait_for()
        page.evaluate("window.since = 'the first visit'")
        return page

    return start


class Held(list[Any]):
    """Requests that wait for `release`."""

    def __call__(self, route: Any) -> None:
        self.append(route)

    def release(self) -> None:
        for route in self:
            route.continue_()


def ready(page: Any) -> None:
    page.locator("#map[data-state=ready]").wait_for()


def field(page: Any) -> Any:
    return page.get_by_role("textbox", name="Distance in conv1 from")


def test_back_undoes_a_filter_that_is_still_on_its_way(open_map: Open, site: Site) -> None:
    page = open_map("?layer=conv1")
    page.locator("#map-layer").select_option(LAYER)
    assert asked(page) == []
    points, distances = Held(), Held()
    page.route("**/map/points?layer=conv1*", points)
    page.route("**/map/columns?name=distance%3Aconv1*", distances)
    page.reload()
    ready(page)
    field(page).fill("0.5")
    field(page).press("Enter")  # waits for its column
    page.go_back()
    page.wait_for_timeout(200)
    distances.release()
    page.wait_for_timeout(300)
    points.release()
    page.locator("#map-caption", has_text="conv1").wait_for()
    assert asked(page) == [("layer", "conv1")]
    assert (page.locator("#map-layer").input_value(), count(page)) == ("conv1", site.n)
    assert page.locator("#map-chips li").count() == 0
    assert field(page).input_value() == ""
    page.go_forward()
    page.locator("#map-caption", has_text=LAYER).wait_for()
    assert asked(page) == [], "Forward is not lost"


def test_a_layer_that_is_chosen_while_back_is_under_way_is_shown_and_in_the_address(open_map: Open, site: Site) -> None:
    page = open_map("?right=wrong&layer=conv1")
    wrong = count(page)
    page.locator("#map-layer").select_option(LAYER)
    page.get_by_role("button", name="Clear selection").click()
    assert asked(page) == []
    points = Held()
    page.route("**/map/points?layer=conv1*", points)
    page.reload()
    ready(page)
    page.evaluate("history.go(-2)")
    page.wait_for_timeout(200)
    page.locator("#map-layer").select_option("conv2")
    page.locator("#map-caption", has_text="conv2").wait_for()
    points.release()
    assert asked(page) == [("right", "wrong"), ("layer", "conv2")]
    assert (page.locator("#map-layer").input_value(), count(page)) == ("conv2", wrong)
    page.reload()
    ready(page)
    assert count(page) == wrong


def test_back_restores_the_selection_although_a_layer_cannot_be_read(open_map: Open, site: Site) -> None:
    page = open_map("?right=wrong&layer=conv1")
    wrong = count(page)
    assert 0 < wrong < site.n
    page.locator("#map-layer").select_option(LAYER)
    assert asked(page) == [("right", "wrong")]
    page.get_by_role("button", name="Clear selection").click()
    assert asked(page) == []
    page.route("**/map/points?layer=conv1*", lambda route: route.fulfill(status=500, body=""))
    page.reload()
    ready(page)
    page.evaluate("history.go(-2)")
    page.locator("#map-problem:not([hidden])").wait_for()
    assert asked(page) == [("right", "wrong")], "the address of what is shown"
    assert (page.locator("#map-layer").input_value(), count(page)) == (LAYER, wrong)
    page.seen.problems = [one for one in page.seen.problems if "500" not in one]


def test_after_back_the_words_that_are_off_the_screen_are_right(open_map: Open, index: SetIndex) -> None:
    page = open_map()
    page.locator("#map-flow").scroll_into_view_if_needed()
    block = page.locator(f'[data-cluster="{LAYER}:0"]')
    block.wait_for()
    size = int(index.sizes[-1][0])
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    page.evaluate("document.querySelector(`[data-cluster='fc2:0']`).dispatchEvent(new Event('click'))")
    page.wait_for_timeout(200)
    assert block.get_attribute("aria-pressed") == "true"
    other = page.locator(f'[data-cluster="{LAYER}:1"]')
    assert ": 0 of" in other.get_attribute("aria-label")
    page.go_back()
    page.wait_for_timeout(300)
    assert block.get_attribute("aria-pressed") == "false"
    assert f": {size} of {size} examples" in block.get_attribute("aria-label")
    second = int(index.sizes[-1][1])
    assert f": {second} of {second} examples" in other.get_attribute("aria-label")
    assert page.locator("#map-canvas").get_attribute("aria-label").startswith(f"Map of {LAYER}: {len(index)} of")


def test_skipping_to_the_content_loads_nothing_again(open_map: Open, site: Site) -> None:
    scores = Held()
    page = open_map("?right=wrong", "drawn", {"**/map/columns?name=ood*": scores})
    link = page.get_by_role("link", name="Skip to content")
    link.focus()
    link.press("Enter")
    page.wait_for_timeout(300)
    scores.release()
    ready(page)
    assert page.evaluate("window.since") == "the first visit"
    assert 0 < count(page) < site.n
    page.locator("#map-side .map-entry").first.click()
    selected = count(page)
    link.focus()
    link.press("Enter")
    assert [name for name, _ in asked(page)] == ["prediction", "right"]
    assert count(page) == selected


def test_a_lasso_while_the_page_loads_is_added_to_the_selection_of_its_address(open_map: Open, site: Site) -> None:
    points = Held()
    page = open_map(f"?right=wrong&within={SQUARE}", "drawn", {"**/map/points?layer=conv1*": points})
    lasso(page)
    page.wait_for_timeout(200)
    points.release()
    ready(page)
    pairs = asked(page)
    assert [name for name, _ in pairs] == ["right", "within", "within"]
    assert [value.partition(":")[0] for _, value in pairs[1:]] == ["conv1", LAYER]
    assert count(page) == total(site, pairs) < site.n
    assert page.locator("#map-over polygon").count() == 1


def test_the_map_is_there_without_the_names_of_clusters(open_map: Open, site: Site) -> None:
    failing = {"**/sets/*/names": lambda route: route.fulfill(status=500, body="")}
    page = open_map("?right=wrong&colour=cluster", routes=failing)
    assert page.locator("#map-problem").inner_text() == "The server answered 500."
    assert 0 < count(page) < site.n
    page.locator("#map-side .map-entry", has_text="cluster 0").click()
    assert [name for name, _ in asked(page)] == ["right", "cluster", "colour"]
    assert page.locator("#map-problem").is_hidden()
    page.seen.problems = [one for one in page.seen.problems if "500" not in one]


def test_a_region_more_than_the_server_takes_is_refused(open_map: Open, site: Site) -> None:
    def one(route: Any) -> None:
        answer = route.fetch()
        before = f'"regions": {MOST_REGIONS}'
        assert before in answer.text()
        route.fulfill(response=answer, body=answer.text().replace(before, '"regions": 1'))

    page = open_map(f"?within={SQUARE}", routes={"**/map?within=*": one})
    lasso(page)
    page.locator("#map-problem:not([hidden])").wait_for()
    assert page.locator("#map-problem").inner_text().startswith("At most 1 layer")
    assert asked(page) == [("within", SQUARE)]
    assert count(page) == site.n
    page.locator("#map-layer").select_option("conv1")
    page.get_by_role("button", name="Select what is shown").click()
    assert [name for name, _ in asked(page)] == ["within", "layer"], "in place of the region of the same layer"
    assert page.locator("#map-problem").is_hidden()


def test_fields_follow_back_and_are_no_longer_invalid(open_map: Open, site: Site) -> None:
    page = open_map()
    start = field(page)
    start.fill("0.5")
    start.press("Enter")
    page.locator("#map-chips li").wait_for()
    assert len(asked(page)) == 1
    page.go_back()
    assert asked(page) == []
    assert (start.input_value(), count(page)) == ("", site.n)
    start.fill("abc")
    start.press("Tab")
    assert (start.input_value(), start.get_attribute("aria-invalid")) == ("abc", "true")
    page.locator("#map-side .map-entry").first.click()
    page.wait_for_timeout(200)
    assert (start.input_value(), start.get_attribute("aria-invalid")) == ("", None)
    start.focus()
    page.keyboard.type("0.")
    page.evaluate("document.querySelector('#map-side .map-entry').click()")
    page.wait_for_timeout(200)
    assert start.input_value() == "0.", "being typed"


def test_all_blocks_have_names_before_their_column_is_on_the_screen(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/map", width=390)
    ready(page)
    page.locator("#map-flow").scroll_into_view_if_needed()
    page.locator('[data-cluster="conv1:0"]').wait_for()
    page.wait_for_timeout(300)
    blocks = page.locator("#map-flow .block")
    assert 0 < blocks.count() < site.k * len(site.layers), "some columns are not near the screen"
    for block in blocks.all():
        assert "examples selected" in (block.get_attribute("aria-label") or ""), block.get_attribute("data-cluster")
        assert block.get_attribute("aria-pressed") == "false"


def test_the_card_that_is_shown_has_the_selection_in_its_link(open_map: Open) -> None:
    page = open_map()
    page.locator("#map-canvas").focus()
    page.keyboard.press("+")
    card = page.locator("#map-tip:not([hidden])")
    card.wait_for()
    own = card.locator("p", has_text="prediction").inner_text().removeprefix("prediction").strip()
    entries = page.locator("#map-side fieldset").first.locator(".map-entry")
    mine = entries.filter(has_text=own)
    other = entries.filter(has_not_text=own).first
    choose = "(one) => one.click()"  # a pointer on its way to it would hide the card
    mine.evaluate(choose)
    page.wait_for_timeout(300)
    assert card.locator("a").get_attribute("href").endswith(f"?in=ask&{urlencode({'prediction': own})}")
    other.evaluate(choose)
    page.wait_for_timeout(300)
    assert card.locator("a").get_attribute("href").count("&prediction=") == 2
    mine.evaluate(choose)
    page.wait_for_timeout(300)
    assert card.count() == 0, "the example is not selected"


def test_a_selection_of_known_labels_says_what_it_is_compared_with(chromium: Any, tmp_path: Path) -> None:
    layers: dict[str, tuple[int, ...]] = {"early": (8,), "late": (4,)}
    folder = generate(tmp_path, n=3000, layers=layers, labelled=0.3, model="Few")
    write_random_maps(folder, layers)
    with serving(tmp_path) as address:
        page = chromium.new_page(base_url=address)
        api = f"{address}/api/v1/models/Few/sets/set_01/summary"
        for query, known in (("right=wrong", True), ("split=test", False)):
            with urllib.request.urlopen(f"{api}?{query}") as answer:
                found = json.load(answer)
            page.goto(f"/explore/Few/set_01/map?{query}")
            ready(page)
            page.locator("#common-title").scroll_into_view_if_needed()
            box = page.locator("#map-common:not([aria-busy])")
            box.locator("p").first.wait_for()
            others = f"the {found['compared']:,} others that have a label" if known else "the rest of the set"
            assert (found["compared"] + found["total"] < 3000) == known
            assert others in box.inner_text()
            page.goto(f"/explore/Few/set_01/ask?{query}")
            for caption in page.locator("#lifts caption, #clusters caption").all_text_contents():
                assert caption.endswith(f" in this selection and in {others}")
        page.close()


def test_pictures_and_the_summary_are_asked_for_when_they_are_on_the_screen(open_map: Open) -> None:
    page = open_map("?right=wrong")
    requests: list[str] = []
    page.on("request", lambda one: requests.append(one.url))

    def made() -> tuple[int, int]:
        page.wait_for_timeout(500)
        found = (sum("/summary?" in one for one in requests), sum("/image?" in one for one in requests))
        requests.clear()
        return found

    assert made() == (0, 0)
    entries = page.locator("#map-side fieldset").first.locator(".map-entry")
    numbers = entries.locator(".num").all_inner_texts()
    entry = entries.nth(next(at for at, number in enumerate(numbers) if number != "0"))
    entry.click()
    assert made() == (0, 0)
    page.locator("#some-title").scroll_into_view_if_needed()
    page.locator("#map-some li").first.wait_for()
    page.locator("#map-common:not([aria-busy])").wait_for()
    summaries, pictures = made()
    assert (summaries, pictures) == (1, min(count(page), 12))
    page.set_viewport_size({"width": 1300, "height": 900})  # all is drawn again
    page.locator("#some-title").scroll_into_view_if_needed()
    assert made() == (0, 0), "they are about this selection"
    entry.evaluate("(one) => one.click()")
    page.locator("#map-common:not([aria-busy])").wait_for()
    assert made()[0] == 1


def test_lifts_are_written_as_on_all_pages(open_map: Open) -> None:
    page = open_map()
    draw = np.random.default_rng(0)
    lifts = [0, 0.5, 1, 1.25, 1.75, 9.75, 9.94, 9.95, 10.5, 11.5, 999.5, 1000.5, 1234, 1 / 1234, 0.8, 1 / 10.5]
    lifts += [float(one) for one in np.exp(draw.uniform(-9, 9, 500))]
    script = "async (all) => { const { times } = await import('/static/map_panel.js'); return all.map(times); }"
    assert page.evaluate(script, [None, *lifts]) == [times(one) for one in (None, *lifts)]
