"""Examples opened from a list keep their place in it: over HTTP, and with the keys in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from clusterpaths.explore.ask import select
from clusterpaths.server.answers import ONE_AT_A_TIME
from tests.server.conftest import Site, misfits, violations


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def ids_of(client: httpx.Client, site: Site, query: str) -> list[int]:
    api = f"/api/v1/models/{site.model}/sets/{site.set}/examples?limit=1000&{query}"
    return [one["id"] for one in client.get(api).json()["examples"]]


def links(html: str, which: str) -> list[str]:
    """Addresses of examples on a page that have a list."""
    return [link.replace("&amp;", "&") for link in dict.fromkeys(re.findall(rf'href="([^"]*{which}[^"]*)"', html))]


def neighbour(html: str, rel: str) -> str:
    found = re.search(rf'href="([^"]*)" rel="{rel}"', html)
    return found[1].replace("&amp;", "&") if found else ""


@pytest.mark.parametrize("query", ["right=wrong", "path=1&order=strange", "order=unsure", "split=train&order=rare", ""])
def test_next_goes_through_the_list_as_it_is_ordered_and_back(client: httpx.Client, site: Site, query: str) -> None:
    expected = ids_of(client, site, query)[:40]
    first = client.get(f"{site.overview}/ask{'?' if query else ''}{query}")
    address = links(first.text, r"/examples/\d+\?in=ask")[0]
    seen, back = [], ""
    while address and len(seen) < len(expected):
        page = client.get(address)
        assert page.status_code == 200
        seen.append(int(re.search(r"/examples/(\d+)", address)[1]))  # type: ignore[index]
        assert f"<strong>{len(seen):,} of " in page.text
        back = links(page.text[page.text.index('class="place"') :], "/ask")[0]
        address = neighbour(page.text, "next")
    assert seen == expected
    assert client.get(back).status_code == 200
    assert f"/examples/{seen[-1]}?in=ask" in client.get(back).text, "back to the list's page that has it"
    assert ("page=2" in back) == (len(seen) > 36)


def test_a_path_s_list_leads_back_to_the_path(client: httpx.Client, site: Site) -> None:
    path = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/paths?limit=1").json()["paths"][0]["path"]
    text = "-".join(map(str, path))
    page = client.get(f"{site.overview}/paths/{text}").text
    shown = links(page, r"/examples/\d+\?in=path")
    inside = client.get(shown[1]).text
    assert f"<strong>2 of {len(ids_of(client, site, f'path={text}'))}</strong>" in inside
    assert neighbour(inside, "prev") == shown[0]
    assert neighbour(inside, "next") == shown[2]
    assert f'href="{site.overview}/paths/{text}#examples"' in inside


def test_likely_label_errors_are_a_list_too(client: httpx.Client, site: Site) -> None:
    shown = links(client.get(f"{site.overview}/find/label-errors").text, r"/examples/\d+\?in=label-errors")
    assert shown
    first = client.get(shown[0]).text
    assert "<strong>1 of " in first
    assert "likely label errors" in first
    assert neighbour(first, "next") == (shown[1] if len(shown) > 1 else "")
    assert f'href="{site.overview}/find/label-errors"' in first
    assert client.get(f"{shown[0]}&right=wrong").status_code == 422


def test_pages_about_an_example_lead_back_to_its_place_in_the_list(client: httpx.Client, site: Site) -> None:
    query = "?in=ask&right=wrong&order=rare"
    own = links(client.get(f"{site.overview}/ask?right=wrong&order=rare").text, r"/examples/\d+\?in=ask")[0]
    page = client.get(own).text
    [slide] = set(links(page, r"/examples/\d+/alike"))
    assert slide.endswith(f"/alike{query}")
    alike = client.get(slide).text
    assert own in links(alike, r"/examples/\d+\?in=ask")
    depths = links(alike, r"/examples/\d+/alike")
    assert len(depths) == len(site.layers)
    assert all(link.endswith(query.replace("?", "&")) for link in depths[1:])
    for name, value in (("in", "ask"), ("right", "wrong"), ("order", "rare")):
        assert f'<input type="hidden" name="{name}" value="{value}">' in alike
    assert client.get(depths[1]).status_code == 200
    hidden = f'<input type="hidden" name="list" value="{escape(query)}">'
    assert hidden in page
    number = int(re.findall(r"\d+", own.partition("?")[0])[-1])
    back = client.post(f"{site.overview}/image", data={"example": str(number), "list": query})
    assert back.status_code == 200
    assert own in links(back.text, r"/examples/\d+\?in=ask")
    assert [link.partition("?")[2] for link in links(back.text, r"/examples/\d+/alike")] == [query.removeprefix("?")]
    for wrong, status in (("?in=nowhere", 422), ("?in=ask&colour=red", 422), ("?in=ask&prediction=Unicorn", 404)):
        assert client.get(f"{site.overview}/examples/{number}/alike{wrong}").status_code == status
        assert client.post(f"{site.overview}/image", data={"example": str(number), "list": wrong}).status_code == status
    assert client.get(f"{site.overview}/examples/{number}/alike?depth=0.5").status_code == 200


def test_an_explanation_that_fails_leads_back_to_the_example_and_its_list(
    client: httpx.Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise HTTPException(503, "Too many images at a time.")

    monkeypatch.setattr("clusterpaths.server.pages.image.explain_own", busy)
    query = "?in=ask&right=wrong&order=rare"
    own = links(client.get(f"{site.overview}/ask?right=wrong&order=rare").text, r"/examples/\d+\?in=ask")[0]
    number = int(re.findall(r"\d+", own.partition("?")[0])[-1])
    failed = client.post(f"{site.overview}/image", data={"example": str(number), "list": query})
    assert failed.status_code == 503
    assert own in links(failed.text, r"/examples/\d+\?in=ask")
    again = failed.text.partition("data-problem>")[2].partition("</form>")[0]
    assert "Try again" in again
    assert f'name="example" value="{number}"' in again
    assert f'name="list" value="{escape(query)}"' in again
    nobody = client.post(f"{site.overview}/image", data={"example": "999999", "list": query})
    assert nobody.status_code == 404
    assert "/examples/999999" not in nobody.text


def test_a_list_longer_than_an_address_is_refused_before_it_is_read(client: httpx.Client, site: Site) -> None:
    given = {"example": "7", "list": "?in=ask&" + "split=train&" * 6_000}
    answer = client.post(f"{site.overview}/image", data=given)
    assert answer.status_code == 422
    assert "has 72,008 characters. Expected at most 65,536" in answer.text


def test_the_list_of_a_cluster_is_of_one(client: httpx.Client, site: Site) -> None:
    answer = client.get(f"{site.overview}/examples/7?in=cluster&cluster=conv2:1&cluster=conv2:2")
    assert answer.status_code == 422
    assert "The list cluster has the clusters conv2:1, conv2:2. Expected one." in answer.text


def test_an_example_s_list_is_selected_once_and_by_no_thread_that_holds_the_lock(
    client: httpx.Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def observed(*given: Any) -> Any:
        held.append(ONE_AT_A_TIME._is_owned())  # type: ignore[attr-defined]
        return select(*given)

    monkeypatch.setattr("clusterpaths.server.pages.lists.select", observed)
    assert client.get(f"{site.overview}/examples/7?in=ask&order=rare&split=train").status_code == 200
    assert held == [False]


def test_a_cluster_s_exemplars_lead_back_to_the_cluster(client: httpx.Client, site: Site) -> None:
    page = client.get(f"{site.overview}/clusters/conv2/1").text
    nearest, farthest = (
        links(page, rf"/examples/\d+\?in=cluster&amp;cluster=conv2:1&amp;order={order}") for order in ("near", "far")
    )
    second = client.get(nearest[1]).text
    assert "<strong>2 of " in second
    assert neighbour(second, "prev") == nearest[0]
    assert f'href="{site.overview}/clusters/conv2/1#exemplars"' in second
    assert neighbour(client.get(farthest[0]).text, "next") == farthest[1]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        (
            "in=nowhere",
            422,
            "the list &#39;nowhere&#39;. Expected one parameter in, with one of ask, path,",
        ),
        ("right=wrong", 422, "has no list"),
        ("in=ask&in=path", 422, "Expected one parameter in"),
        ("in=ask&colour=red", 422, "Unknown parameter &#39;colour&#39;"),
        ("in=path&path=1", 404, "is no path of"),
        ("in=ask&ood=2..1", 422, "larger than the upper end"),
        ("in=ask&prediction=Unicorn", 404, "no prediction &#39;Unicorn&#39;"),
    ],
)
def test_a_list_that_is_none_is_told(client: httpx.Client, site: Site, query: str, status: int, words: str) -> None:
    page = client.get(f"{site.overview}/examples/3?{query}")
    assert page.status_code == status
    assert words in page.text


def test_an_example_that_is_not_in_the_list_says_so_and_leads_back(client: httpx.Client, site: Site) -> None:
    wrong = ids_of(client, site, "right=wrong")
    other = next(i for i in range(site.n) if i not in wrong)
    page = client.get(f"{site.overview}/examples/{other}?in=ask&right=wrong").text
    assert f"Not among the {len(wrong)}" in page
    assert not neighbour(page, "next")
    assert f'href="{site.overview}/ask?right=wrong"' in page


def test_the_keys_walk_through_the_list_but_not_while_typing(open_page: Any, site: Site) -> None:
    page = open_page(f"{site.overview}/ask?split=train&order=strange")
    page.locator(".found a.thumb").first.click()
    page.wait_for_url("**/examples/*")
    second = page.locator(".walk a[rel=next]").get_attribute("href")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**{second}")
    assert page.locator(".place strong").inner_text().startswith("2 of ")
    page.keyboard.press("Alt+ArrowRight")
    page.evaluate("document.querySelector('.site').insertAdjacentHTML('beforeend', '<input id=typing value=abc>')")
    page.focus("#typing")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(200)
    assert page.url.endswith(second), "the key moved the cursor"
    page.evaluate("document.querySelector('#typing').remove()")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.place strong').textContent.startsWith('1 of ')")
    page.get_by_role("link", name="Back to the list").click()
    page.wait_for_url(f"**{site.overview}/ask?split=train&order=strange")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_place_in_a_list_fits_and_is_accessible(open_page: Any, site: Site, width: int) -> None:
    page = open_page(
        f"{site.overview}/examples/3?in=ask&attribute=-Male&split=train&ood=-5..5&order=strange", width=width
    )
    assert misfits(page) == []
    assert violations(page) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_failed_explanation_fits_and_is_accessible(
    open_page: Any, site: Site, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise HTTPException(503, "Too many images at a time.")

    monkeypatch.setattr("clusterpaths.server.pages.image.explain_own", busy)
    page = open_page(f"{site.overview}/examples/3?in=ask&split=train", width=width)
    page.get_by_role("button", name="Run the model").click()
    page.get_by_role("button", name="Try again").wait_for()
    assert misfits(page) == []
    assert violations(page) == []
    assert all("503" in problem for problem in page.seen.problems)
    page.seen.problems.clear()
