"""Home, ask, compare, one image and errors in a real Chromium: what a visitor does, at two widths, light and dark."""

from __future__ import annotations

import base64
import io
import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.server.conftest import Site, misfits, violations
from tests.serving import serving

Open = Callable[..., Any]

DROP = """([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data }));
}"""
DRAG = """(kind) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(3)], "a.jpg", { type: "image/jpeg" }));
  document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


def drop(page: Any, name: str, content: bytes, kind: str = "image/jpeg") -> None:
    page.evaluate(DROP, [name, kind, base64.b64encode(content).decode()])


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 80), "#a06040").save(buffer, "JPEG")
    return buffer.getvalue()


def asked(site: Site, rest: str) -> Any:
    with urllib.request.urlopen(f"{site.url}/api/v1/models/{site.model}/sets/{site.set}/{rest}") as answer:
        return json.load(answer)


def total(site: Site, query: str) -> int:
    return int(asked(site, f"examples?limit=1&{query}")["total"])


def heading(page: Any) -> str:
    return str(page.locator("h1").inner_text())


def expect_complaint(page: Any, *parts: str) -> None:
    """Each of these was complained of, and is taken out: the page was meant to fail."""
    for part in parts:
        assert any(part in problem for problem in page.seen.problems), page.seen.problems
    page.seen.problems = [p for p in page.seen.problems if not any(part in p for part in parts)]


def test_filters_agree_with_the_api_and_can_be_shared_gone_back_from_and_taken_out(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/ask")
    assert heading(page).startswith(f"{site.n} examples")
    choices = asked(site, "choices")
    label, split, attribute = choices["labels"][0], choices["splits"][0], choices["attributes"][0]
    page.locator(f'input[name=label][value="{label}"]').check()
    page.locator(f'input[name=split][value="{split}"]').check()
    page.locator(f'select[name=attribute]:has(option[value="{attribute}"])').select_option(label="without")
    page.locator("select[name=step]").first.select_option("1")
    page.locator("select[name=order]").select_option("rare")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile(r"\?"))
    query = page.url.partition("?")[2]
    assert sorted(part.partition("=")[0] for part in query.split("&")) == [
        "attribute",
        "label",
        "order",
        "path",
        "split",
    ]
    found = total(site, query)
    assert heading(page).startswith(f"{found} example" if found else "No examples")

    again = open_page(f"{site.overview}/ask?{query}")
    assert heading(again) == heading(page)
    assert again.locator("main").inner_text() == page.locator("main").inner_text()

    page.get_by_role("link", name=f"without the filter split {split}").click()
    page.wait_for_url(lambda url: "split" not in url)
    assert heading(page).startswith(f"{total(site, page.url.partition('?')[2]):,} example")
    page.go_back()
    assert page.url.partition("?")[2] == query
    assert page.locator(f'input[name=split][value="{split}"]').is_checked()
    page.go_forward()
    assert not page.locator(f'input[name=split][value="{split}"]').is_checked()
    page.go_back()
    page.go_back()
    assert heading(page).startswith(f"{site.n} examples")
    assert page.locator("#filters input[type=checkbox]:checked").count() == 0, "the form says what the answer is of"
    page.locator(f'input[name=split][value="{split}"]').check()
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    assert page.locator("#filters input[type=checkbox]:checked").count() == 0, "nor is it kept with a page in memory"


def test_the_csv_of_a_selection_has_a_line_each(open_page: Open, site: Site, tmp_path: Path) -> None:
    page = open_page(f"{site.overview}/ask?path=1")
    with page.expect_download() as started:
        page.get_by_role("link", name="as CSV").click()
    started.value.save_as(tmp_path / "selection.csv")
    lines = (tmp_path / "selection.csv").read_text().strip().splitlines()
    assert len(lines) == total(site, "path=1") + 1


def test_nothing_found_offers_the_way_out(open_page: Open, site: Site) -> None:
    row = asked(site, "examples?limit=1")["examples"][0]
    page = open_page(f"{site.overview}/ask?path={(row['path'][0] + 1) % site.k}&id={row['id']}")
    assert page.get_by_role("heading", name="No matching examples").is_visible()
    page.get_by_role("link", name="without “path").click()
    page.wait_for_url(lambda url: "path" not in url)
    assert heading(page).startswith("1 example")


def test_a_phone_has_the_filters_in_a_fold_that_keys_open(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/ask", width=390)
    assert not page.locator("#filters").is_visible(), "it would hide the examples"
    page.goto(f"{site.overview}/ask?path=1")
    assert not page.locator("#filters").is_visible()
    page.locator("summary", has_text="Filters").focus()
    page.keyboard.press("Enter")
    assert page.locator("#filters").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "prediction"
    wide = open_page(f"{site.overview}/ask?path=1")
    assert wide.locator("#filters").is_visible()
    long = "name => { const box = document.querySelector('.box'); box.lastElementChild.textContent = name; "
    long += "return [box.firstElementChild.offsetWidth, box.lastElementChild.offsetHeight]; }"
    ticked, high = wide.evaluate(long, "averylongname" * 24)
    assert (ticked, high < 60) == (17, True), "a long name leaves the box its size and takes two lines"
    wide.locator("#filters input").first.focus()
    assert wide.evaluate("document.activeElement.name") == "prediction", "open beside the answer, and in reach of keys"


def test_two_sets_are_chosen_compared_and_swapped(open_page: Open, site: Site) -> None:
    page = open_page("/compare")
    page.get_by_label("Before").select_option(f"{site.model}/{site.set}")
    page.get_by_label("After").select_option(f"{site.model}/{site.other}")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url(re.compile("first=.*second="))
    assert heading(page).startswith(f"What changed from {site.model}/{site.set} to {site.other}")
    assert page.locator("#moved li .stop").count() > 0
    page.get_by_role("link", name="Swap").click()
    page.wait_for_url(re.compile(f"first={site.model}/{site.other}"))
    assert heading(page).startswith(f"What changed from {site.model}/{site.other} to {site.set}")
    page.locator(".matches a").first.click()
    page.wait_for_url(re.compile("/clusters/"))


def test_sets_of_other_images_are_refused_in_words(open_page: Open, site: Site) -> None:
    page = open_page(f"/compare?first={site.model}/{site.set}&second={site.foreign}")
    assert "another program made it" in page.get_by_role("alert").inner_text()
    expect_complaint(page, "422")


@pytest.mark.parametrize("start", ["/image", "/ask?path=1"])
def test_a_dropped_image_is_explained_in_place(open_page: Open, site: Site, start: str) -> None:
    page = open_page(f"{site.overview}{start}")
    drop(page, "mine.jpg", jpeg())
    page.locator("main h1", has_text="mine.jpg · Predicted: ").wait_for()
    assert page.url.endswith(f"{site.overview}/image")
    assert page.locator("#path .hop").count() == len(site.layers)
    assert page.evaluate("document.querySelector('img.dropped').naturalWidth") == 64
    assert page.evaluate("document.activeElement.tagName") == "H1", "the answer is read out"
    assert page.locator("#path .thumbs.eight").count() == len(site.layers)
    assert violations(page) == []
    if start != "/image":
        page.go_back()
        page.locator("#filters").wait_for()
        assert page.url.endswith(start)


def test_a_file_can_be_chosen_by_keyboard_and_another_after_it(open_page: Open, site: Site, tmp_path: Path) -> None:
    page = open_page(f"{site.overview}/image")
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(jpeg())
        page.get_by_label("Picture file").set_input_files(tmp_path / name)
        page.locator("main h1", has_text=f"{name} · Predicted: ").wait_for()


def test_dragging_over_any_page_of_a_set_shows_where_to_drop(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/ask")
    page.evaluate(DRAG, "dragenter")
    assert page.get_by_text("Drop the image").is_visible()
    page.evaluate(DRAG, "dragleave")
    assert not page.get_by_text("Drop the image").is_visible()


def test_a_dropped_text_is_refused_in_a_dialog_that_escape_closes(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/image")
    drop(page, "notes.txt", b"these are words, no picture", "text/plain")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="This is not an image").wait_for()
    assert "JPEG" in dialog.inner_text()
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    expect_complaint(page, "415")


def test_an_image_that_is_too_large_is_not_even_sent(open_page: Open, site: Site) -> None:
    page = open_page(f"{site.overview}/image")
    page.evaluate("document.querySelector('form[data-limit]').setAttribute('data-limit', '100')")
    drop(page, "large.jpg", jpeg())
    page.get_by_role("dialog").get_by_role("heading", name="This image is too large").wait_for()


def test_the_form_works_without_a_script(chromium: Any, site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(jpeg())
    context = chromium.new_context(base_url=site.url, java_script_enabled=False)
    context.set_default_timeout(30_000)
    try:
        page = context.new_page()
        page.goto(f"{site.overview}/image")
        page.get_by_label("Picture file").set_input_files(tmp_path / "mine.jpg")
        page.get_by_role("button", name="Explain").click()
        page.get_by_role("heading", name="mine.jpg · Predicted:").wait_for()
        page.goto(f"{site.overview}/ask")
        page.locator("select[name=step]").first.select_option("1")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url(re.compile(r"ask\?path=1$"))
    finally:
        context.close()


def test_an_unknown_address_leads_on(open_page: Open, site: Site) -> None:
    page = open_page("/explore/Nobody/set_01")
    page.get_by_role("link", name="All models and sets").click()
    page.wait_for_url(f"{site.url}/")
    assert page.get_by_role("heading", name=site.model).is_visible()
    expect_complaint(page, "404")


def test_nothing_there_and_a_token(chromium: Any, site: Site, tmp_path: Path) -> None:
    context = chromium.new_context()
    context.set_default_timeout(30_000)
    try:
        page = context.new_page()
        with serving(tmp_path) as url:
            page.goto(url)
            assert page.get_by_text("clusterpaths sample").is_visible()
            assert violations(page) == []
        token = "a-token-of-this-test"
        with serving(site.root, token=token) as url:
            page.goto(f"{url}{site.overview}/ask?path=1")
            assert violations(page) == []
            page.get_by_label("Token").fill("not this one, but long")
            page.keyboard.press("Enter")
            page.get_by_role("alert").wait_for()
            assert violations(page) == []
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.wait_for_url(f"{url}{site.overview}/ask?path=1")
    finally:
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_every_page_is_accessible_and_fits(open_page: Open, site: Site, width: int, scheme: str) -> None:
    pair = f"/compare?first={site.model}/{site.set}&second={site.model}/{site.other}"
    page = open_page("/", width=width, scheme=scheme)
    for path in (
        "/",
        f"{site.overview}/ask?path=1&split=train&order=strange",
        f"{site.overview}/ask?path=1&id=999999",
        f"/explore/{site.foreign}/ask",
        f"/explore/{site.foreign}/image",
        "/compare",
        pair,
        f"{site.overview}/image",
    ):
        page.goto(path)
        assert [*violations(page), *misfits(page)] == [], path
    page.goto("/explore/Nobody/set_01")
    assert violations(page) == []
    page.goto(f"{site.overview}/ask?prediction=Purple")
    assert violations(page) == []
    expect_complaint(page, "404")
