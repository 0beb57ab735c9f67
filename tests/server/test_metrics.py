"""/metrics, as Prometheus' own parser reads it: the newest windows, and requests by route, with bounded labels."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusterpaths.server import metrics
from clusterpaths.sets.published import PublishedSet, open_set
from tests.generated_set import generate
from tests.server.watched import DRIFTED, IMAGES, LAST, QUIET, SERIES, record_windows
from tests.serving import serving

TOKEN = "a-token-of-sixteen-characters"
LABELS = {"model": "CelebA", "set": "set_01", "series": SERIES}
PREFIX = "clusterpaths_monitoring_"

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def published(tmp_path: Path) -> PublishedSet:
    found = open_set(generate(tmp_path / "cache", n=400))
    record_windows(found)
    return found


@pytest.fixture
def client(published: PublishedSet) -> Iterator[httpx.Client]:
    with serving(published.path.parent.parent) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found: Samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def of_series(samples: Samples, name: str) -> float:
    ((labels, value),) = samples[PREFIX + name]
    assert labels == LABELS
    return value


def test_the_newest_window_and_the_totals_of_a_series(client: httpx.Client) -> None:
    samples = scrape(client)
    record = client.get(f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows/{LAST}").json()
    expected = {
        "last_window_readable": 1,
        "last_window_number": LAST,
        "last_window_end_timestamp_seconds": datetime.datetime.fromisoformat(record["end"]).timestamp(),
        "last_window_images": IMAGES,
        "last_window_drifted": 0,
        "last_window_p_value": record["verdict"]["p_value"],
        "last_window_effect": record["verdict"]["effect"],
        "last_window_effect_by_chance": record["verdict"]["effect_by_chance"],
        "last_window_new_path_share": record["new_paths"] / IMAGES,
        "windows_total": 5,
        "drifted_windows_total": 1,
        "unreadable_windows_total": 0,
        "images_total": 4 * IMAGES,
        "duplicates_total": 3,
        "late_total": 2,
        "unusable_total": 1,
    }
    assert {name: of_series(samples, name) for name in expected} == pytest.approx(expected)
    scores = {labels["quantile"]: value for labels, value in samples[f"{PREFIX}last_window_ood_score"]}
    assert list(scores.values()) == pytest.approx(record["ood"]["window"])
    assert list(scores) == ["0.05", "0.25", "0.5", "0.75", "0.95"]


def test_a_window_that_drifted_is_1(client: httpx.Client, published: PublishedSet) -> None:
    shutil.rmtree(published.path / "monitor" / SERIES / f"window_{LAST:06d}")
    samples = scrape(client)
    assert of_series(samples, "last_window_number") == DRIFTED
    assert of_series(samples, "last_window_drifted") == 1


def test_a_corrupted_window_is_counted_and_the_others_are_too(client: httpx.Client, published: PublishedSet) -> None:
    (published.path / "monitor" / SERIES / f"window_{LAST:06d}" / "window.json").write_text("{")
    (published.path / "monitor" / SERIES / f"window_{QUIET:06d}" / "window.json").write_text("{")
    samples = scrape(client)
    assert of_series(samples, "last_window_readable") == 0
    assert f"{PREFIX}last_window_drifted" not in samples
    assert of_series(samples, "windows_total") == 5
    assert of_series(samples, "unreadable_windows_total") == 2
    assert of_series(samples, "drifted_windows_total") == 1


def test_requests_are_counted_by_the_template_of_their_route_never_by_their_path(client: httpx.Client) -> None:
    for address in ("/explore/CelebA/set_01", "/explore/CelebA/set_77", "/nothing/at/all", "/static/explorer.css"):
        client.get(address)
    client.head("/explore/CelebA/set_01")
    client.request("PROPFIND", "/explore/CelebA/set_01")
    client.get("/explore/CelebA/set_01/clusters/conv1/0")
    samples = scrape(client)
    counts = {
        (labels["method"], labels["route"], labels["status"]): value
        for labels, value in samples["clusterpaths_http_requests_total"]
    }
    page = "/explore/{model}/{name}"
    assert counts["GET", page, "200"] == 1
    assert counts["GET", page, "404"] == 1
    assert counts["HEAD", page, "200"] == 1
    assert counts["GET", "none", "404"] == 1
    assert counts["GET", "/static", "200"] == 1
    assert counts["GET", "/explore/{model}/{name}/clusters/{layer:path}/{cluster:int}", "200"] == 1
    assert {method for method, *_ in counts} == {"GET", "HEAD", "other"}
    assert not any("CelebA" in route or "nothing" in route for _, route, _ in counts)
    took = {labels["route"]: value for labels, value in samples["clusterpaths_http_request_duration_seconds_count"]}
    assert took[page] == 4


def test_many_series_are_bounded_and_those_left_out_are_counted(
    published: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        (published.path / "monitor" / f"door{number}").mkdir()
    monkeypatch.setattr(metrics, "MOST_SERIES", 3)
    with serving(published.path.parent.parent) as address, httpx.Client(base_url=address, timeout=60) as client:
        samples = scrape(client)
    assert samples[f"{PREFIX}series_omitted"] == [({}, 4)]
    assert len(samples[f"{PREFIX}windows_total"]) == 3
    assert len(samples[f"{PREFIX}last_window_number"]) == 1, "a series without windows has no last one"


def test_totals_are_absent_until_all_windows_were_read(
    published: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "READING", -1)
    with serving(published.path.parent.parent) as address, httpx.Client(base_url=address, timeout=60) as client:
        samples = scrape(client)
        assert of_series(samples, "last_window_number") == LAST
        assert f"{PREFIX}windows_total" not in samples
        monkeypatch.setattr(metrics, "READING", 60)
        assert of_series(scrape(client), "windows_total") == 5


def test_a_set_that_cannot_be_opened_does_not_break_the_others(client: httpx.Client, published: PublishedSet) -> None:
    broken = published.path.with_name("set_02")
    shutil.copytree(published.path, broken)
    (broken / "set.json").write_text("{")
    assert of_series(scrape(client), "windows_total") == 5


def test_the_token_is_asked_for_as_everywhere_and_a_scraper_sends_it(published: PublishedSet) -> None:
    with serving(published.path.parent.parent, token=TOKEN) as address, httpx.Client(base_url=address) as client:
        refused = client.get("/metrics")
        assert refused.status_code == 401
        assert "Authorization: Bearer" in refused.json()["detail"]
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_openmetrics_is_answered_to_who_asks_for_it(client: httpx.Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
