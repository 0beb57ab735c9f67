"""Access control and security headers.

Belongs here: the headers, and the checks of host, origin and token. `sessions.py` validates tokens, `body_limit.py`
limits the size of requests.

Threats: other users of the network (a token, unless only this machine is served); a page of another site in the user's
browser, which can reach 127.0.0.1 (host check against DNS rebinding, origin check against cross-site requests, CORS only
for allowed sites); text of a data set on a page (content security policy: only scripts of this server).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterpaths.server.addresses import is_page
from clusterpaths.server.sessions import is_authenticated
from clusterpaths.server.settings import ServeConfig

# plotly.js adds two style elements to a page and fills them through the CSSOM, which the policy allows; these are the
# hashes of their initial contents: nothing, and plotly 7's rule against flicker. If a later version changes them, its
# styles are blocked and the browser's console reports it; tests with a browser detect that.
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
_OPEN = ("/health", "/login")  # and /static, which hold no data of sets
_SAFE = ("GET", "HEAD", "OPTIONS")


class SecurityHeaders:
    """ASGI middleware: adds headers to every response, except those that it already has.

    `by_origin`: add Vary: Origin, as responses differ by origin.
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
        """The response to a rejected request; None if it is allowed."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.knows(host):
            text = "unknown host name of this server; add it with --allowed-host"
            return _refuse(400, text)
        if scope["method"] not in _SAFE and not self.is_same_site(headers, host):
            return _refuse(403, "requests from pages of another site are not allowed; allow it with --origin")
        path: str = scope["path"]
        if self.settings.token is None or path in _OPEN or path.startswith("/static/"):
            return None
        if is_authenticated(headers, self.settings.token):
            return None
        if is_page(path) and scope["method"] in _SAFE:
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"/login?next={quote(quote(path) + ('?' + query if query else ''), safe='')}", 303)
        text = "this server requires a token: send the header Authorization: Bearer TOKEN"
        return _refuse(401, text, {"WWW-Authenticate": 'Bearer realm="clusterpaths"'})

    def knows(self, host: str) -> bool:
        """Whether the Host header names this server. Any IP address is accepted if all are served, as DNS rebinding needs a
        name."""
        name = _host_name(host)
        return name in self.hosts or (self.any_address and _is_address(name))

    def is_same_site(self, headers: Headers, host: str) -> bool:
        """Whether a modifying request comes from no browser, from this server's pages, or from an allowed site."""
        origin = headers.get("origin")
        if origin is not None:
            return origin.lower() in self.settings.origin or urlsplit(origin).netloc.lower() == host.lower()
        return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _refuse(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """JSON, not the error page, which lists the models."""
    return JSONResponse({"detail": text}, status, headers)


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - compared, not bound


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
