"""The map page of a set with a hundred layers: what is not on the screen is neither loaded nor drawn."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from clusterpaths.explore.index import SetIndex
from clusterpaths.sets.published import open_set
from tests.generated_set import generate, write_random_maps
from tests.server.conftest import misfits, violations
from tests.serving import serving

N, COUNT = 400, 100
LAYERS: dict[str, tuple[int, ...]] = {f"block.{i}": (4,) for i in range(COUNT)}
LAST = f"block.{COUNT - 1}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = generate(tmp_path_factory.mktemp("hundred"), n=N, layers=LAYERS, model="Hundred", attributes=3)
    write_random_maps(made, LAYERS)
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder.parent.parent) as found:
        yield found


class Visit:
    """A page, and what it has asked for: `points`, `cluster` and `distance` by layer, and the other columns."""

    def __init__(self, browser: Any, address: str, query: str = "") -> None:
        self.asked: Counter[str] = Counter()
        self.context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.open = 0
        self.page.on("request", self._note)
        for event in ("requestfinished", "requestfailed"):
            self.page.on(event, self._end)
        self.page.goto(f"/explore/Hundred/set_01/map{query}")
        self.page.locator("#map[data-state=ready]").wait_for(timeout=30_000)
        self.rest()

    def _note(self, request: Any) -> None:
        self.open += 1
        parts = urlsplit(request.url)
        if "/map/" in parts.path:
            asked = parse_qs(parts.query)
            self.asked["points:" + asked["layer"][0] if "layer" in asked else asked["name"][0]] += 1

    def _end(self, _: Any) -> None:
        self.open -= 1

    def rest(self) -> None:
        """Until nothing has been asked for and drawn for three tenths of a second."""
        quiet, deadline = 0, time.monotonic() + 30
        while quiet < 3 and time.monotonic() < deadline:
            before = sum(self.asked.values())
            self.page.wait_for_timeout(100)
            self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            quiet = quiet + 1 if (self.open, sum(self.asked.values())) == (0, before) else 0

    def of(self, kind: str) -> set[str]:
        return {name.partition(":")[2] for name in self.asked if name.startswith(f"{kind}:")}

    def scroll_to(self, locator: Any) -> None:
        locator.scroll_into_view_if_needed()
        self.rest()


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Any]:
    visits: list[Visit] = []

    def start(query: str = "") -> Visit:
        visits.append(Visit(chromium, address, query))
        return visits[-1]

    yield start
    for one in visits:
        assert one.problems == []
        one.context.close()


def drawn(page: Any) -> set[str]:
    """Layers whose small map has a point."""
    return set(
        page.evaluate(
            """() => [...document.querySelectorAll("#map-layers button")].filter((one) => {
              const canvas = one.querySelector("canvas");
              return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
            }).map((one) => one.dataset.layer)"""
        )
    )


def test_only_what_is_on_the_screen_is_asked_for(visit: Any) -> None:
    one = visit()
    page = one.page
    first = set(one.asked)
    assert one.of("points") >= {LAST}
    assert len(one.of("points")) < 20
    assert one.of("cluster") == one.of("distance") == set()
    assert drawn(page) == one.of("points") - {LAST}

    one.scroll_to(page.locator("#map-layers button").nth(50))
    seen = one.of("points") - {LAST}
    assert "block.50" in seen
    assert len(seen) < 60
    assert drawn(page) == seen
    for at in range(0, COUNT, 5):
        one.scroll_to(page.locator("#map-layers button").nth(at))
    assert one.of("points") == set(LAYERS) == drawn(page)

    one.scroll_to(page.get_by_role("group", name="Distance in block.40"))
    assert "block.40" in one.of("distance")
    assert len(one.of("distance")) < 80
    one.scroll_to(page.locator("#map-flow"))
    routes = one.of("cluster")
    one.scroll_to(page.locator("#map-paths"))
    assert one.of("cluster") == set(LAYERS), "the paths have the clusters of all layers"
    assert page.locator("#map-paths .chip").count() % COUNT == 0
    assert routes <= set(LAYERS)
    assert set(one.asked.values()) == {1}, "nothing is asked for twice"
    assert first < set(one.asked)


def test_what_is_scrolled_to_shows_the_selection_of_before(visit: Any, folder: Path) -> None:
    index = SetIndex(open_set(folder))
    one = visit("?cluster=block.3%3A1&cluster=block.3%3A2")
    page = one.page
    expected = np.isin(index.clusters[:, 3], [1, 2])
    assert int(page.locator("#map-count").inner_text()) == expected.sum()
    assert one.of("cluster") == {"block.3"}, "the selection needs it"
    one.scroll_to(page.locator("#map-flow"))
    for cluster in range(5):
        own = int((index.clusters[expected, 0] == cluster).sum())
        words = page.locator(f'[data-cluster="block.0:{cluster}"]').get_attribute("aria-label")
        assert f": {own} of {index.sizes[0][cluster]} examples" in words
    assert page.locator(f'[data-cluster="{LAST}:0"]').count() == 0
    page.locator("#map-flow").evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
    block = page.locator(f'[data-cluster="{LAST}:0"]')
    block.wait_for()
    one.rest()
    both = expected & (index.clusters[:, -1] == 0)
    assert f": {both.sum()} of {index.sizes[-1][0]} examples" in block.get_attribute("aria-label")
    block.click()
    assert int(page.locator("#map-count").inner_text()) == both.sum()


def test_a_filter_needs_no_histogram(visit: Any, folder: Path) -> None:
    index = SetIndex(open_set(folder))
    assert index.distances is not None
    one = visit()
    field = one.page.get_by_role("textbox", name="Distance in block.70 to")
    field.evaluate("(one) => { one.value = '0.2'; one.dispatchEvent(new Event('change')); }")
    one.rest()
    assert int(one.page.locator("#map-count").inner_text()) == (index.distances[:, 70] <= np.float32(0.2)).sum()
    assert one.of("distance") == {"block.70"}


def test_a_hundred_layers_fit_and_axe_finds_nothing(visit: Any) -> None:
    page = visit("?right=wrong").page
    assert misfits(page) == []
    assert violations(page) == []
