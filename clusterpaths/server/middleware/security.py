"""Who may ask, and what a browser may do with an answer.

Belongs here: security headers, and the checks of host, origin and token. What shows the token is `sessions.py`'s, how much
may be sent `body_limit.py`'s.

Threats: other people in the network (a token, unless only this machine is served); a page of another site in the user's
own browser, which reaches 127.0.0.1 too (hosts, against DNS rebinding; origins, against posting; no CORS but for sites
that were named); text of a data set on a page (the content security policy: no script but our files).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.server.addresses import is_page
from clusterpaths.server.sessions import shows_token
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
        if shows_token(headers, self.settings.token):
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
