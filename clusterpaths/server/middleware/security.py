"""Who may ask, and what a browser may do with an answer.

Belongs here: security headers, the host and origin checks, the token and the session it gives a browser. How much may be
sent is `uploads.py`.

Threats: other people in the network (a token, unless only this machine is served); a page of another site in the user's
own browser, which reaches 127.0.0.1 too (hosts, against DNS rebinding; origins, against posting; no CORS but for sites
that were named); text of a data set on a page (the content security policy: no script but our files).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import time
from collections.abc import Iterable
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.server.errors import is_page
from clusterpaths.server.settings import ServeConfig

# plotly.js puts two style elements into a page and fills them through the CSSOM, which no policy forbids; these are the
# hashes of what they hold at first: nothing, and the rule that plotly 7 keeps against a flicker. Should a later version
# say something else, its look suffers and the browser's console says so; tests with a browser would see it.
_PLOTLY_STYLES = (
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
    "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
)
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        f"style-src 'self' {' '.join(_PLOTLY_STYLES)}",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }.items()
]
_OPEN = ("/health", "/login")  # and /static: nothing of a set is there
_SAFE = ("GET", "HEAD", "OPTIONS")
COOKIE = "clusterpaths_session"
SESSION_SECONDS = 7 * 24 * 3600
_LONGEST_FORM = 8192

router = APIRouter(include_in_schema=False)


class SecurityHeaders:
    """ASGI middleware: the headers of every answer; one that an answer sets itself stays.

    `by_origin`: answers differ by who asks, also those without a header that says so (for caches on the way).
    """

    def __init__(self, app: ASGIApp, *, by_origin: bool = False) -> None:
        self.app, self.by_origin = app, by_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                own = {name for name, _ in headers}
                message["headers"] = headers + [header for header in _HEADERS if header[0] not in own]
                if self.by_origin and not any(n == b"vary" and b"origin" in v.lower() for n, v in headers):
                    message["headers"].append((b"vary", b"Origin"))
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


class Gate:
    """ASGI middleware: host, origin, then token."""

    def __init__(self, app: ASGIApp, settings: ServeConfig) -> None:
        self.app, self.settings = app, settings
        self.any_address = _is_wildcard(settings.host)
        self.hosts = {"localhost", "127.0.0.1", "::1", settings.host.lower().strip("[]"), *settings.allowed_host}
        if not settings.local:
            self.hosts |= {socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that may not be answered; None for one that may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.knows(host):
            text = "this server is not known by the name that was asked for; add it with --allowed-host"
            return _refuse(400, text)
        if scope["method"] not in _SAFE and not self.from_our_pages(headers, host):
            return _refuse(403, "a page of another site may not send this; allow it with --origin")
        path: str = scope["path"]
        if self.settings.token is None or path in _OPEN or path.startswith("/static/"):
            return None
        if _shows_token(headers, self.settings.token):
            return None
        if is_page(path) and scope["method"] in _SAFE:
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"/login?next={quote(quote(path) + ('?' + query if query else ''), safe='')}", 303)
        text = "this server wants its token: send the header Authorization: Bearer TOKEN"
        return _refuse(401, text, {"WWW-Authenticate": 'Bearer realm="clusterpaths"'})

    def knows(self, host: str) -> bool:
        """Whether the Host header names this server. An address cannot be rebound to another, so any will do where all are
        served."""
        name = _host_name(host)
        return name in self.hosts or (self.any_address and _is_address(name))

    def from_our_pages(self, headers: Headers, host: str) -> bool:
        """Whether a request that changes something comes from no browser, from our pages, or from a site that is allowed."""
        origin = headers.get("origin")
        if origin is not None:
            return origin.lower() in self.settings.origin or urlsplit(origin).netloc.lower() == host.lower()
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _refuse(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """Never the designed page: that one lists the models, and is for those who may see them."""
    return JSONResponse({"detail": text}, status, headers)


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::", "[::]")


def _host_name(host: str) -> str:
    """localhost:8000 -> localhost, [::1]:8000 -> ::1."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _shows_token(headers: Headers, token: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and _same(given.strip(), token):
        return True
    return any(_is_session(value, token) for value in _cookies(headers.getlist("cookie")))


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _cookies(lines: Iterable[str]) -> list[str]:
    """Values under our name; other servers of this machine leave cookies of any form beside it, as these know no ports."""
    pairs = (part.strip().partition("=") for line in lines for part in line.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


def new_session(token: str, now: float | None = None) -> str:
    """What a browser keeps instead of the token: until when, and that this server said so (HMAC-SHA256)."""
    until = int((time.time() if now is None else now) + SESSION_SECONDS)
    return f"{until}.{_signature(until, token)}"


def _is_session(value: str, token: str) -> bool:
    until, _, signature = value.partition(".")
    if not (until.isascii() and until.isdigit() and len(until) < 15):
        return False
    return _same(signature, _signature(int(until), token)) and int(until) > time.time()


def _signature(until: int, token: str) -> str:
    return hmac.new(token.encode(), f"clusterpaths session until {until}".encode(), hashlib.sha256).hexdigest()


def local_address(given: str) -> str:
    """Where to go after the login: an address of this server, else the start page."""
    plain = given.isascii() and given.isprintable() and "\\" not in given
    return given if plain and given.startswith("/") and not given.startswith("//") else "/"


@router.get("/login")
def login_form(request: Request) -> Response:
    """The form for the token."""
    settings: ServeConfig = request.app.state.settings
    if settings.token is None or _shows_token(request.headers, settings.token):
        return RedirectResponse(local_address(request.query_params.get("next", "/")), 303)
    return _login_page(request, wrong=False)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Take the token, give a session."""
    settings: ServeConfig = request.app.state.settings
    body = await request.body()
    if len(body) > _LONGEST_FORM:
        raise HTTPException(413, f"a login takes at most {_LONGEST_FORM} bytes")
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    target = local_address(fields.get("next", [request.query_params.get("next", "/")])[0])
    if settings.token is None:
        return RedirectResponse(target, 303)
    if not _same(fields.get("token", [""])[0].strip(), settings.token):
        return await run_in_threadpool(_login_page, request, wrong=True)
    done = RedirectResponse(target, 303)
    secure = request.url.scheme == "https"
    session = new_session(settings.token)
    # Lax: a link in a chat opens what it shows; whatever changes something is asked where it comes from (Gate)
    done.set_cookie(COOKIE, session, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure)
    return done


def _login_page(request: Request, *, wrong: bool) -> Response:
    from clusterpaths.server.pages.errors import login_page

    page = login_page(request, wrong)
    page.status_code = 401 if wrong else 200
    page.headers["Cache-Control"] = "no-store"
    return page
