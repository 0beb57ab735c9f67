"""Renaming in a real browser: in place, by keyboard, with one's name remembered, and two people at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Site, misfits, violations
from tests.serving import serving

CLUSTER = "/explore/SampleFaces/set_01/clusters/fc2/1"


@pytest.fixture
def address(site: Site, tmp_path: Path) -> Iterator[str]:
    shutil.copytree(site.root, tmp_path / "cache")
    with serving(tmp_path / "cache", edit=True) as started:
        yield started


@pytest.fixture
def person(chromium: Any, address: str) -> Iterator[Any]:
    """person(javascript=True) -> a page of a browser of their own."""
    contexts = []

    def start(javascript: bool = True) -> Any:
        context = chromium.new_context(base_url=address, java_script_enabled=javascript)
        context.set_default_timeout(30_000)
        contexts.append(context)
        return context.new_page()

    yield start
    for context in contexts:
        context.close()


def test_a_cluster_is_renamed_in_place_by_keyboard_and_the_name_of_the_person_is_remembered(person: Any) -> None:
    page = person()
    page.goto(CLUSTER)
    page.locator(".rename summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("gray hair")
    page.keyboard.press("Tab")
    page.keyboard.type("mostly older men")
    page.keyboard.press("Tab")
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    page.wait_for_selector(".called strong:text-is('gray hair')")
    assert "by Ada" in page.text_content(".called")
    assert page.text_content("p.said") == "mostly older men"
    page.goto(CLUSTER.replace("/1", "/2"))
    assert page.input_value(".rename [name=by]") == "Ada"
    assert violations(page) == []


def test_the_second_of_two_people_sees_both_texts_and_keeps_their_own(person: Any) -> None:
    ada, bob = person(), person()
    for page, name in ((ada, "gray"), (bob, "silver")):
        page.goto(CLUSTER)
        page.click(".rename summary")
        page.fill(".rename [name=name]", name)
    ada.fill(".rename [name=by]", "Ada")
    ada.click(".rename button")
    ada.wait_for_selector(".called strong:text-is('gray')")
    bob.click(".rename button")
    bob.wait_for_selector(".rename [role=alert]:visible")
    assert "it is now 'gray', by Ada" in bob.text_content(".rename [role=alert]")
    assert bob.input_value(".rename [name=name]") == "silver"
    bob.click("text=Save mine instead")
    bob.wait_for_selector(".called strong:text-is('silver')")


def test_without_javascript_the_same_is_a_page(person: Any) -> None:
    ada, bob = person(javascript=False), person(javascript=False)
    for page, name in ((ada, "gray"), (bob, "silver")):
        page.goto(CLUSTER)
        page.click(".rename summary")
        page.fill(".rename [name=name]", name)
    ada.click(".rename button")
    assert ada.text_content(".called strong") == "gray"
    bob.click(".rename button")
    assert bob.text_content("h1") == "Somebody else changed this name"
    assert bob.input_value("[name=name]") == "silver"
    bob.set_viewport_size({"width": 390, "height": 800})
    assert misfits(bob) == []
    bob.click("text=Save mine instead")
    assert bob.text_content(".called strong") == "silver"


def test_a_server_that_is_gone_leaves_the_text(person: Any) -> None:
    page = person()
    page.goto(CLUSTER)
    page.click(".rename summary")
    page.fill(".rename [name=name]", "gray")
    page.context.set_offline(True)
    page.click(".rename button")
    page.wait_for_selector(".rename [role=alert]:visible")
    assert "Nothing was saved" in page.text_content(".rename [role=alert]")
    assert page.input_value(".rename [name=name]") == "gray"
