"""The error page.

Belongs here: title and advice for each HTTP status. `common/disclosure.py` maps exceptions to statuses.
"""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import HTMLResponse

from clusterpaths.explore.records import ModelSummary
from clusterpaths.server.pages.rendering import render

BEFORE_TOKEN = (400, 401, 403, 408, 413)  # may be sent before the token is checked, so no sets are listed
TITLES = {
    400: "Bad request",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "This set has changed",
    413: "Too large",
    415: "This is not an image",
    422: "Invalid request",
    500: "Internal error",
    503: "Temporarily unavailable",
}
ADVICE = {
    404: "It may have been renamed or deleted. The available models are listed below.",
    409: "It may have been replaced. Open it again from the list below.",
    413: "Make the image smaller, then drop it again.",
    415: "Drop a picture file: JPEG, PNG, WebP, BMP or GIF.",
    500: "This is a bug. The server's log has the details; reloading the page may help.",
    503: "Try again later.",
}


def error_page(request: Request, status: int, text: str = "") -> HTMLResponse:
    """What happened, with a list of the models.

    Args:
        request: the one that failed.
        status: HTTP status of the answer.
        text: what happened and what to do; empty: the default advice.
    """
    listed: tuple[ModelSummary, ...] = () if status in BEFORE_TOKEN else request.app.state.library.models()
    message = text or ADVICE.get(status, "")
    return render(
        request,
        "error.html",
        status=status,
        title=TITLES.get(status, "The request failed"),
        text=message[:1].upper() + message[1:],
        advice=ADVICE.get(status, "") if text else "",
        number=status,
        places=tuple(model.name for model in listed if model.sets),
        listed=listed,
    )
