"""The map page's history in a real Chromium: Back and Forward, links that are followed at once, the keyboard's focus."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest

from clusterpaths.explore.index import SetIndex
from clusterpaths.sets.published import open_set
from tests.server.conftest import Site
from tests.server.map_page import lasso

Open = Callable[..., Any]
LAYER = "fc2"


@pytest.fixture(scope="module")
def index(site: Site) -> SetIndex:
    return SetIndex(open_set(site.root / site.model / site.set))


@pytest.fixture
def open_map(open_page: Open, site: Site) -> Open:
    def start(query: str = "") -> Any:
        page = open_page(f"{site.overview}/map{query}")
        page.locator("#map[data-state=ready]").wait_for()
        page.evaluate("window.since = 'the first visit'")
        return page

    return start


def count(page: Any) -> int:
    return int(page.locator("#map-count").inner_text().replace(",", ""))


def asked(page: Any) -> list[tuple[str, str]]:
    return parse_qsl(page.url.partition("?")[2])


def entries(page: Any) -> int:
    return int(page.evaluate("history.length"))


def state(page: Any) -> tuple[Any, ...]:
    """All that follows the selection, as a visitor sees it."""
    page.wait_for_timeout(300)
    return (
        count(page),
        asked(page),
        page.locator("#map-chips li").all_inner_texts(),
        page.locator("#map-side .map-entry .num").all_inner_texts(),
        page.locator("#map-side [aria-pressed=true]").all_inner_texts(),
        page.locator("#map-over polygon").count(),
        page.locator("#map-layer").input_value(),
        page.locator("#map-colour").input_value(),
        page.locator("#map-ask").get_attribute("href"),
        page.evaluate("document.querySelector('#map-canvas').toDataURL()"),
    )


def test_back_undoes_a_lasso_and_a_class_without_a_reload(open_map: Open, index: SetIndex, site: Site) -> None:
    page = open_map()
    seen = [state(page)]
    lasso(page)
    seen.append(state(page))
    classes = page.locator("#map-side fieldset").first.locator(".map-entry")
    there = [at for at, number in enumerate(classes.locator(".num").all_inner_texts()) if number != "0"]
    for at in there[:2]:
        classes.nth(at).click()
        seen.append(state(page))
    page.locator("#map-colour").select_option("cluster")
    page.locator("#map-layer").select_option("conv1")
    seen.append(state(page))
    counts = [one[0] for one in seen]
    assert counts[0] == site.n > counts[1] >= counts[3] > counts[2] > 0
    for expected in (3, 2, 1, 0):
        page.go_back()
        assert state(page) == seen[expected], f"Back to {expected}: colours and layer in a row are one entry"
    for expected in (1, 2, 3, 4):
        page.go_forward()
        assert state(page) == seen[expected], f"Forward to {expected}"
    page.go_back()
    page.get_by_role("button", name="Clear selection").click()
    assert state(page)[:2] == (site.n, [])
    page.go_back()
    assert state(page) == seen[3]
    assert page.evaluate("window.since") == "the first visit", "nothing was loaded again"


def test_a_brush_is_one_entry_once_it_is_finished(open_map: Open, site: Site) -> None:
    page = open_map()
    status = page.locator("#map-status")
    canvas = page.locator("#map-canvas")
    before, spoken, named = entries(page), status.inner_text(), canvas.get_attribute("aria-label")
    chart = page.get_by_role("group", name="OOD score").locator("svg")
    chart.scroll_into_view_if_needed()
    chart.locator("path.all[d]").wait_for(state="attached")  # loaded once it is on the screen
    box = chart.bounding_box()
    y = box["y"] + 20
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    counts = set()
    for step in range(8):
        page.mouse.move(box["x"] + (0.4 + 0.04 * step) * box["width"], y)
        page.wait_for_timeout(60)
        counts.add(count(page))
        assert (entries(page), asked(page), status.inner_text()) == (before, [], spoken)
        assert canvas.get_attribute("aria-label") == named
    assert len(counts) > 3, "the views follow each step"
    page.mouse.up()
    page.wait_for_timeout(100)
    assert entries(page) == before + 1
    assert [name for name, _ in asked(page)] == ["ood"]
    assert status.inner_text().startswith(f"{count(page):,} of {site.n:,} examples")
    assert canvas.get_attribute("aria-label") == f"Map of {LAYER}: {count(page):,} of {site.n:,} examples selected"
    page.go_back()
    page.wait_for_timeout(200)
    assert (count(page), asked(page)) == (site.n, [])
    page.mouse.click(box["x"] + 5, y)  # removes a brush; there is none
    page.wait_for_timeout(100)
    assert asked(page) == []
    page.go_forward()
    page.wait_for_timeout(200)
    assert [name for name, _ in asked(page)] == ["ood"], "a click that changes nothing is no entry"


def test_a_link_that_is_followed_at_once_loses_nothing(open_map: Open, index: SetIndex) -> None:
    page = open_map()
    page.locator("#map-side .map-entry").first.evaluate(
        "(one) => { one.click(); setTimeout(() => document.querySelector('#map-ask').click(), 1); }"
    )
    page.wait_for_url(re.compile(r"/ask\?prediction="))
    page.go_back()
    page.locator("#map[data-state=ready]").wait_for()
    assert [name for name, _ in asked(page)] == ["prediction"]
    assert count(page) == int(np.bincount(index.predictions).max())


def test_two_clusters_of_a_layer_select_both(open_map: Open, index: SetIndex) -> None:
    page = open_map("?colour=cluster")
    page.locator("#map-flow").scroll_into_view_if_needed()
    for cluster in (0, 2):
        page.locator(f'[data-cluster="{LAYER}:{cluster}"]').click()
    assert count(page) == index.sizes[-1][0] + index.sizes[-1][2]
    page.locator('[data-cluster="conv1:1"]').click()
    both = np.isin(index.clusters[:, -1], [0, 2]) & (index.clusters[:, 0] == 1)
    assert count(page) == both.sum()
    page.locator(f'[data-cluster="{LAYER}:0"]').click()
    assert count(page) == ((index.clusters[:, -1] == 2) & (index.clusters[:, 0] == 1)).sum()
    page.go_back()
    page.wait_for_timeout(200)
    assert count(page) == both.sum()


def test_the_focus_stays_where_a_filter_is_removed(open_map: Open) -> None:
    page = open_map("?right=wrong&split=train&ood=-5..")
    label = "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    removing = page.get_by_role("button", name=re.compile("^without the filter (split|prediction is|OOD score -5)"))
    assert removing.count() == 3
    removing.nth(1).focus()
    for expected in ("without the filter OOD score -5 or more", "without the filter split train"):
        page.keyboard.press("Enter")
        page.wait_for_timeout(100)
        assert page.evaluate(label) == expected
    page.get_by_role("button", name="Clear selection").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert page.evaluate("document.activeElement.id") == "map-canvas"
