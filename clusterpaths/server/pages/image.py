"""…/image: an uploaded image and its explanation by a set.

Belongs here: the page around an `Explanation`. `explanation/uploaded.py` runs the model, `server/uploads.py` checks limits,
`report/explanation.py` writes the sentences.
"""

from __future__ import annotations

import base64
import io
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import HTMLResponse
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clusterpaths.common.disclosure import describe
from clusterpaths.errors import ClusterPathsError
from clusterpaths.explanation.uploaded import Explained
from clusterpaths.explore.index import SetIndex
from clusterpaths.server.api.v1 import LARGEST_INT
from clusterpaths.server.dependencies import LibraryOf, SettingsOf
from clusterpaths.server.pages.lists import list_of
from clusterpaths.server.pages.rendering import render
from clusterpaths.server.pages.specimen import of_explained
from clusterpaths.server.settings import ServeConfig
from clusterpaths.server.uploads import explain_own, explain_upload

LISTED = 6  # classes
TITLES = {
    409: "This set cannot explain images",
    413: "This image is too large",
    415: "This is not an image",
    422: "This image cannot be decoded",
    503: "Busy",
}

router = APIRouter()


@router.get("/explore/{model}/{set_name}/image", response_class=HTMLResponse)
def image_page(request: Request, library: LibraryOf, settings: SettingsOf, model: str, set_name: str) -> HTMLResponse:
    """The form."""
    index = library.set(model, set_name)
    request.app.state.explainer.prepare(index)
    return _page(request, index, settings)


@router.post("/explore/{model}/{set_name}/image", response_class=HTMLResponse)
async def explained_page(
    request: Request,
    library: LibraryOf,
    settings: SettingsOf,
    model: str,
    set_name: str,
    image: UploadFile | None = None,
    example: Annotated[int | None, Form(ge=0, le=LARGEST_INT)] = None,
    list_query: Annotated[str, Form(alias="list")] = "",
) -> HTMLResponse:
    """The explanation of the uploaded image, or of an example of the set, or the form with an error message.

    `list_query`: of the list that the example was opened from, to lead back to it.
    """
    index = await run_in_threadpool(library.set, model, set_name)
    if example is None and (image is None or not image.filename):
        problem = "No file came with the request. Expected a picture file in the field image; choose one and send it."
        return await run_in_threadpool(_failed, request, index, settings, 422, problem)
    query = ""
    try:
        if example is not None:
            query = await list_of(request, index, list_query, example)
            explained = await explain_own(request, index, example)
        else:
            assert image is not None
            explained = await explain_upload(request, index, image)
    except ClusterPathsError as error:
        return await run_in_threadpool(_failed, request, index, settings, *describe(error), example, query)
    except HTTPException as error:
        problem = str(error.detail)
        return await run_in_threadpool(_failed, request, index, settings, error.status_code, problem, example, query)

    return await run_in_threadpool(
        lambda: _page(request, index, settings, **_explained(explained, index, example), list_query=query)
    )


def _failed(
    request: Request,
    index: SetIndex,
    settings: ServeConfig,
    status: int,
    problem: str,
    example: int | None = None,
    list_query: str = "",
) -> HTMLResponse:
    values = {
        "problem": problem[:1].upper() + problem[1:],
        "problem_title": TITLES.get(status, "The request failed"),
        "example": example if example is not None and example in index.ids else None,
        "list_query": list_query,
    }
    return _page(request, index, settings, status, **values)


def _page(request: Request, index: SetIndex, settings: ServeConfig, status: int = 200, **values: Any) -> HTMLResponse:
    defaults: dict[str, Any] = {"e": None, "example": None, "problem": "", "problem_title": ""}
    return render(
        request,
        "image.html",
        status=status,
        index=index,
        able=index.record is not None and index.distances is not None,
        limit=settings.max_upload,
        pixels=settings.max_pixels,
        **defaults | values,
    )


def _explained(explained: Explained, index: SetIndex, example: int | None) -> dict[str, Any]:
    """What the template shows of an explanation."""
    from clusterpaths.report import explanation as words
    from clusterpaths.report.examples import example_title

    explanation = explained.explanation
    return {
        "e": explanation,
        "example": example,
        "picture": _as_address(explained.small),
        "headline": words.headline(explanation),
        "s": of_explained(index, explanation, example),
        "counterfactual": words.counterfactual(explanation),
        "change": words.change,
        "how_changed": words.HOW_CHANGED,
        "both_routes": words.both_routes(explanation),
        "unchanged": words.unchanged(explanation),
        "sankey": words.two_routes(explanation, index),
        "title_of": example_title,
        "classes_shown": LISTED,
    }


def _as_address(small: Image.Image) -> str:
    """A small image as a data: address."""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
