"""Data work over HTTP: the API's lists, their CSV and FiftyOne documents, and the pages in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.lift import lifts
from clusterpaths.find.find import _TOTALS, find
from clusterpaths.find.record import KINDS
from clusterpaths.server.answers import ONE_AT_A_TIME
from clusterpaths.server.app import AT_ONCE
from clusterpaths.server.pages.lists import FOUND
from clusterpaths.sets.published import open_set
from tests.clusterpaths.find.mapped import generated_mapped, small_mapped
from tests.server.conftest import Site, misfits, violations
from tests.serving import serving

OF_SMALL = "/api/v1/models/Small/sets/set_01/find"
PAGE = "/explore/Small/set_01/find"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small (with near duplicates), CelebA (with an under-covered region), and Foreign, all without images."""
    root = tmp_path_factory.mktemp("find")
    small_mapped(root, [1, 2, 2, 3, 4, 5, 6, 7])
    generated_mapped(root)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[httpx.Client]:
    with serving(root) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_the_api_answers_what_the_library_does(client: httpx.Client, root: Path, kind: str) -> None:
    for model in ("Small", "CelebA"):
        index = open_set(root / model / "set_01").index
        answer = client.get(f"/api/v1/models/{model}/sets/set_01/find/{kind}?limit=2")
        found = find(index, kind, limit=2).model_dump(mode="json")
        # names of a set depend on how it was opened only in versions, which are not part of the lists
        assert answer.json() == found
        assert len(answer.json()["entries"]) <= 2


def test_a_client_that_has_a_list_is_not_sent_it_again(client: httpx.Client) -> None:
    tag = client.get(f"{OF_SMALL}/near-duplicates").headers["etag"]
    assert client.get(f"{OF_SMALL}/near-duplicates", headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize(
    "address",
    [
        f"{OF_SMALL}/{{}}",
        f"{OF_SMALL}/{{}}.csv",
        f"{OF_SMALL}/{{}}/fiftyone",
        f"{PAGE}/{{}}",
        "/explore/Small/set_01/examples/10?in={}",
    ],
)
def test_other_addresses_answer_while_a_list_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """As many requests for it as there are threads; each waited in one of them."""
    small_mapped(tmp_path, [1, 2, 2, 3, 4, 5, 6, 7])
    kind, began, end = "near-duplicates", threading.Event(), threading.Event()
    compute = _TOTALS[kind]

    def slow(index: SetIndex) -> int:
        began.set()
        assert end.wait(60)
        return compute(index)

    monkeypatch.setitem(_TOTALS, kind, slow)
    with (
        serving(tmp_path) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        try:
            asked = [threads.submit(client.get, address.format(kind)) for _ in range(AT_ONCE)]
            assert began.wait(60)
            time.sleep(0.5)  # until all have come in
            assert client.get("/api/v1/models", timeout=10).status_code == 200
        finally:
            end.set()
        assert [one.result().status_code for one in asked] == [200] * AT_ONCE


def test_csv_and_fiftyone_are_complete_files(client: httpx.Client) -> None:
    answer = client.get(f"{OF_SMALL}/near-duplicates.csv")
    assert [row["id"] for row in csv.DictReader(io.StringIO(answer.text))] == ["10", "16", "11", "12"]
    assert answer.headers["content-disposition"].endswith("Small_set_01_near-duplicates.csv")
    document = client.get(f"{OF_SMALL}/near-duplicates/fiftyone")
    assert [sample["example"] for sample in document.json()["samples"]] == [10, 16, 11, 12]
    assert document.headers["content-disposition"].endswith("near-duplicates_fiftyone.json")


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        (f"{OF_SMALL}/errors", 422, "kind"),
        (f"{OF_SMALL}/label-errors?limit=0", 422, "limit"),
        (f"{OF_SMALL}/label-errors?page=2", 422, "page: unknown parameter"),
        (f"{OF_SMALL}/label-errors.csv?limit=2", 422, "limit: unknown parameter"),
        ("/api/v1/models/Small/sets/set_02/find/label-errors", 404, "no set 'set_02'"),
    ],
)
def test_bad_requests_are_refused(client: httpx.Client, address: str, status: int, said: str) -> None:
    answer = client.get(address)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


def test_a_set_that_lacks_what_a_list_needs_is_told_so(site: Site) -> None:
    foreign = "/api/v1/models/Foreign/sets/set_01/find/{}"
    with httpx.Client(base_url=site.url, timeout=30) as client:
        for kind, said in (
            ("label-errors", "has no labels"),
            ("near-duplicates", "neither maps"),
            ("under-covered", "maps"),
        ):
            answer = client.get(foreign.format(kind))
            assert (answer.status_code, said in answer.json()["detail"]) == (404, True)
            page = client.get(f"/explore/Foreign/set_01/find/{kind}")
            assert page.status_code == 200
            assert "Not for this set" in page.text
            assert said in page.text


def test_the_pages_list_what_the_api_does(client: httpx.Client) -> None:
    assert client.get(PAGE).headers["location"] == f"{PAGE}/label-errors"
    suspects = client.get(f"{OF_SMALL}/label-errors").json()
    page = client.get(f"{PAGE}/label-errors").text
    assert f"{suspects['total']} likely label error" in page
    for entry in suspects["entries"]:
        assert f'href="/explore/Small/set_01/examples/{entry["example"]["id"]}?in=label-errors"' in page
    page = client.get(f"{PAGE}/near-duplicates").text
    assert "2 groups of near duplicates" in page
    assert "in test and train" in page
    assert f'href="{OF_SMALL}/near-duplicates.csv"' in page
    regions = client.get("/api/v1/models/CelebA/sets/set_01/find/under-covered").json()["entries"]
    page = client.get("/explore/CelebA/set_01/find/under-covered").text
    assert f"/explore/CelebA/set_01/ask?path={regions[0]['path']}" in page
    assert client.get(f"{PAGE}/label-errors?page=9").headers["location"] == f"{PAGE}/label-errors"
    assert client.get(f"{PAGE}/typos").status_code == 404
    assert "There are label-errors, near-duplicates, under-covered" in client.get(f"{PAGE}/typos").text


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_pages_are_accessible_and_fit(client: httpx.Client, chromium: Any, width: int, scheme: Any) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = {}
    for model in ("Small", "CelebA"):
        for kind in KINDS:
            address = f"{client.base_url}/explore/{model}/set_01/find/{kind}"
            page.goto(address)
            found[address] = [*violations(page), *misfits(page)]
    page.close()
    assert {address: problems for address, problems in found.items() if problems} == {}


def test_a_list_in_the_schema_is_one_of_three(client: httpx.Client) -> None:
    schema = client.get("/api/v1/openapi.json").json()
    answer = schema["paths"]["/api/v1/models/{model}/sets/{set}/find/{kind}"]["get"]["responses"]["200"]
    kinds = {
        one["$ref"].rpartition("/")[2]
        for one in json.loads(json.dumps(answer))["content"]["application/json"]["schema"]["anyOf"]
    }
    assert kinds == {"LabelErrors", "NearDuplicates", "UnderCovered"}


def _links(html: str, kind: str) -> list[str]:
    found = re.findall(rf'href="([^"]*/examples/\d+\?in={kind}[^"]*)"', html)
    return [link.replace("&amp;", "&") for link in dict.fromkeys(found)]


def test_an_example_of_a_group_keeps_its_place_and_goes_on_to_the_next_group(client: httpx.Client) -> None:
    page = f"{PAGE}/near-duplicates"
    shown = _links(client.get(page).text, "near-duplicates")
    assert [int(re.findall(r"/examples/(\d+)", link)[0]) for link in shown] == [10, 16, 11, 12]
    second = client.get(shown[1]).text
    assert "<strong>2 of 4</strong>" in second
    assert "near duplicates, group by group" in second
    assert f'href="{shown[2]}" rel="next"' in second
    assert f'href="{page}"' in second
    assert client.get(f"{shown[0]}&right=wrong").status_code == 422


def test_regions_by_a_layer_keep_it(client: httpx.Client, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_set = "/explore/CelebA/set_01"
    monkeypatch.setitem(FOUND, "under-covered", 1)
    index = open_set(root / "CelebA" / "set_01").index
    last, first = index.layers[-1], index.layers[0]
    shown = _links(client.get(f"{of_set}/find/under-covered").text, "under-covered")
    place = client.get(shown[0]).text
    total = sum(region.count for region in find(index, "under-covered", limit=1000).entries)  # type: ignore[union-attr]
    assert f"<strong>1 of {total:,}</strong>" in place
    assert f'href="{of_set}/find/under-covered"' in place
    by_first = client.get(f"{of_set}/find/under-covered?layer={first}").text
    assert f'href="{of_set}/find/under-covered?layer={first}" aria-current="page"' in by_first
    assert f'href="{of_set}/find/under-covered">{last}</a>' in by_first
    assert client.get(f"{of_set}/find/under-covered?layer=conv9").status_code == 404
    assert client.get(f"{of_set}/find/label-errors?layer={first}").status_code == 422
    api = "/api/v1/models/CelebA/sets/set_01/find/under-covered"
    assert client.get(f"{api}?layer={first}").json()["layer"] == first
    assert client.get(f"{api}.csv?layer={first}").status_code == 200
    assert client.get(f"{api}/fiftyone?layer={first}").json()["info"]["layer"] == first
    example = client.get(f"{of_set}/examples/3?in=under-covered&layer={first}")
    assert f"under-covered in {first}, region by region" in example.text


def test_a_page_of_regions_is_made_outside_the_lock_by_one_median(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200,000 examples, each region's lifts take milliseconds, and a piece of the API has up to 1,000 regions."""
    held, medians = [], []

    def observed_lifts(*given: Any) -> Any:
        held.append(ONE_AT_A_TIME._is_owned())  # type: ignore[attr-defined]
        return lifts(*given)

    def observed_median(values: Any) -> Any:
        medians.append(len(values))
        return median(values)

    median = np.median
    with serving(root) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.get("/api/v1/models/CelebA/sets/set_01/find/under-covered?limit=0")
        monkeypatch.setattr("clusterpaths.find.under_covered.lifts", observed_lifts)
        monkeypatch.setattr("clusterpaths.find.under_covered.np.median", observed_median)
        for address in (
            "/api/v1/models/CelebA/sets/set_01/find/under-covered",
            "/explore/CelebA/set_01/find/under-covered",
        ):
            held.clear()
            medians.clear()
            assert client.get(address).status_code == 200
            assert set(held) == {False}
            assert medians.count(2_000) == 1
            assert len(medians) == 1 + len(held)
