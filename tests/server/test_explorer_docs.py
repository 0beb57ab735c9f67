"""docs/explorer.md says what the server does: its addresses are there, its commands work."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from clusterpaths.explore.records import Question
from tests import patient
from tests.server.conftest import Site
from tests.server.watched import SERIES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "explorer.md").read_text(encoding="utf-8")


def test_every_page_of_the_table_is_there(site: Site) -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", TEXT.partition("## Pages")[2].partition("## Selections")[0], re.MULTILINE)
    addresses = [address for row in rows for address in re.findall(r"`([^`]+)`", row)]
    assert len(addresses) >= 8
    with patient.client(base_url=site.url, follow_redirects=True) as client:
        found = client.get(f"/api/v1/models/{site.model}/sets/{site.set}/paths?limit=1").json()
        path = "-".join(map(str, found["paths"][0]["path"]))
        known = {
            "SERIES/NUMBER": f"{SERIES}/1",
            "SERIES": SERIES,
            "MODEL/SET": f"{site.model}/{site.set}",
            "LAYER/NUMBER": f"{site.layers[0]}/0",
            "3-2-1-0-4": path,
        }
        for address in addresses:
            place = address.replace("…/", "/explore/MODEL/SET/")
            place = place.replace("second=MODEL/SET", f"second={site.model}/{site.other}")
            for name, value in {**known, "/ID": "/0", "?…": ""}.items():
                place = place.replace(name, value)
            assert client.get(place).status_code == 200, place


def test_every_field_of_a_selection_is_there(site: Site) -> None:
    table = TEXT.partition("## Selections")[2].partition("Every selection")[0]
    rows = re.findall(r"^\| ([^|]*) \| ([^|]*) \|", table, re.MULTILINE)
    fields = {name for row, _ in rows for name in re.findall(r"`(\w+)`", row)}
    assert fields == set(Question.model_fields)
    examples = [query for _, column in rows for query in re.findall(r"`([^`]+)`", column)]
    assert len(examples) >= len(rows) - 2
    for query in examples:
        for place in (f"{site.overview}/ask", f"/api/v1/models/{site.model}/sets/{site.set}/examples"):
            assert patient.get(f"{site.url}{place}?{query}").status_code == 200, query


def test_the_commands_for_programs_work(site: Site) -> None:
    found = re.findall(r"curl '(http[^']+)'", TEXT)
    assert found
    for address in found:
        parts = urlsplit(address)
        place = parts.path.replace("CelebA", site.model)
        assert patient.get(f"{site.url}{place}?{parts.query}").status_code == 200, address
    assert patient.get(f"{site.url}/api/v1/openapi.json").json()["openapi"].startswith("3")


def test_every_kind_of_answer_that_is_named_is_in_the_schema(site: Site) -> None:
    paths = patient.get(f"{site.url}/api/v1/openapi.json").json()["paths"]
    words = re.findall(r"`([a-z][\w./A-Z]*)`", TEXT.partition("describes all of")[2].partition("curl")[0])
    assert {"routes", "clusters", "explain"} <= set(words)
    for word in set(words) - {"ask"}:
        ending = word.replace("ID", "{example}")
        assert any(re.search(rf"/{re.escape(ending)}$".replace(r"\{example\}", r"\{\w+\}"), path) for path in paths), (
            word
        )
