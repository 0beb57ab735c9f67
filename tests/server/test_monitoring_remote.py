"""Series of windows in object storage: listed with few requests, each window fetched once."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore", reason="needs the extra [s3]")
pytest.importorskip("moto", reason="needs moto's server")

from collections.abc import Iterator
from pathlib import Path

import httpx

from clusterpaths.monitoring import history as module
from clusterpaths.monitoring.history import History
from clusterpaths.monitoring.series import DOCUMENT, Series
from clusterpaths.sets.published import open_set
from clusterpaths.storage import open_storage
from tests.generated_set import generate
from tests.server.watched import DRIFTED, LAST, SERIES, record_windows
from tests.serving import serving
from tests.storage import BUCKET, Storage, running_storage

SET = "results/CelebA/set_01"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """A bucket with a generated set and its series, but without the last window's document, as a writer has begun it."""
    folder = generate(tmp_path / "made", n=200)
    record_windows(open_set(folder))
    with running_storage(tmp_path, tmp_path / "mirror") as started:
        for path in (tmp_path / "made").rglob("*"):
            if path.is_file() and path.name != ".lock":
                key = f"results/{path.relative_to(tmp_path / 'made').as_posix()}"
                if not key.endswith(f"window_{LAST:06d}/{DOCUMENT}"):
                    started.client().upload_file(str(path), BUCKET, key)
        yield started


def test_windows_are_listed_without_the_one_that_is_not_complete_and_then_with_it(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LISTED", 0.0)
    published = open_set(open_storage(f"s3://{BUCKET}/{SET}"))
    history = History()
    assert Series(published, SERIES).numbers() == [1, 2, 3, 4]
    assert [one.number for one in history.windows(published, SERIES, 100).windows] == [1, 2, 3, 4]
    key = f"monitor/{SERIES}/window_{LAST:06d}/{DOCUMENT}"
    storage.client().upload_file(str(tmp_path / "made/CelebA/set_01" / key), BUCKET, f"{SET}/{key}")
    assert [one.number for one in history.windows(published, SERIES, 100).windows] == [1, 2, 3, 4, 5]


def test_only_the_last_window_is_asked_for_its_document(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    published = open_set(open_storage(f"s3://{BUCKET}/{SET}"))
    series = Series(published, SERIES)
    asked: list[str] = []
    exists = type(series.folder).exists
    monkeypatch.setattr(type(series.folder), "exists", lambda self, name: (asked.append(name), exists(self, name))[1])
    series.numbers()
    assert asked == [f"window_{LAST:06d}/{DOCUMENT}"]


def test_what_was_read_is_answered_without_the_store(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTED", 3600.0)
    published = open_set(open_storage(f"s3://{BUCKET}/{SET}"))
    history = History()
    before = history.windows(published, SERIES, 100), history.series(published), history.totals(published, SERIES)
    storage.proxy.cut()
    assert (
        history.windows(published, SERIES, 100),
        history.series(published),
        history.totals(published, SERIES),
    ) == before


def test_pages_and_metrics_of_a_bucket(storage: Storage) -> None:
    with serving(f"s3://{BUCKET}/results") as address, httpx.Client(base_url=address, timeout=60) as client:  # type: ignore[arg-type]
        assert "4 windows" in client.get(f"/explore/CelebA/set_01/monitoring/{SERIES}").text
        window = f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows/{DRIFTED}"
        record = client.get(window).json()
        picture = record["growth"][0]["exemplars_window"][0]["picture"]
        assert client.get(f"{window}/pictures/{picture}").headers["content-type"] == "image/jpeg"
        assert (
            'clusterpaths_monitoring_windows_total{model="CelebA",series="cameras",set="set_01"} 4.0'
            in client.get("/metrics").text
        )
