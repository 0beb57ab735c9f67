"""…/map: where each example of a set lies in each layer, as a picture to select from.

Belongs here: checking the address, and what the scripts need to start. The browser draws (static/map*.js); its data are
those of `api/maps.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from clusterpaths.common.disclosure import describe
from clusterpaths.errors import ConfigError, NotFoundError
from clusterpaths.explore.ask import prepare, select
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.ranges import MOST_REGIONS
from clusterpaths.explore.records import Question
from clusterpaths.report.colours import CLASSES, NUMBERS, PATTERNS
from clusterpaths.server.addresses import api_url
from clusterpaths.server.dependencies import LibraryOf
from clusterpaths.server.pages.rendering import render
from clusterpaths.server.pages.set_view import SetView, set_view
from clusterpaths.server.questions import Pairs, question_of, tidy

VIEW = ("layer", "colour")  # parameters of the page, beside those of a Question


class Colouring(NamedTuple):
    """What points can be coloured by."""

    value: str  # in the address
    text: str
    group: str
    column: str  # of explore/maps.py; where the set lacks it, this is not offered


router = APIRouter()


@router.get("/explore/{model}/{set_name}/map", response_class=HTMLResponse)
def map_page(request: Request, library: LibraryOf, model: str, set_name: str) -> HTMLResponse:
    """The page; the selection in its address is checked here and applied by the browser."""
    index = library.set(model, set_name)
    pairs = request.query_params.multi_items()
    problem, status = "", 200
    try:
        _check(index, pairs)
    except ConfigError as error:
        problem, status = str(error), 422
    except NotFoundError as error:
        problem, status = describe(error)[1], 404
    view = set_view(index)
    return render(
        request,
        "map.html",
        status=status,
        index=index,
        summary=index.summary,
        here=f"{view.url}/map",
        has_maps=index.maps is not None,
        problem=problem,
        start=_start(index, view),
    )


def _check(index: SetIndex, pairs: Pairs) -> None:
    """Raises: ConfigError, NotFoundError: the address asks for something that the set does not have."""
    known = (*Question.model_fields, *VIEW)
    if unknown := [name for name, _ in pairs if name not in known]:
        raise ConfigError(f"Unknown parameter {unknown[0][:80]!r}. Expected one of {', '.join(known)}; remove it.")
    for name, value in pairs:
        if name == "layer":
            index.layer_index(value)
        elif name == "colour" and value not in (valid := [one.value for one in _colourings(index)]):
            listed = ", ".join(valid[:40]) + (" and more" if len(valid) > 40 else "")
            raise ConfigError(f"There is no colour {value[:80]!r}. Expected one of {listed}.")
    asked = [(name, value.strip()) for name, value in pairs if name not in VIEW]
    question, _ = question_of(tidy(asked, index.layers))
    if pairs and index.maps is not None:  # else the first picture would wait for what it does not need
        prepare(index, question)
        select(index, question)


def _colourings(index: SetIndex) -> list[Colouring]:
    """In the order of the select element. An address may ask for one that is not offered: the page takes the first."""
    first = index.layers[0]
    clusters = [Colouring(f"cluster:{layer}", f"cluster of {layer}", "Cluster", "path") for layer in index.layers]
    attributes = index.attribute_names
    return [
        Colouring("prediction", "prediction", "Class", "prediction"),
        Colouring("label", "label", "Class", "label"),
        Colouring("right", "correct or not", "Class", "right"),
        Colouring("cluster", "cluster of this layer", "Cluster", "path"),
        *(clusters if len(clusters) > 1 else ()),
        Colouring("path", "path, most frequent", "Cluster", "path"),
        Colouring("ood", "OOD score", "Number", "ood"),
        Colouring("confidence", "confidence", "Number", "confidence"),
        Colouring("distance", "distance in this layer", "Number", f"distance:{first}"),
        Colouring("split", "split", "Data set", "split"),
        *(Colouring(f"attribute:{one}", one.replace("_", " "), "Attribute", f"attribute:{one}") for one in attributes),
    ]


def _start(index: SetIndex, view: SetView) -> dict[str, Any]:
    """What the scripts start with."""
    return {
        "api": api_url(view.summary),
        "page": view.url,
        "version": view.summary.version,
        "layers": view.layers,
        "images": view.has_images,
        "colours": CLASSES,
        "numbers": NUMBERS,
        "patterns": PATTERNS,
        "regions": MOST_REGIONS,
        "colourings": [one._asdict() for one in _colourings(index)],
        "clusters": view.colours,  # of each layer's clusters: their majority classes' colours
    }
