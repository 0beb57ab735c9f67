"""report.html and comparison.html in a real Chromium: contents, folding, printing, colours; offline, and without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterpaths.comparison.compare import compare_sets
from clusterpaths.report.comparison import write_comparison
from clusterpaths.report.page import write_report
from clusterpaths.sets.published import open_set
from tests.clusterpaths.report.test_comparison import two_sets
from tests.clusterpaths.report.test_map_picture import add_maps
from tests.clusterpaths.report.test_report import draw
from tests.server.conftest import misfits, violations


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of a report with maps and a comparison, and of the comparison."""
    first, second = two_sets(tmp_path_factory.mktemp("report"))
    add_maps(second)
    old, new = open_set(first), open_set(second)
    _, comparison = write_comparison(compare_sets(old, new), new, draw)
    report = write_report(new, draw)
    return {"report": Path(report).as_uri(), "comparison": Path(comparison).as_uri()}


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """Offline; fails if the page asks for anything or complains."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True, reduced_motion="reduce")
    one, problems = context.new_page(), []
    one.on("console", lambda message: problems.append(message.text))
    one.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    yield one
    context.close()
    assert problems == []


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light"), (2560, "dark")])
def test_it_is_accessible_and_fits(page: Any, written: dict[str, str], name: str, width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(written[name])
    assert [*violations(page), *misfits(page)] == []
    page.locator("#by-cluster").check()
    assert violations(page) == []


def test_the_contents_lead_to_every_section_and_mark_the_current_one(page: Any, written: dict[str, str]) -> None:
    page.goto(written["report"])
    targets = page.locator(".contents a").evaluate_all("links => links.map(link => link.hash)")
    assert all(page.locator(target).count() == 1 for target in targets)
    beside = "() => document.querySelector('.contents').offsetWidth <= document.querySelector('main').offsetLeft"
    assert page.evaluate(beside), "beside the sections, not above"
    page.locator('.contents a[href="#paths"]').click()
    marked = "() => [...document.querySelectorAll('.contents a')].filter(a => getComputedStyle(a).fontWeight === '600')"
    page.wait_for_function(f"() => ({marked})().map(a => a.hash).join() === '#paths'")
    assert page.locator(".contents").bounding_box()["y"] == 0, "it stays in sight"


def test_what_is_folded_opens_by_key_by_a_link_into_it_and_in_print(page: Any, written: dict[str, str]) -> None:
    page.goto(written["report"])
    folded = page.locator("#l0 .card").first
    assert not folded.is_visible()
    summary = page.locator("details:has(> #l0) > summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert folded.is_visible()
    page.keyboard.press("Enter")
    page.locator('.overview a[href="#l0c1"]').click()
    page.locator("#l0c1").wait_for()
    page.locator('.contents a[href="#made"]').click()
    page.locator("#made dl").first.wait_for()  # a link of the contents opens what is folded
    page.reload()
    page.goto(written["report"])
    glossary = page.locator("#words dl")
    assert not glossary.is_visible()
    page.emulate_media(media="print")
    assert glossary.evaluate("dl => dl.checkVisibility({contentVisibilityAuto: true}) && dl.offsetHeight > 100")
    assert not page.locator(".contents").is_visible()


def test_maps_follow_the_choice_of_colours(page: Any, written: dict[str, str]) -> None:
    page.goto(written["report"])
    assert page.locator(".classes-map").first.is_visible()
    page.locator("#by-cluster").check()
    assert not page.locator(".classes-map").first.is_visible()
    assert page.locator(".numbers-map").first.is_visible()
