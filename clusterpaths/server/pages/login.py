"""/login: the form for the token, which sets a session cookie.

Belongs here: the form and its responses. `server/sessions.py` defines sessions.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clusterpaths.server.addresses import local_address
from clusterpaths.server.dependencies import SettingsOf
from clusterpaths.server.pages.rendering import render
from clusterpaths.server.sessions import COOKIE, SESSION_SECONDS, is_authenticated, new_session, same

LONGEST = 8192  # bytes of a form

router = APIRouter()


@router.get("/login")
def login_form(request: Request, settings: SettingsOf) -> Response:
    """The form for the token."""
    if settings.token is None or is_authenticated(request.headers, settings.token):
        return RedirectResponse(local_address(request.query_params.get("next", "/")), 303)
    return _form(request, 200)


@router.post("/login")
async def log_in(request: Request, settings: SettingsOf) -> Response:
    """Check the token and set the session cookie."""
    body = await request.body()
    if len(body) > LONGEST:
        raise HTTPException(413, f"a login form has at most {LONGEST} bytes")
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    target = local_address(fields.get("next", [request.query_params.get("next", "/")])[0])
    if settings.token is None:
        return RedirectResponse(target, 303)
    if not same(fields.get("token", [""])[0].strip(), settings.token):
        return await run_in_threadpool(_form, request, 401)
    done = RedirectResponse(target, 303)
    secure = request.url.scheme == "https"
    session = new_session(settings.token)
    # Lax: links from other sites work; Gate checks the origin of modifying requests
    done.set_cookie(COOKIE, session, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure)
    return done


def _form(request: Request, status: int) -> Response:
    """401: an invalid token was given. The page does not list the sets."""
    target = local_address(request.query_params.get("next", "/"))
    page = render(request, "login.html", status=status, wrong=status == 401, next=target, listed=())
    page.headers["Cache-Control"] = "no-store"
    return page
