"""Series of windows in the explorer and in the API: shown as they were recorded, revalidated cheaply, and never a bare 500."""

from __future__ import annotations

import html
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from clusterpaths.errors import NotFoundError
from clusterpaths.monitoring.history import History
from clusterpaths.monitoring.record import WindowRecord
from clusterpaths.monitoring.series import Series
from clusterpaths.monitoring.words import headline
from clusterpaths.sets.published import PublishedSet, open_set
from tests.generated_set import generate
from tests.server.conftest import Site
from tests.server.watched import DRIFTED, EMPTY, IMAGES, LAST, LEFT_OUT, QUIET, SERIES, record_windows
from tests.serving import serving

API = "/api/v1/models/SampleFaces/sets/set_01/monitoring"
WINDOWS = f"{API}/{SERIES}/windows"
PAGES = "/explore/SampleFaces/set_01/monitoring"


@pytest.fixture(scope="module")
def reader(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


@pytest.fixture
def published(tmp_path: Path) -> PublishedSet:
    """A generated set with a series: CelebA/set_01."""
    found = open_set(generate(tmp_path / "cache", n=400))
    record_windows(found)
    return found


@pytest.fixture
def changing(published: PublishedSet) -> Iterator[httpx.Client]:
    """A server of it; its files may be changed."""
    with (
        serving(published.path.parent.parent) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def record_of(folder: Path, number: int) -> Path:
    return folder / "monitor" / SERIES / f"window_{number:06d}" / "window.json"


# API ------------------------------------------------------------------------------------------------------------------


def test_a_set_lists_its_series_with_the_newest_window(reader: httpx.Client) -> None:
    (found,) = reader.get(API).json()
    assert (found["series"], found["windows"], found["problem"]) == (SERIES, 5, "")
    assert (found["last"]["number"], found["last"]["drifted"], found["last"]["num_images"]) == (LAST, False, IMAGES)
    assert reader.get("/api/v1/models/SampleFaces/sets/set_02/monitoring").json() == []
    assert reader.get("/api/v1/models/Foreign/sets/set_01/monitoring").json() == []


def test_windows_come_page_by_page_the_newest_last(reader: httpx.Client) -> None:
    def numbers(**query: int) -> list[int]:
        return [one["number"] for one in reader.get(WINDOWS, params=query).json()["windows"]]

    assert numbers() == [1, 2, 3, 4, 5]
    assert numbers(limit=2) == [4, 5]
    assert numbers(limit=2, offset=2) == [2, 3]
    assert numbers(limit=2, offset=4) == [1]
    assert numbers(offset=9) == []


def test_a_window_in_the_list_has_the_numbers_of_its_record(reader: httpx.Client, site: Site) -> None:
    windows = {one["number"]: one for one in reader.get(WINDOWS).json()["windows"]}
    for number, window in windows.items():
        content = reader.get(f"{WINDOWS}/{number}").content
        record = WindowRecord.model_validate_json(content)
        stored = WindowRecord.model_validate_json(record_of(site.root / "SampleFaces/set_01", number).read_bytes())
        assert stored.source == "/srv/images/gate"
        assert record == stored.model_copy(update={"source": "gate"}), "no path of the server's machine is sent"
        assert (window["start"], window["end"], window["drifted"]) == (record.start, record.end, record.drifted)
        assert (window["p_value"], window["effect"]) == (record.verdict.p_value, record.verdict.effect)
    assert [windows[number]["drifted"] for number in (QUIET, LEFT_OUT, DRIFTED, LAST)] == [False, False, True, False]
    assert (windows[EMPTY]["num_images"], windows[EMPTY]["new_paths"], windows[EMPTY]["ood"]) == (0, None, None)
    assert [windows[LEFT_OUT][name] for name in ("duplicates", "late", "unusable")] == [3, 2, 1]
    assert windows[DRIFTED]["first_layer"] == "fc1"
    for side in ("reference", "window"):
        assert sum(one[side] for one in windows[QUIET]["predictions"]) == pytest.approx(1)


def test_a_picture_is_a_jpeg_that_the_record_names(reader: httpx.Client) -> None:
    record = reader.get(f"{WINDOWS}/{DRIFTED}").json()
    picture = record["growth"][0]["exemplars_window"][0]["picture"]
    found = reader.get(f"{WINDOWS}/{DRIFTED}/pictures/{picture}")
    assert found.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(found.content)).size == (90, 110)


@pytest.mark.parametrize(
    "address", [API, WINDOWS, f"{WINDOWS}?limit=2", f"{WINDOWS}/4", f"{WINDOWS}/4/pictures/picture_00.jpg"]
)
def test_a_client_that_has_an_answer_is_not_sent_it_again(reader: httpx.Client, address: str) -> None:
    tag = reader.get(address).headers["etag"]
    again = reader.get(address, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"{API}/doors/windows", "SampleFaces/set_01 has no series 'doors'. It has cameras."),
        (f"{API}/..%2F{SERIES}/windows", ""),
        (f"{API}/doors/windows/1", "has no series 'doors'"),
        ("/api/v1/models/SampleFaces/sets/set_02/monitoring/doors/windows", "It has none yet."),
        ("/api/v1/models/Foreign/sets/set_01/monitoring/doors/windows", "another program made it"),
        (f"{WINDOWS}/6", "The series 'cameras' of SampleFaces/set_01 has no window 6. It has 1 to 5."),
        (f"{WINDOWS}/4/pictures/window.json", "has no picture 'window.json'"),
        (f"{WINDOWS}/4/pictures/rows.parquet", "has no picture"),
        (f"{WINDOWS}/1/pictures/..%2Fwindow.json", ""),
        (f"{WINDOWS}/6/pictures/picture_00.jpg", "has no window 6"),
    ],
)
def test_what_is_not_there_is_a_404_in_one_paragraph(reader: httpx.Client, address: str, words: str) -> None:
    answer = reader.get(address)
    assert answer.status_code == 404
    assert words in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "offset=-1", "size=3"])
def test_wrong_parameters_are_rejected(reader: httpx.Client, query: str) -> None:
    assert reader.get(f"{WINDOWS}?{query}").status_code == 422


# A directory that changes -----------------------------------------------------------------------------------------------


def test_a_new_window_appears_and_an_answer_from_before_it_is_not_valid_any_more(
    changing: httpx.Client, published: PublishedSet
) -> None:
    address = "/api/v1/models/CelebA/sets/set_01/monitoring"
    before = changing.get(address)
    page = changing.get("/explore/CelebA/set_01").text
    last = record_of(published.path, LAST).parent
    following = last.with_name("window_000006")
    shutil.copytree(last, following.with_name(".partial"))
    record = json.loads((following.with_name(".partial") / "window.json").read_text()) | {"number": 6}
    (following.with_name(".partial") / "window.json").write_text(json.dumps(record))
    following.with_name(".partial").rename(following)
    after = changing.get(address, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert (after.json()[0]["windows"], after.json()[0]["last"]["number"]) == (6, 6)
    assert "no drift" in page
    assert "Window 6" in changing.get(f"/explore/CelebA/set_01/monitoring/{SERIES}").text
    assert 'rel="next"' in changing.get(f"/explore/CelebA/set_01/monitoring/{SERIES}/5").text


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no finite p-value": lambda record: record["verdict"].update(p_value=float("nan")),
    "an infinite score": lambda record: record["ood"].update(window=[1, 2, 3, 4, float("inf")]),
    "no time": lambda record: record.update(end="yesterday"),
    "a time without zone": lambda record: record.update(start="2026-01-01T00:00:00"),
    "another number": lambda record: record.update(number=3),
    "an unknown key": lambda record: record.update(colour="red"),
}


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 2}', "", "\x00\xff", *DAMAGES])
def test_a_corrupted_window_is_one_paragraph_on_every_page_and_the_others_are_shown(
    changing: httpx.Client, published: PublishedSet, damage: str
) -> None:
    record = json.loads(record_of(published.path, LAST).read_text())
    if damage in DAMAGES:
        DAMAGES[damage](record)
    record_of(published.path, LAST).write_text(json.dumps(record) if damage in DAMAGES else damage)
    where = f"CelebA/set_01/monitor/{SERIES}/window_000005/window.json is not the record of a window"
    series, window = f"/explore/CelebA/set_01/monitoring/{SERIES}", f"/explore/CelebA/set_01/monitoring/{SERIES}/{LAST}"
    for address in ("/explore/CelebA/set_01/monitoring", series, window):
        answer = changing.get(address)
        assert answer.status_code == 200, address
        assert where in answer.text, address
        assert str(published.path) not in answer.text
    assert "cannot be read" in changing.get("/explore/CelebA/set_01").text
    assert 'rel="prev"' in changing.get(window).text
    assert "cannot be read" in changing.get(series).text
    page = changing.get(f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows").json()
    assert [one["number"] for one in page["windows"]] == [1, 2, 3, 4]
    assert [one["number"] for one in page["unreadable"]] == [LAST]
    assert where in page["unreadable"][0]["problem"]
    assert changing.get(f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows/{LAST}").status_code == 503
    assert changing.get("/metrics").status_code == 200


def test_a_window_of_another_set_is_not_shown_as_one_of_this_set(
    changing: httpx.Client, published: PublishedSet
) -> None:
    record = json.loads(record_of(published.path, QUIET).read_text())
    record["reference"]["fingerprint"] = "0" * 64
    record_of(published.path, QUIET).write_text(json.dumps(record))
    page = changing.get(f"/explore/CelebA/set_01/monitoring/{SERIES}/{QUIET}")
    assert page.status_code == 200
    assert "was compared with another set" in page.text


def test_a_record_that_names_what_the_set_does_not_have_is_shown_without_links(
    changing: httpx.Client, published: PublishedSet
) -> None:
    record = json.loads(record_of(published.path, DRIFTED).read_text())
    record["growth"][0] |= {"key": "fc9/77", "exemplars_reference": [10**9]}
    record["growth"][1] |= {"key": "fc1/4000"}
    record["layers"][0]["layer"] = "conv9"
    record["layers"][1]["window"] = record["layers"][1]["reference"] = [1] * 99
    record_of(published.path, DRIFTED).write_text(json.dumps(record))
    page = changing.get(f"/explore/CelebA/set_01/monitoring/{SERIES}/{DRIFTED}")
    assert page.status_code == 200
    assert "fc9/77" in page.text
    assert "/clusters/fc9/77" not in page.text
    assert "No example of the reference is in this cluster." in page.text


def test_a_changed_record_leads_to_no_file_outside_the_window(changing: httpx.Client, published: PublishedSet) -> None:
    record = json.loads(record_of(published.path, DRIFTED).read_text())
    record["growth"][0]["exemplars_window"][0]["picture"] = "window.json"
    record_of(published.path, DRIFTED).write_text(json.dumps(record))
    answer = changing.get(
        f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows/{DRIFTED}/pictures/window.json"
    )
    assert answer.status_code == 404
    record["growth"][0]["exemplars_window"][0]["picture"] = "../window_000001/picture_00.jpg"
    record_of(published.path, DRIFTED).write_text(json.dumps(record))
    with pytest.raises(NotFoundError, match="has no picture"):
        Series(published, SERIES).picture(DRIFTED, "../window_000001/picture_00.jpg")


def test_series_that_cannot_be_listed_leave_the_overview_as_it_is(
    changing: httpx.Client, published: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = type(published.folder)
    listed = folder.subdirectories

    def refused(self: Any) -> list[str]:
        if self.name == "monitor":
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(folder, "subdirectories", refused)
    assert changing.get("/explore/CelebA/set_01").status_code == 200
    assert changing.get("/metrics").status_code == 200
    answer = changing.get("/explore/CelebA/set_01/monitoring")
    assert answer.status_code == 503
    assert str(published.path) not in answer.text


def test_a_deleted_picture_is_a_404(changing: httpx.Client, published: PublishedSet) -> None:
    (record_of(published.path, DRIFTED).parent / "picture_00.jpg").unlink()
    answer = changing.get(
        f"/api/v1/models/CelebA/sets/set_01/monitoring/{SERIES}/windows/{DRIFTED}/pictures/picture_00.jpg"
    )
    assert answer.status_code == 404
    assert "has been deleted" in answer.json()["detail"]


def test_a_window_is_read_once_and_a_listing_once_for_each_change(
    published: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    folder = type(published.folder)
    read, listed = folder.read, folder.subdirectories
    monkeypatch.setattr(folder, "read", lambda self, name: (opened.append(name), read(self, name))[1])
    history = History()
    for _ in range(3):
        history.windows(published, SERIES, 100)
        history.totals(published, SERIES)
    assert sorted(opened) == [f"window_{number:06d}/window.json" for number in range(1, 6)]
    lists: list[str] = []
    monkeypatch.setattr(folder, "subdirectories", lambda self: (lists.append(self.name), listed(self))[1])
    history.windows(published, SERIES, 100)
    assert SERIES not in lists


def test_totals_are_those_of_all_windows_also_when_they_are_read_in_several_steps(published: PublishedSet) -> None:
    history = History()
    begun = history.totals(published, SERIES, until=0)
    assert (begun.complete, begun.windows) == (False, 0)
    found = history.totals(published, SERIES)
    assert (found.complete, found.windows, found.drifted, found.images) == (True, 5, 1, 4 * IMAGES)
    assert (found.duplicates, found.late, found.unusable, found.unreadable) == (3, 2, 1, 0)
    assert history.totals(published, SERIES) == found
    shutil.rmtree(published.path / "monitor" / SERIES)
    record_windows(published)
    assert history.totals(published, SERIES).windows == 5  # begun anew, not ten


def test_a_window_that_cannot_be_read_for_a_moment_is_counted_afterwards(
    published: PublishedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, folder = History(), type(published.folder)
    read = folder.read

    def failing(self: Any, name: str) -> bytes:
        if name.startswith("window_000003"):
            raise PermissionError(13, "Permission denied")
        return bytes(read(self, name))

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read", failing)
        assert "try again later" in str(history.windows(published, SERIES, 100).by_number)
        found = history.totals(published, SERIES)
        assert (found.complete, found.windows) == (False, 2)
    assert "try again later" not in str(history.windows(published, SERIES, 100).by_number)
    found = history.totals(published, SERIES)
    assert (found.complete, found.windows, found.unreadable) == (True, 5, 0)


# Pages ----------------------------------------------------------------------------------------------------------------


def test_the_overview_links_to_monitoring_where_there_are_series(reader: httpx.Client) -> None:
    assert f'<a href="{PAGES}">Monitoring</a>' in reader.get("/explore/SampleFaces/set_01").text
    assert "Monitoring" not in reader.get("/explore/SampleFaces/set_02").text


def test_without_series_the_page_says_how_to_start_one(reader: httpx.Client) -> None:
    page = reader.get("/explore/SampleFaces/set_02/monitoring").text
    assert "clusterpaths monitor --reference SampleFaces/set_02 --images DIRECTORY --series NAME" in page
    assert "Another program made this set" in reader.get("/explore/Foreign/set_01/monitoring").text


def test_the_time_line_has_a_column_and_a_row_of_each_window(reader: httpx.Client) -> None:
    page = reader.get(f"{PAGES}/{SERIES}").text
    for number in range(1, 6):
        assert page.count(f'href="{PAGES}/{SERIES}/{number}"') >= 2, "in the charts and in the table"
    assert page.count('class="at drifted"') >= 2
    for words in ("5 windows", "1 drifted", "no images", "Window 4, ", "drifted from fc1 on"):
        assert words in page
    for title in ("Verdict", "Difference of the paths", "New paths", "OOD scores", "Predictions", "Images"):
        assert f"<h3>{title} " in page
    assert "left-out" in page


def test_a_page_beyond_the_last_one_leads_to_the_last_one(reader: httpx.Client) -> None:
    answer = reader.get(f"{PAGES}/{SERIES}?page=9")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGES}/{SERIES}")


def test_a_window_says_what_changed_and_links_to_it(reader: httpx.Client) -> None:
    page = reader.get(f"{PAGES}/{SERIES}/{DRIFTED}").text
    record = WindowRecord.model_validate_json(reader.get(f"{WINDOWS}/{DRIFTED}").content)
    assert html.escape(headline(record)) in page
    assert "<li>from gate</li>" in page
    assert "/srv" not in page
    assert "The first layer that differs is fc1." in page
    assert '<li class="first"><a href="#layer-3">' in page
    assert 'href="/explore/SampleFaces/set_01/clusters/fc1/0"' in page
    assert f"{WINDOWS}/{DRIFTED}/pictures/picture_00.jpg" in page
    assert "New image &lt;0" in page, "names of new images are escaped"
    assert f'href="{PAGES}/{SERIES}/3" rel="prev"' in page
    assert f'href="{PAGES}/{SERIES}/5" rel="next"' in page


def test_a_window_without_images_says_so(reader: httpx.Client) -> None:
    page = reader.get(f"{PAGES}/{SERIES}/{EMPTY}").text
    assert "No images in this window." in page
    assert "nothing to compare" in page
    assert "Layer by layer" not in page


def test_what_was_left_out_is_said(reader: httpx.Client) -> None:
    page = reader.get(f"{PAGES}/{SERIES}/{LEFT_OUT}").text
    for words in ("3 left out: observed before", "2 left out: late", "1 left out: no images"):
        assert words in page


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/doors", 404),
        (f"/{SERIES}/6", 404),
        (f"/{SERIES}/0", 422),
        (f"/{SERIES}/{'9' * 5000}", 422),
        (f"/{SERIES}/x", 422),
    ],
)
def test_pages_that_are_not_there(reader: httpx.Client, address: str, status: int) -> None:
    answer = reader.get(f"{PAGES}{address}")
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")


def test_all_pages_work_without_any_inline_style_or_script(reader: httpx.Client) -> None:
    pages: list[Any] = [reader.get(f"{PAGES}{path}") for path in ("", f"/{SERIES}", f"/{SERIES}/{DRIFTED}")]
    for page in pages:
        assert page.status_code == 200
        assert " style=" not in page.text
        assert "<style" not in page.text
        assert "onclick" not in page.text
