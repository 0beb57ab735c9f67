"""What no honest client sends: each is answered with a 4xx in plain words, or a clean 503; nothing of this machine in it."""

from __future__ import annotations

import errno
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests import patient
from tests.server.asking import declared_png, picture, raw
from tests.server.conftest import Site
from tests.serving import serving

API = "/api/v1/models/SampleFaces/sets/set_01"
PLACES = (  # every part of every address that a client may fill in; {} is where
    "/models/{}/sets",
    "/models/{}/metadata",
    "/models/{}/attributes",
    "/models/{}/id-to-index",
    "/models/{}/attributes/filter?attr=Smiling&value=1",
    "/models/SampleFaces/sets/{}/centroids",
    "/models/SampleFaces/sets/{}/paths",
    "/models/SampleFaces/sets/set_01/paths/{}",
    "/images/example/{}",
    "/images/cluster/{}/0",
    "/images/cluster/conv1/{}",
    "/api/v1/models/{}",
    "/api/v1/models/{}/sets/set_01",
    "/api/v1/models/SampleFaces/sets/{}/routes",
    "/api/v1/models/SampleFaces/sets/{}/metrics",
    "/api/v1/models/SampleFaces/sets/{}/examples.csv",
    API + "/clusters/{}/0",
    API + "/clusters/conv1/{}",
    API + "/paths/{}",
    API + "/examples/{}",
    API + "/examples/{}/image",
    "/api/v1/comparisons?first={}&second=SampleFaces/set_01",
    "/explore/{}/set_01",
    "/explore/SampleFaces/{}",
    "/explore/SampleFaces/{}/ask",
    "/explore/SampleFaces/set_01/clusters/{}/0",
    "/explore/SampleFaces/set_01/paths/{}",
    "/explore/SampleFaces/set_01/examples/{}",
    "/compare?first={}&second=SampleFaces/set_01",
    "/static/{}",
)
TRAVERSALS = {
    "plain": "../../../../etc/passwd",
    "encoded": "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "encoded twice": "%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "backslash": "..%5c..%5cetc%5cpasswd",
    "NUL": "set_01%00.json",
    "absolute": "%2fetc%2fpasswd",
    "two dots": "..",
    "two dots encoded": "%2e%2e",
    "one dot": "%2e",
    "not UTF-8": "%ff%fe",
    "too long": "a" * 3000,
    "overlong": "%c0%ae%c0%ae%c0%af",
    "line break": "a%0d%0aX-Injected:%201",
    "half a surrogate": "%ed%a0%80",
    "huge number": "9" * 400,
    "negative": "-1",
}


def assert_tells_nothing(body: bytes, site: Site) -> None:
    """No path of this machine, no trace of the program."""
    text = body.decode("utf-8", "replace")
    folders = (str(site.root), str(site.root.parent), str(Path(__file__).parents[2]), "root:x:", "site-packages")
    for word in (*folders, "Traceback", "Error(", ".py"):
        assert word not in text, text[:500]


@pytest.mark.parametrize("bad", TRAVERSALS.values(), ids=TRAVERSALS.keys())
def test_no_part_of_an_address_leads_out_of_the_results(bad: str, site: Site) -> None:
    for place in PLACES:
        status, body, headers = raw(site.url, place.replace("{}", bad))
        # an answer to something else is no leak: some of these leave the address of another endpoint
        assert status in (303, 307, 400, 404, 422) or b'"sets"' in body, (place, status, body[:300])
        assert "X-Injected" not in headers
        assert_tells_nothing(body, site)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"{API}/examples?limit=0", 422),
        (f"{API}/examples?limit=1001", 422),
        (f"{API}/examples?limit=99999999999999999999999999", 422),
        (f"{API}/examples?offset=-1", 422),
        (f"{API}/examples?offset=99999999999999999999999999", 422),
        (f"{API}/examples?limit=many", 422),
        (f"{API}/examples?limit=1e3", 422),
        (f"{API}/examples?nonsense=1", 422),
        (f"{API}/examples?order=sideways", 422),
        (f"{API}/examples?right=maybe", 422),
        (f"{API}/examples?id=99999999999999999999999999", 422),
        (f"{API}/examples?id=-5", 422),
        (f"{API}/examples?right=right&right=wrong", 422),
        (f"{API}/examples.csv?path=0&path=1", 422),
        (f"{API}/routes?limit=1&limit=1", 422),
        (f"{API}/examples?{'&'.join(f'label={i}' for i in range(51))}", 422),
        (f"{API}/examples.csv?{'&'.join(f'attribute={i}&cluster={i}' for i in range(26))}", 422),
        (f"{API}/examples?{'&'.join(f'id={i}' for i in range(1001))}", 422),
        (f"{API}/examples?{'&'.join(f'id={i}' for i in range(1000))}", 200),
        (f"{API}/examples?label={'9' * 2001}", 422),
        (f"{API}/examples?label=Purple", 404),
        (f"{API}/examples?attribute=Sixlegged", 404),
        (f"{API}/examples?split=%ff", 404),
        (f"{API}/examples?path=one-two", 404),
        (f"{API}/examples?path=1-2-3-4-0-1-2-3", 404),
        (f"{API}/examples?cluster=conv1", 404),
        (f"{API}/examples?cluster=conv9:1", 404),
        (f"{API}/examples?cluster=conv1:99999999999999999999999", 404),
        (f"{API}/examples.csv?label=Purple", 404),
        (f"{API}/paths?order=strange", 422),
        (f"{API}/paths?limit=5000", 422),
        (f"{API}/paths/1-2", 404),
        (f"{API}/paths/0-0-0-0-0-0", 404),
        (f"{API}/paths/a-b-c-d-e", 404),
        (f"{API}/paths/99999999999999999999-0-0-0-0", 404),
        (f"{API}/clusters/conv9/0", 404),
        (f"{API}/clusters/conv1/99", 404),
        (f"{API}/clusters/conv1/-1", 422),
        (f"{API}/clusters/conv1/0/exemplars?kind=best", 422),
        (f"{API}/examples/9223372036854775807", 404),
        (f"{API}/examples/9223372036854775808", 422),
        (f"{API}/examples/0/image?size=17", 422),
        (f"{API}/examples/0/image?size=100000", 422),
        ("/api/v1/comparisons", 422),
        ("/api/v1/comparisons?first=SampleFaces&second=SampleFaces/set_02", 404),
        ("/api/v1/comparisons?first=SampleFaces/set_01&second=Foreign/set_01", 422),
        ("/api/v1/models/Foreign/sets/set_02/routes", 404),
        ("/api/v1/nothing", 404),
        ("/models/SampleFaces/sets/set_01/paths?limit=99999999999999999999999999&offset=-5", 200),
        ("/explore/SampleFaces/set_01/paths/1-2", 404),
        ("/explore/SampleFaces/set_01/clusters/conv9/1", 404),
        ("/explore/SampleFaces/set_01/examples/abc", 404),
        ("/explore/SampleFaces/set_01/examples/99999999999999999999999999", 404),
    ],
)
def test_each_is_refused_in_plain_words(target: str, status: int, site: Site) -> None:
    got, body, headers = raw(site.url, target)
    got = 404 if target.startswith("/explore") and got == 422 else got
    assert got == status, body[:500]
    assert_tells_nothing(body, site)
    if status >= 400 and target.startswith("/api"):
        assert len(json.loads(body)["detail"]) > 10
    elif status >= 400:
        assert headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        (b"[]", 422),
        (b'{"path": "2-0-4"}', 400),
        (b'{"path": {}}', 400),
        (b'{"path": 5}', 400),
        (b'{"path": ["a", "b"]}', 400),
        (b'{"path": [1, 2]}', 400),
        (b'{"path": [99999999999999999999999999, 0, 0, 0, 0]}', 400),
        (b'{"path": [0, 0, 0, 0, 0], "limit": "many"}', 422),
        (b'{"path": [NaN]}', 400),
        (b"[" * 50_000, 422),
    ],
    ids=lambda value: str(value[:30]) if isinstance(value, bytes) else str(value),
)
def test_a_path_that_is_none(body: bytes, status: int, site: Site) -> None:
    done = patient.post(f"{site.url}/images/path", content=body, headers={"Content-Type": "application/json"})
    # of the wrong length or too large: no example takes it, or it is refused; never more
    assert done.status_code in (status, 400, 404, 422), done.text[:300]
    assert_tells_nothing(done.content, site)


# images


FILES = {
    "50 megapixels": (declared_png(10_000, 5_000), 413),
    "17 megapixels of WebP": (picture("WEBP", (16_000, 1_063)), 413),
    "a bomb": (declared_png(2**31 - 1, 2**31 - 1), 413),
    "text": (b"this is no image\n", 415),
    "a page": (b"<!doctype html><script>alert(1)</script>", 415),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', 415),
    "empty": (b"", 422),
    "truncated JPEG": (picture("JPEG", (300, 300))[:700], 422),
    "truncated PNG": (picture("PNG", (300, 300))[:60], 422),
    "TIFF": (picture("TIFF"), 415),
    "21 MB": (b"\xff\xd8\xff" + bytes(21_000_000), 413),
    "20.05 MB": (b"\xff\xd8\xff" + bytes(20_050_000), 413),
}


@pytest.mark.parametrize(("content", "status"), FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_image_to_explain(content: bytes, status: int, site: Site) -> None:
    for address in (f"{site.url}{API}/explain", f"{site.url}{site.overview}/image"):
        done = httpx.post(address, files={"image": ("../../etc/passwd", content, "image/jpeg")}, timeout=30)
        assert done.status_code == status, done.text[:300]
        assert_tells_nothing(done.content, site)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_an_image_of_each_kind_is_explained_whatever_it_is_called(kind: str, site: Site) -> None:
    done = patient.post(f"{site.url}{API}/explain", files={"image": ("../x.txt", picture(kind), "text/plain")})
    assert done.status_code == 200, done.text
    assert done.json()["image"] == "x.txt"
    assert len(done.json()["path"]) == 5


def test_an_image_for_a_set_that_does_not_say_its_model(site: Site) -> None:
    done = patient.post(f"{site.url}/api/v1/models/Foreign/sets/set_01/explain", files={"image": ("x.jpg", picture())})
    assert done.status_code == 409
    assert "does not say which model" in done.json()["detail"]


@pytest.mark.parametrize(
    ("content", "headers", "statuses"),
    [
        (b"", {"Content-Type": "multipart/form-data"}, (400, 422)),
        (b"--x", {"Content-Type": "multipart/form-data; boundary=y"}, (400,)),
        (b"image=1", {"Content-Type": "application/x-www-form-urlencoded"}, (422,)),
        (b"{}", {"Content-Type": "application/json"}, (400, 422)),
    ],
)
def test_a_form_that_is_none(content: bytes, headers: dict[str, str], statuses: tuple[int, ...], site: Site) -> None:
    done = patient.post(f"{site.url}{API}/explain", content=content, headers=headers)
    assert done.status_code in statuses, done.text
    assert_tells_nothing(done.content, site)


# sets that come and go


@pytest.fixture
def own(results: Path, tmp_path: Path) -> Iterator[Site]:
    """A copy that a test may change, served; the set's images and model stay where they are."""
    root = tmp_path / "results"
    ignored = shutil.ignore_patterns("conv?", "fc?", "centroids.json", "report.html", "*.lock")
    shutil.copytree(results / "SampleFaces", root / "SampleFaces", ignore=ignored)
    with serving(root) as address:
        yield Site(address, root)


def test_a_set_that_is_deleted_while_it_is_served(own: Site) -> None:
    with patient.client(base_url=own.url) as client:
        assert client.get(f"{API}/routes").status_code == 200
        shutil.rmtree(own.root / "SampleFaces" / "set_01")
        for place in (f"{API}/routes", f"{API}/paths", f"{API}/examples.csv", own.overview):
            gone = client.get(place)
            assert gone.status_code == 404, gone.text[:300]
            assert_tells_nothing(gone.content, own)
        assert client.get("/api/v1/models/SampleFaces/sets/set_02/routes").status_code == 200
        shutil.rmtree(own.root)
        for place in ("/api/v1/models", "/", "/models", "/images/example/0"):
            after = client.get(place)
            assert after.status_code in (200, 404), after.text[:300]
            assert_tells_nothing(after.content, own)


def test_a_set_that_is_half_there_is_named_as_a_problem_and_not_served(own: Site) -> None:
    half = own.root / "SampleFaces" / "set_03"
    half.mkdir()
    shutil.copy(own.root / "SampleFaces" / "set_01" / "set.json", half)
    (own.root / "SampleFaces" / ".set_04.partial").mkdir()
    with patient.client(base_url=own.url) as client:
        model = client.get("/api/v1/models/SampleFaces").json()
        assert [one["set"] for one in model["sets"]] == ["set_01", "set_02"]
        assert len(model["problems"]) == 1
        assert_tells_nothing(json.dumps(model).encode(), own)
        for place in ("/api/v1/models/SampleFaces/sets/set_03/routes", "/explore/SampleFaces/set_03"):
            refused = client.get(place)
            assert refused.status_code in (404, 503)
            assert_tells_nothing(refused.content, own)


DAMAGE = pytest.mark.parametrize("content", [b"", b"{}", b"PAR1 and nothing more PAR1"], ids=["empty", "{}", "text"])
FILE = pytest.mark.parametrize("file", ["set.json", "paths.parquet"])


@DAMAGE
@FILE
def test_a_set_whose_file_is_damaged_is_not_served(file: str, content: bytes, own: Site) -> None:
    (own.root / "SampleFaces" / "set_01" / file).write_bytes(content)
    with patient.client(base_url=own.url) as client:
        for place in (f"{API}/routes", f"{API}/examples.csv", own.overview, f"{own.overview}/ask"):
            done = client.get(place)
            assert done.status_code in (404, 503), (place, done.text[:300])
            assert_tells_nothing(done.content, own)
        assert client.get("/api/v1/models/SampleFaces/sets/set_02/routes").status_code == 200


@DAMAGE
@FILE
def test_a_damaged_set_is_a_problem_told_without_its_place(file: str, content: bytes, own: Site) -> None:
    (own.root / "SampleFaces" / "set_01" / file).write_bytes(content)
    with patient.client(base_url=own.url) as client:
        for place in ("/", "/api/v1/models"):
            done = client.get(place)
            assert done.status_code == 200
            assert_tells_nothing(done.content, own)


def test_a_model_that_is_gone_is_said_without_its_place(own: Site) -> None:
    path = own.root / "SampleFaces" / "set_01" / "set.json"
    record = json.loads(path.read_text())
    record["config"]["model"] = str(own.root / "nowhere.onnx")
    path.write_text(json.dumps(record))
    done = httpx.post(f"{own.url}{API}/explain", files={"image": ("x.jpg", picture())}, timeout=30)
    assert done.status_code == 409
    assert "SampleFaces_CNN.onnx, is no longer where it was" in done.json()["detail"]
    assert_tells_nothing(done.content, own)


# many, slow and broken clients


def test_200_connections_at_once_are_all_answered(site: Site) -> None:
    barrier = threading.Barrier(200)

    def ask(number: int) -> int:
        barrier.wait(30)
        return raw(site.url, f"{API}/examples?limit=5&offset={number % 50}")[0]

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(ask, range(200)))
    assert set(answers) <= {200, 503}
    assert answers.count(200) >= 150
    assert patient.get(f"{site.url}/health").json() == {"status": "ok"}


def test_a_client_that_sends_half_a_request_keeps_nobody_waiting(site: Site) -> None:
    place = urlsplit(site.url)
    started = (b"GET / HT", b"POST /images/path HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{")
    left = [socket.create_connection((place.hostname, place.port), timeout=10) for _ in range(40)]
    try:
        for number, connection in enumerate(left):
            connection.sendall(started[number % 2])
        began = time.monotonic()
        assert patient.get(f"{site.url}{API}/routes").status_code == 200
        assert time.monotonic() - began < 5
    finally:
        for connection in left:
            connection.close()


def test_what_is_not_http_is_refused(site: Site) -> None:
    place = urlsplit(site.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00 this is TLS, or the like\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert patient.get(f"{site.url}/health").status_code == 200


@pytest.mark.parametrize("error", [OSError(errno.EIO, "", "/disk/secret"), MemoryError()])
def test_an_error_of_the_machine_is_a_clean_503(site: Site, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise error

    assert patient.get(f"{site.url}/models/SampleFaces/metadata").status_code == 200
    monkeypatch.setattr("clusterpaths.explore.documents.metadata", fails)
    answer = patient.get(f"{site.url}/models/SampleFaces/metadata")
    assert answer.status_code == 503
    assert "secret" not in answer.text
