"""Who is let in, what a browser is told, and how much may be sent."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from clusterpaths.server import sessions
from clusterpaths.server.addresses import local_address
from clusterpaths.server.app import create_app
from clusterpaths.server.sessions import COOKIE, SESSION_SECONDS, new_session
from clusterpaths.server.settings import ServeConfig
from tests import patient
from tests.server.asking import picture, raw
from tests.server.conftest import Site
from tests.server.made import write_foreign
from tests.serving import serving

TOKEN = "correct horse battery staple"
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
API = "/api/v1/models/SampleFaces/sets/set_01"
CLOSED = (
    "/models",
    "/images/example/0",
    "/api/v1/models",
    "/api/v1/openapi.json",
    f"{API}/examples/0/image",
    "/nothing",
)
PAGES = ("/", "/explore/SampleFaces/set_01", "/compare?first=a/b&second=c/d")


@pytest.fixture(scope="module")
def locked(results: Path) -> Iterator[str]:
    """The same results behind a token."""
    with serving(results, token=TOKEN) as address:
        yield address


@pytest.fixture
def client(locked: str) -> Iterator[httpx.Client]:
    with patient.client(base_url=locked) as client:
        yield client


# the token


def test_without_the_token_programs_get_401_and_people_the_login(client: httpx.Client) -> None:
    for place in CLOSED:
        refused = client.get(place)
        assert refused.status_code == 401, place
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "SampleFaces" not in refused.text
    for place in PAGES:
        sent_on = client.get(place)
        assert sent_on.status_code == 303, place
        assert httpx.URL(sent_on.headers["location"]).params["next"] == place
    for place in ("/run", "/images/path", f"{API}/explain", "/explore/SampleFaces/set_01/image"):
        assert client.post(place).status_code == 401


def test_health_login_and_what_pages_are_drawn_with_stay_open(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    login = client.get("/login")
    assert login.status_code == 200
    assert "SampleFaces" not in login.text
    for asset in re.findall(r'(?:href|src)="(/static/[^"]+)"', login.text):
        assert client.get(asset).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xfc\xff", TOKEN],
)
def test_only_the_whole_token_opens(authorization: str, client: httpx.Client) -> None:
    header = {"Authorization": authorization.encode("latin-1")}
    assert client.get("/api/v1/models", headers=header).status_code == 401  # type: ignore[arg-type]


def test_the_token_opens_everything(client: httpx.Client) -> None:
    for place in ("/models", "/api/v1/models", "/", "/explore/SampleFaces/set_01"):
        assert client.get(place, headers=SHOWN).status_code == 200
    assert client.get("/api/v1/models", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


def test_the_token_in_an_address_opens_nothing(client: httpx.Client) -> None:
    assert client.get("/api/v1/models", params={"token": TOKEN}).status_code == 401


# the session of a browser


def test_the_login_gives_a_session_that_scripts_and_other_sites_do_not_see(client: httpx.Client) -> None:
    done = client.post("/login?next=/compare", data={"token": TOKEN, "next": "/explore/SampleFaces/set_01?a=1"})
    assert (done.status_code, done.headers["location"]) == (303, "/explore/SampleFaces/set_01?a=1")
    cookie = SimpleCookie(done.headers["set-cookie"])[COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"].lower() == "lax"  # a shared link opens; posting is refused by where it comes from
    assert cookie["path"] == "/"
    assert TOKEN not in done.headers["set-cookie"]
    assert client.get("/explore/SampleFaces/set_01").status_code == 200  # the client keeps cookies
    assert client.get("/api/v1/models").status_code == 200
    assert client.get("/login?next=/compare").headers["location"] == "/compare"


@pytest.mark.parametrize("given", ["", "wrong", TOKEN.upper(), "x" * 5000, "\xff", "a&token=b"])
def test_a_wrong_token_gives_none(given: str, client: httpx.Client) -> None:
    refused = client.post("/login", data={"token": given})
    assert refused.status_code == 401
    assert "set-cookie" not in refused.headers


def test_a_login_of_many_bytes_is_refused(client: httpx.Client) -> None:
    assert client.post("/login", content=b"token=" + b"a" * 10_000).status_code == 413


def session_of(when: float) -> str:
    """As `new_session` at that time."""
    signer = sessions.signer(TOKEN)
    signer.get_timestamp = lambda: int(when)  # type: ignore[method-assign]
    return signer.sign("session").decode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        TOKEN,
        "1.2",
        new_session("another token of 16"),
        session_of(time.time() - SESSION_SECONDS - 2),
        session_of(time.time() + 24 * 3600),
        "9" + new_session(TOKEN),
        new_session(TOKEN)[:-1],
        "²." + new_session(TOKEN).partition(".")[2],
        "9" * 5000 + ".a",
    ],
    ids=["empty", "token", "numbers", "other token", "old", "of tomorrow", "later", "cut", "digit", "huge"],
)
def test_a_made_up_or_old_session_opens_nothing(value: str, client: httpx.Client) -> None:
    header = {b"Cookie": f"{COOKIE}={value}".encode()}
    assert client.get("/api/v1/models", headers=header).status_code == 401  # type: ignore[arg-type]


def test_a_session_is_found_among_other_cookies(client: httpx.Client) -> None:
    cookies = f"a=b; bad[]=,@; {COOKIE}=old; {COOKIE}={new_session(TOKEN)}; z"
    assert client.get("/api/v1/models", headers={"Cookie": cookies}).status_code == 200
    late = f"{COOKIE}={session_of(time.time() - SESSION_SECONDS + 60)}"
    assert client.get("/api/v1/models", headers={"Cookie": late}).status_code == 200


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "evil",
        "",
        "/a\r\nSet-Cookie: x=y",
        "/\tevil",
        "http:/evil.example",
    ],
)
def test_after_the_login_one_stays_on_this_server(target: str, client: httpx.Client) -> None:
    assert local_address(target) == "/"
    done = client.post("/login", data={"token": TOKEN, "next": target})
    assert done.headers["location"] == "/"
    assert "x" not in done.cookies


# what must be said before others are let in


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "myhost", ""])
def test_other_machines_need_a_token_or_the_word_insecure(host: str) -> None:
    with pytest.raises(ValidationError, match="CLUSTERPATHS_TOKEN"):
        ServeConfig(host=host)
    assert ServeConfig(host=host, token=TOKEN).token == TOKEN
    assert ServeConfig(host=host, insecure=True).insecure


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "LOCALHOST"])
def test_this_machine_alone_needs_none(host: str) -> None:
    assert ServeConfig(host=host).local


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "short"}, "at least 16 plain characters, got 5"),
        ({"token": "schlüssel" * 3}, "plain characters"),
        ({"origin": ("*",)}, "no wildcard"),
        ({"origin": ("dashboard.example",)}, "scheme, host and port"),
        ({"origin": ("https://a.example/path",)}, "scheme, host and port"),
        ({"allowed_host": ("a.example:80",)}, "without port"),
        ({"allowed_host": ("*",)}, "a host's name"),
    ],
)
def test_options_that_would_open_too_much_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        ServeConfig(**options)  # type: ignore[arg-type]


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(ServeConfig(token=TOKEN))


# hosts and origins


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1"],
)
def test_a_name_that_is_not_ours_is_refused(host: str, site: Site) -> None:
    for place in ("/health", "/", "/api/v1/models", "/login", "/static/explorer.css"):
        status, body, _ = raw(site.url, place, Host=host)
        assert status == 400, (place, body[:200])
        assert b"SampleFaces" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "localhost."])
def test_names_of_this_machine_are_ours(host: str, site: Site) -> None:
    assert raw(site.url, "/health", Host=host)[0] == 200


def test_another_name_can_be_allowed(results: Path) -> None:
    with serving(results, allowed_host=("paths.example",)) as address:
        assert raw(address, "/health", Host="Paths.example:8443")[0] == 200
        assert raw(address, "/health", Host="other.example")[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_site_cannot_send_anything(headers: dict[str, str], site: Site) -> None:
    for place in ("/run", "/images/path", "/login", f"{API}/explain", f"{site.overview}/image"):
        refused = patient.post(f"{site.url}{place}", headers=headers, files={"image": ("x.jpg", picture())})
        assert refused.status_code == 403, place


@pytest.mark.parametrize("from_where", ["own", "none", "program"])
def test_our_pages_and_programs_can(from_where: str, site: Site) -> None:
    headers = {"own": {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}, "none": {"Sec-Fetch-Site": "none"}}
    done = patient.post(
        f"{site.url}{API}/explain",
        headers=headers.get(from_where, {}),
        files={"image": ("x.jpg", picture())},
    )
    assert done.status_code == 200


def test_no_other_site_may_read_unless_it_is_named(site: Site, results: Path) -> None:
    asking = {"Origin": "https://dashboard.example"}
    assert "access-control-allow-origin" not in patient.get(f"{site.url}/models", headers=asking).headers
    with serving(results, origin=("https://dashboard.example",), token=TOKEN) as address:
        read = patient.get(f"{address}/models", headers=asking | SHOWN)
        assert read.headers["access-control-allow-origin"] == "https://dashboard.example"
        assert "access-control-allow-credentials" not in read.headers
        assert "origin" in read.headers["vary"].lower()
        preflight = patient.request(
            "OPTIONS",
            f"{address}/models",
            headers=asking
            | {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization,if-none-match"},
        )
        assert preflight.status_code == 200
        posted = patient.post(f"{address}/images/path", headers=asking | SHOWN, json={"path": "0-1"})
        assert posted.status_code == 400  # taken, and read
        other = patient.get(f"{address}/models", headers={"Origin": "https://other.example"} | SHOWN)
        assert "access-control-allow-origin" not in other.headers
        for headers in (SHOWN, asking, {}):
            for place in ("/models", f"{API}/routes", "/static/page.js"):
                varied = patient.get(f"{address}{place}", headers=headers).headers.get_list("vary", split_commas=True)
                assert varied.count("Origin") == 1, (place, headers)


# headers


@pytest.mark.parametrize(
    "place", ["/", "/health", "/nothing", "/explore/no/set", f"{API}/routes", f"{API}/examples?limit=0"]
)
def test_every_answer_tells_the_browser_to_be_careful(place: str, site: Site) -> None:
    headers = patient.get(f"{site.url}{place}").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "server" not in headers


def test_refusals_have_them_too(locked: str) -> None:
    for _, _, headers in (raw(locked, "/models"), raw(locked, "/", Host="evil.example")):
        assert "default-src 'none'" in headers["content-security-policy"]


def test_pages_hold_no_script_or_style_of_their_own(site: Site) -> None:
    for place in ("/", site.overview, f"{site.overview}/ask", f"{site.overview}/clusters/conv1/0", "/explore/no/set"):
        text = patient.get(f"{site.url}{place}").text
        assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")", text), place
        assert not re.search(r"<[^>]*\s(?:on\w+|style)=", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)), place
        assert "<style" not in text


# how answers are kept


def test_who_has_an_answer_is_not_sent_it_again(site: Site) -> None:
    with patient.client(base_url=site.url) as client:
        for place in (f"{API}/routes", f"{API}/examples?limit=5", f"{API}/examples/0/image?size=96"):
            first = client.get(place)
            assert first.headers["cache-control"] == "private, no-cache"
            again = client.get(place, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
            assert (again.status_code, again.content) == (304, b"")
            assert client.get(place, headers={"If-None-Match": '"other"'}).content == first.content


def test_a_new_set_is_on_the_first_page_at_once_and_in_the_head_of_kept_pages_soon(tmp_path: Path) -> None:
    write_foreign(tmp_path, "Old")
    with serving(tmp_path) as address, patient.client(base_url=address) as client:
        assert client.get("/").content == client.get("/").content
        write_foreign(tmp_path, "New1")
        assert "New1" in client.get("/").text
        kept = "/explore/Old/set_01"
        assert client.get(kept).content == client.get(kept).content
        write_foreign(tmp_path, "New2")
        deadline = time.monotonic() + 20
        while "New2" not in client.get(kept).text:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_picture_is_kept_for_an_hour_under_its_sets_version(site: Site) -> None:
    version = patient.get(f"{site.url}{API}").json()["version"]
    picture_of = f"{site.url}{API}/examples/0/image"
    kept = patient.get(picture_of, params={"size": 96, "v": version})
    assert kept.headers["content-type"] == "image/jpeg"
    assert kept.headers["cache-control"] == "private, max-age=3600"
    assert kept.content[:3] == b"\xff\xd8\xff"
    assert patient.get(picture_of, params={"size": 96, "v": "old"}).headers["cache-control"] == "private, no-cache"


def test_a_page_is_asked_for_again_and_a_file_of_a_version_never(site: Site) -> None:
    with patient.client(base_url=site.url) as client:
        for place in ("/", site.overview, f"{site.overview}/ask", "/compare", f"{site.overview}/image", "/explore/x/y"):
            assert client.get(place).headers["cache-control"] == "private, no-cache", place
        files = re.findall(r'(?:href|src)="(/static/[^"]+)"', client.get(site.overview).text)
        assert any("explorer.css?v=" in file for file in files)
        for file in files:
            assert client.get(file).headers["cache-control"] == "public, max-age=31536000, immutable", file
        for other in ("explorer.css", "explorer.css?v=", "explorer.css?v=0", "./explorer.css?v=0"):
            assert client.get(f"/static/{other}").headers["cache-control"] == "public, no-cache", other


# bodies


def test_a_body_beyond_the_limit_is_refused_whatever_it_says_of_its_length(results: Path) -> None:
    with serving(results, max_upload_mb=0.05) as address:
        place = f"{address}{API}/explain"
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'

        def pieces() -> Iterator[bytes]:
            yield head
            for _ in range(20):
                yield bytes(50_000)

        announced = patient.post(place, headers=form, content=head + bytes(300_000))
        chunked = patient.post(place, headers=form, content=pieces())
        assert (announced.status_code, chunked.status_code) == (413, 413)
        assert "MB" in chunked.json()["detail"]
        whole = patient.post(place, files={"image": ("x.jpg", picture())})
        assert whole.status_code == 200
        json_body = patient.post(f"{address}/images/path", content=b'{"path": [' + b"1," * 200_000 + b"1]}")
        assert json_body.status_code == 413


# the log, and bugs


def test_a_request_is_one_line_of_the_log_and_cannot_write_another(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "clusterpaths.server"):
        raw(site.url, '/models/%0aforged%1b[31m"/sets?secret=1', X_Forwarded_For="6.6.6.6")
        patient.get(f"{site.url}/health")
        time.sleep(0.1)
    [first, second] = [line for line in caplog.messages if "ms" in line]
    assert re.fullmatch(r"127\.0\.0\.1 GET /models/%0aforged\S*/sets\?… 404 [\d.]+ ms \d+ B", first)
    assert re.fullmatch(r"127\.0\.0\.1 GET /health 200 [\d.]+ ms 15 B", second)
    assert "secret" not in first
    assert first.isprintable()


def test_a_bug_is_in_the_log_and_not_in_the_answer(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(ServeConfig(cache_root=results, origin=("https://dashboard.example",)))

    def broken() -> None:
        raise RuntimeError(f"a secret of {results}")

    app.state.library.models = broken  # what no request can bring about
    with patient.client(transport=_Sync(app), base_url="http://localhost") as client:
        for place in ("/api/v1/models", "/"):
            answer = client.get(place, headers={"Origin": "https://dashboard.example"})
            assert answer.status_code == 500
            assert answer.headers["access-control-allow-origin"] == "https://dashboard.example"
            assert "secret" not in answer.text
            found = re.search(r"at ([0-9a-f]{8})", answer.text)
            assert found
            assert any(f"[{found[1]}]" in line for line in caplog.messages)
            assert "content-security-policy" in answer.headers
    assert "a secret of" in caplog.text


def test_the_disk_is_looked_at_in_threads_and_never_without_the_token(results: Path) -> None:
    app = create_app(ServeConfig(cache_root=results, token=TOKEN))
    scan, threads = app.state.library._scan, list[int]()
    app.state.library._scan = lambda: (threads.append(threading.get_ident()), scan())[1]
    with patient.client(transport=_Sync(app), base_url="http://localhost") as client:
        assert client.get("/login").status_code == 200
        assert client.post("/login", data={"token": "wrong"}).status_code == 401
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
        assert threads == []
        for place in ("/explore/no/set", "/explore/SampleFaces/set_01/nothing", "/explore"):
            assert client.get(place, headers=SHOWN).status_code == 404
        assert threads
        assert threading.get_ident() not in threads  # _Sync's loop runs in this one


class _Sync(httpx.BaseTransport):
    """An ASGI application in this thread."""

    def __init__(self, app: object) -> None:
        self.transport = httpx.ASGITransport(app)  # type: ignore[arg-type]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        import asyncio

        async def handle() -> httpx.Response:
            request.stream = httpx.ByteStream(request.read())
            answer = await self.transport.handle_async_request(request)
            content = await answer.aread()
            return httpx.Response(answer.status_code, headers=answer.headers, content=content)

        return asyncio.run(handle())
