"""Names in the explorer and in the API: shown everywhere, changed only with --edit, and never over somebody else's text."""

from __future__ import annotations

import csv
import errno
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clusterpaths.storage.directory import Directory
from tests.server.conftest import Site
from tests.serving import serving

NAMES = "/api/v1/models/SampleFaces/sets/set_01/names"
CLUSTER = "/explore/SampleFaces/set_01/clusters/fc2/1"
FORM = "/explore/SampleFaces/set_01/names"
TOKEN = "a-token-of-sixteen-characters"


@pytest.fixture
def editable(site: Site, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server with --edit of a copy of the results."""
    shutil.copytree(site.root, tmp_path / "cache")
    with serving(tmp_path / "cache", edit=True) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture
def reader(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=30) as client:
        yield client


def test_names_from_the_data_are_on_every_page(reader: httpx.Client) -> None:
    names = reader.get(NAMES).json()
    assert (names["set"], names["editable"], names["problem"], names["paths"]) == ("SampleFaces/set_01", False, "", [])
    assert len(names["clusters"]) == 25
    name = next(one for one in names["clusters"] if one["key"] == "fc2/1")
    assert name["source"] == "data"
    assert name["words"]
    page = reader.get(CLUSTER).text
    assert f'<p class="called"><strong>{name["text"]}</strong> <small>from the data' in page
    assert "of 24 exemplars have it" in page or "low agreement" in page
    assert f": {name['text']}" in reader.get("/explore/SampleFaces/set_01/paths").text  # the chip's hint
    assert f"<td>{name['text']}</td>" in reader.get("/explore/SampleFaces/set_01").text
    assert reader.get(f"{NAMES}/fc2/1").json() == name


def test_a_client_that_has_the_names_is_not_sent_them_again(reader: httpx.Client) -> None:
    tag = reader.get(NAMES).headers["etag"]
    assert reader.get(NAMES, headers={"If-None-Match": tag}).status_code == 304


def test_without_edit_nothing_can_be_changed(reader: httpx.Client, site: Site) -> None:
    assert "<form" not in re.sub(r"<form class=\"way\".*?</form>", "", reader.get(CLUSTER).text)
    assert reader.put(f"{NAMES}/fc2/1", json={"name": "x"}).status_code == 403
    assert reader.post(FORM, data={"key": "fc2/1", "name": "x", "revision": 0}).status_code == 403
    assert not list(site.root.rglob("annotations.json"))


def test_a_name_is_saved_shown_everywhere_and_removed_again(editable: httpx.Client) -> None:
    before = editable.get(f"{NAMES}/fc2/1").json()
    tag = editable.get(NAMES).headers["etag"]
    saved = editable.put(f"{NAMES}/fc2/1", json={"name": "bright <b>hair</b>", "note": "look", "by": "Ada"})
    assert saved.status_code == 200
    assert (saved.json()["source"], saved.json()["text"], saved.json()["by"]) == ("person", "bright <b>hair</b>", "Ada")
    assert editable.get(NAMES, headers={"If-None-Match": tag}).status_code == 200  # not the old answer
    page = editable.get(CLUSTER).text
    assert "<strong>bright &lt;b&gt;hair&lt;/b&gt;</strong> <small>by Ada" in page
    assert '<p class="said">look</p>' in page
    assert f"From the data: {before['text']}" in page
    assert "bright &lt;b&gt;hair" in editable.get("/explore/SampleFaces/set_01/paths").text
    removed = editable.put(f"{NAMES}/fc2/1", json={"revision": 1})
    assert removed.json() == before


def test_the_form_works_without_javascript(editable: httpx.Client) -> None:
    page = editable.get(CLUSTER).text
    assert f'action="{FORM}"' in page
    answer = editable.post(FORM, data={"key": "fc2/1", "name": "gray", "note": "", "by": "Ada", "revision": "0"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"{CLUSTER}#name")
    path = editable.get("/api/v1/models/SampleFaces/sets/set_01/paths?limit=1").json()["paths"][0]["path"]
    text = "-".join(map(str, path))
    answer = editable.post(FORM, data={"key": text, "name": "the main road", "revision": "0"})
    assert answer.headers["location"] == f"/explore/SampleFaces/set_01/paths/{text}#name"
    assert "<strong>the main road</strong>" in editable.get(f"/explore/SampleFaces/set_01/paths/{text}").text
    assert '<p class="named own">the main road</p>' in editable.get("/explore/SampleFaces/set_01").text
    rows = list(csv.DictReader(io.StringIO(editable.get(f"{NAMES[:-6]}/examples.csv?path={text}").text)))
    assert {row["path_name"] for row in rows} == {"the main road"}


def test_the_second_of_two_people_is_told_and_nothing_is_lost(editable: httpx.Client) -> None:
    assert editable.put(f"{NAMES}/fc2/1", json={"name": "gray", "by": "Ada"}).status_code == 200
    answer = editable.put(f"{NAMES}/fc2/1", json={"name": "silver", "by": "Bob"})
    assert answer.status_code == 409
    assert re.search(r"it is now 'gray', by Ada at .* Your text 'silver' was not saved", answer.json()["detail"])
    page = editable.post(FORM, data={"key": "fc2/1", "name": "silver", "note": "mine", "by": "Bob", "revision": "0"})
    assert page.status_code == 409
    for text in ("gray", 'value="silver"', ">mine</textarea>", 'name="revision" value="1"', "Save mine instead"):
        assert text in page.text
    assert editable.get(f"{NAMES}/fc2/1").json()["text"] == "gray"
    answer = editable.post(FORM, data={"key": "fc2/1", "name": "silver", "by": "Bob", "revision": "1"})
    assert answer.status_code == 303
    assert editable.get(f"{NAMES}/fc2/1").json()["text"] == "silver"


@pytest.mark.parametrize(
    ("key", "body", "status", "words"),
    [
        ("fc2/9", {"name": "x"}, 404, "has no cluster or path"),
        ("fc9/0", {"name": "x"}, 404, "has no cluster or path"),
        ("..%2F..%2Fset.json", {"name": "x"}, 404, "not found"),
        ("fc2/1", {"name": "x" * 121}, 422, "Expected at most 120"),
        ("fc2/1", {"name": "x" * 1000}, 422, "at most 240"),
        ("fc2/1", {"name": "a\x00b"}, 422, "control characters"),
        ("fc2/1", {"name": 3}, 422, "string"),
        ("fc2/1", {"nmae": "x"}, 422, "unknown parameter"),
        ("fc2/1", {"name": "x", "revision": -1}, 422, "greater than or equal to 0"),
    ],
)
def test_bad_edits_are_refused(editable: httpx.Client, key: str, body: Any, status: int, words: str) -> None:
    answer = editable.put(f"{NAMES}/{key}", json=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_a_set_of_another_program_has_no_names_to_change(editable: httpx.Client) -> None:
    foreign = "/api/v1/models/Foreign/sets/set_01/names"
    names = editable.get(foreign).json()
    assert not names["editable"]
    assert {one["text"] for one in names["clusters"]} <= {"", "empty"}
    assert "name-form" not in editable.get("/explore/Foreign/set_01/clusters/a/0").text
    assert editable.put(f"{foreign}/a/0", json={"name": "x"}).status_code == 409


def test_annotations_of_another_set_are_said_on_the_page_and_not_changed(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    shutil.copytree(site.root, root)
    file = root / "SampleFaces" / "set_02" / "annotations.json"
    with serving(root, edit=True) as address, httpx.Client(base_url=address, timeout=30) as client:
        client.put(f"{NAMES}/fc2/1", json={"name": "gray"})
        shutil.copy(root / "SampleFaces" / "set_01" / "annotations.json", file)
        content = file.read_bytes()
        assert "has annotations of another set" in client.get("/explore/SampleFaces/set_02").text
        answer = client.put(NAMES.replace("set_01", "set_02") + "/fc2/1", json={"name": "mine"})
        assert (answer.status_code, "annotations of another set" in answer.text) == (409, True)
        assert file.read_bytes() == content


def test_a_directory_that_cannot_be_written_is_said_without_its_path(
    editable: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any) -> None:  # permissions do not stop the tests' user
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(Directory, "update", read_only)
    answer = editable.put(f"{NAMES}/fc2/1", json={"name": "gray"})
    assert (answer.status_code, "may not be written to, so the name was not saved" in answer.text) == (409, True)
    assert str(tmp_path) not in answer.text
    page = editable.post(FORM, data={"key": "fc2/1", "name": "gray", "revision": "0"})
    assert 'value="gray"' in page.text  # it is not lost
    assert "Not saved" in page.text


def test_the_rules_for_edits_are_those_of_runs(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.root, tmp_path / "cache")
    with serving(tmp_path / "cache", edit=True, token=TOKEN) as address, httpx.Client(base_url=address) as client:
        own = {"Authorization": f"Bearer {TOKEN}"}
        put = f"{NAMES}/fc2/1"
        assert client.put(put, json={"name": "x"}).status_code == 401
        assert client.put(put, json={"name": "x"}, headers=own | {"Origin": "https://evil.example"}).status_code == 403
        assert client.put(put, json={"name": "x"}, headers=own | {"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert client.post(FORM, data={"key": "fc2/1", "name": "x"}).status_code == 401
        assert client.put(put, json={"name": "x"}, headers=own).status_code == 200


def test_another_site_may_edit_only_where_it_is_named(site: Site, tmp_path: Path) -> None:
    shutil.copytree(site.root, tmp_path / "cache")
    origin = "https://dashboard.example"
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    for edit, allowed in ((True, True), (False, False)):
        with serving(tmp_path / "cache", edit=edit, origin=(origin,)) as address:
            answer = httpx.options(f"{address}{NAMES}/fc2/1", headers=asked)
            assert ("PUT" in answer.headers.get("access-control-allow-methods", "")) == allowed
