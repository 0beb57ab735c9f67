"""The page that says what went wrong and where to go on.

Belongs here: words for a status. Which exception is which status is `server/errors.py`'s.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import HTMLResponse

from clusterpaths.explore.records import ModelSummary
from clusterpaths.server.pages.rendering import render

BEFORE_TOKEN = (400, 401, 403, 408, 413)  # may be answered before the token is checked: no set is listed
TITLES = {
    400: "This cannot be understood",
    403: "This is not allowed",
    404: "There is nothing here",
    405: "This cannot be done here",
    409: "This set is not what it was",
    413: "This is too large",
    415: "This is no image",
    422: "This cannot be answered",
    500: "Something broke",
    503: "Not available now",
}
ADVICE = {
    404: "It may have been renamed or deleted since the address was made. What is there now is listed below.",
    409: "It may have been replaced while you looked at it. Open it again from the list below.",
    413: "Make the image smaller, then drop it again.",
    415: "Drop a picture file: JPEG, PNG, WebP, BMP or GIF.",
    500: "This is a fault of the program, not yours. The server's log has the details; loading the page again may help.",
    503: "Try again in a while.",
}


def error_page(request: Request, status: int, text: str = "") -> HTMLResponse:
    """What happened, in words, with the models that there are.

    Args:
        request: the one that failed.
        status: HTTP status of the answer.
        text: what happened and what to do; empty: the usual advice.
    """
    listed: tuple[ModelSummary, ...] = () if status in BEFORE_TOKEN else request.app.state.library.models()
    said = text or ADVICE.get(status, "")
    return render(
        request,
        "error.html",
        status=status,
        title=TITLES.get(status, "This did not work"),
        text=said[:1].upper() + said[1:],
        advice=ADVICE.get(status, "") if text else "",
        number=status,
        places=tuple(model.name for model in listed if model.sets),
        listed=listed,
    )
