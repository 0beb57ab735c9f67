"""The examples alike to one: the page over HTTP, and its slider in a browser."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from clusterpaths.sets.maps import AXES, MAPS
from tests.server.conftest import Site, misfits, violations
from tests.serving import serving


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def shown(html: str) -> list[int]:
    wall = html.partition('class="thumbs wall noted"')[2].partition("</ul>")[0]
    return [int(one) for one in re.findall(r'/examples/(\d+)"', wall)]


@pytest.mark.parametrize("depth", ["0", "0.3", "1"])
def test_the_page_shows_what_the_api_answers(client: httpx.Client, site: Site, depth: str) -> None:
    page = client.get(f"{site.overview}/examples/7/alike?depth={depth}")
    api = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/examples/7/alike?depth={depth}&limit=36").json()
    assert page.status_code == 200
    assert shown(page.text) == [one["example"]["id"] for one in api["examples"]]
    assert len(api["examples"]) == 36
    assert [one["layer"] for one in api["layers"]] == {"0": ["conv1"], "0.3": ["conv2", "conv3"], "1": ["fc2"]}[depth]


def test_every_layer_has_a_link_that_works_without_script(client: httpx.Client, site: Site) -> None:
    page = client.get(f"{site.overview}/examples/7/alike").text
    stops = page.partition('id="stops"')[2].partition("</ol>")[0]
    links = re.findall(r'href="([^"]+)"', stops)
    assert len(links) == len(site.layers)
    for link, layer in zip(links, site.layers, strict=True):
        assert f"Nearest in {layer}<" in client.get(link).text


@pytest.mark.parametrize("depth", ["2", "-0.1", "nan", "deep"])
def test_a_depth_that_is_none_is_refused(client: httpx.Client, site: Site, depth: str) -> None:
    assert client.get(f"{site.overview}/examples/7/alike?depth={depth}").status_code == 422
    answer = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/examples/7/alike?depth={depth}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("depth: ")


def test_without_maps_there_is_a_sentence(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(site.root / site.model / site.set, root / site.model / site.set)
    (root / site.model / site.set / MAPS).unlink()
    with serving(root) as address, httpx.Client(base_url=address, timeout=30) as client:
        page = client.get(f"{site.overview}/examples/7/alike")
        assert page.status_code == 404
        assert "no maps of its layers" in page.text
        example = client.get(f"{site.overview}/examples/7").text
        assert "Most similar examples" in example
        assert "Slide from looks" not in example


def test_a_dropped_image_has_the_neighbours_of_the_example_that_it_is(client: httpx.Client, site: Site) -> None:
    api = f"/api/v1/models/{site.model}/sets/{site.set}"
    content = client.get(f"{api}/examples/7/image?size=0").content
    sent = io.BytesIO()
    Image.open(io.BytesIO(content)).save(sent, "PNG")
    found = client.post(f"{api}/explain", files={"image": ("seven.png", sent.getvalue(), "image/png")}).json()
    own = client.get(f"{api}/examples/7/explanation").json()
    for name in ("looks_alike", "decided_alike"):
        dropped, stored = ([one["id"] for one in each[name]] for each in (found, own))
        assert dropped[0] == 7, "nearest is the image itself"
        assert len(set(dropped[1:]) & set(stored)) >= 8, "compressed once more, it has nearly the same neighbours"


def test_without_the_axes_of_the_maps_an_image_is_explained_with_a_warning(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(site.root / site.model, root / site.model)
    (root / site.model / site.set / AXES).unlink()
    sent = io.BytesIO()
    Image.new("RGB", (64, 64), "#a06040").save(sent, "PNG")
    with serving(root) as address, httpx.Client(base_url=address, timeout=60) as client:
        api = f"/api/v1/models/{site.model}/sets/{site.set}/explain"
        found = client.post(api, files={"image": ("one.png", sent.getvalue(), "image/png")}).json()
    assert found["looks_alike"] == []
    assert any("the set's maps cannot be read" in warning for warning in found["warnings"])


def test_the_slider_shows_other_examples_while_it_moves(open_page: Any, site: Site) -> None:
    page = open_page(f"{site.overview}/examples/7/alike")
    before = page.locator("#nearest a.thumb").evaluate_all("all => all.map((one) => one.href)")
    assert page.locator("form.depth button").is_hidden()
    page.locator("#depth").focus()
    page.keyboard.press("End")
    page.wait_for_url("**/alike?depth=1")
    page.locator("#nearest-title", has_text="Nearest in fc2").wait_for()
    assert page.locator("#nearest a.thumb").evaluate_all("all => all.map((one) => one.href)") != before
    assert page.locator("#stops a[aria-current=page]").inner_text() == "fc2"
    page.keyboard.press("ArrowLeft")
    page.locator("#nearest-title", has_text="fc1 (5%) and fc2 (95%)").wait_for()
    page.reload()
    assert page.locator("#depth").input_value() == "0.9875"


def test_after_the_session_has_ended_the_slider_leads_to_the_login(chromium: Any, site: Site) -> None:
    with serving(site.root, token="a-token-of-a-test") as url:
        context = chromium.new_context(base_url=url, reduced_motion="reduce")
        page = context.new_page()
        page.goto(f"{site.overview}/examples/7/alike")
        page.get_by_label("Token").fill("a-token-of-a-test")
        page.get_by_role("button", name="Open").click()
        page.wait_for_url("**/alike")
        context.clear_cookies()
        page.locator("#depth").focus()
        page.keyboard.press("End")
        page.wait_for_url("**/login?next=*depth*")
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_and_is_accessible(open_page: Any, site: Site, width: int, scheme: str) -> None:
    page = open_page(f"{site.overview}/examples/7/alike?depth=0.6", width=width, scheme=scheme)
    assert misfits(page) == []
    assert violations(page) == []
