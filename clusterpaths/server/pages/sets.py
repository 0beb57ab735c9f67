"""The pages of one set: overview, cluster, paths, path, example.

Belongs here: the values of each template. `explore/` looks them up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from clusterpaths.errors import ClusterPathsError
from clusterpaths.evaluation.record import METRICS, read_evaluation
from clusterpaths.explanation.look_up import explain_example, prepare_example
from clusterpaths.explore.cluster_detail import cluster_detail
from clusterpaths.explore.examples import example_detail
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.paths import parse_path, path_detail, path_examples, path_page
from clusterpaths.monitoring.history import History
from clusterpaths.monitoring.summary import SeriesSummary
from clusterpaths.report.evaluation import evaluation_rows
from clusterpaths.report.map_picture import MapPicture, draw_maps
from clusterpaths.server.api.monitoring import published_set
from clusterpaths.server.dependencies import HistoryOf, LibraryOf
from clusterpaths.server.middleware.log import LOGGER
from clusterpaths.server.pages.lists import ON_PATH, ListRows, compute_list, list_query, listed, read_list
from clusterpaths.server.pages.plots import lift_plot
from clusterpaths.server.pages.rendering import render_once
from clusterpaths.server.pages.sankey import routes_figure
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.pages.specimen import of_example
from clusterpaths.sets.class_names import about_classes

TOP_PATHS = 10  # on the overview
PATHS = 25  # per page of the list
DISTANT = 10**6  # maximum page number

router = APIRouter(default_response_class=HTMLResponse)

PageNumber = Annotated[int, Query(ge=1, le=DISTANT)]


@router.get("/explore/{model}/{name}")
def overview(request: Request, library: LibraryOf, history: HistoryOf, model: str, name: str) -> HTMLResponse:
    """Overview of a set: routes, metrics, most frequent paths, and the newest windows that were compared with it."""
    index = library.set(model, name)
    series = _series(history, index)
    maps = _maps(index)  # before the page is made, which others wait for

    def values() -> dict[str, Any]:
        evaluation = read_evaluation(index.source)
        paths = path_page(index, limit=TOP_PATHS)
        return {
            "figure": routes_figure(set_view(index)),
            "about_classes": about_classes(index.source.record) if index.source.record else (),
            "paths": paths,
            "singles": int((index.paths.counts == 1).sum()),
            "covered": sum(path.count for path in paths.paths) / max(index.summary.num_examples, 1),
            "has_labels": bool((index.labels >= 0).any()),
            "has_predictions": bool((index.predictions >= 0).any()),
            "evaluation": evaluation,
            "groups": evaluation_rows(evaluation) if evaluation else (),
            "series": series,
            "maps": maps,
        }

    state = _written(index.folder.path / METRICS), series
    return render_once(request, index, "overview.html", values, *state)


@router.get("/explore/{model}/{name}/clusters/{layer:path}/{cluster:int}")
def cluster(request: Request, library: LibraryOf, model: str, name: str, layer: str, cluster: int) -> HTMLResponse:
    """One cluster."""
    index = library.set(model, name)

    def values() -> dict[str, Any]:
        detail = cluster_detail(index, layer, cluster)
        at, view, k = index.layer_index(layer), set_view(index), index.summary.k_per_layer[layer]
        return {
            "detail": detail,
            "layer": layer,
            "at": at,
            "cluster": cluster,
            "k": k,
            "name": view.names.cluster(at, cluster),
            "before": view.cluster_url(at, cluster - 1) if cluster else "",
            "after": view.cluster_url(at, cluster + 1) if cluster + 1 < k else "",
            "plot": lift_plot(detail.lifts),
            "list_queries": {
                order: list_query(
                    "cluster", [("cluster", f"{layer}:{cluster}"), *([("order", order)] if order else [])]
                )
                for order in ("near", "far", "")
            },
        }

    return render_once(request, index, "cluster.html", values)


@router.get("/explore/{model}/{name}/paths")
def paths(
    request: Request,
    library: LibraryOf,
    model: str,
    name: str,
    order: Literal["common", "rare"] = "common",
    page: PageNumber = 1,
) -> Response:
    """The list of paths."""
    index = library.set(model, name)
    last = max(1, -(-len(index.paths.counts) // PATHS))
    if page > last:
        return RedirectResponse(set_view(index).paths_url(order, last), 303)

    def values() -> dict[str, Any]:
        return {
            "paths": path_page(index, order=order, limit=PATHS, offset=(page - 1) * PATHS),
            "order": order,
            "page": page,
            "last": last,
            "largest": int(index.paths.counts.max(initial=1)),
        }

    return render_once(request, index, "paths.html", values)


@router.get("/explore/{model}/{name}/paths/{path}")
def path(request: Request, library: LibraryOf, model: str, name: str, path: str, page: PageNumber = 1) -> Response:
    """One path, its examples page by page."""
    index = library.set(model, name)
    steps = parse_path(index, path)
    view, text = set_view(index), "-".join(map(str, steps))
    last = max(1, -(-int(index.paths.counts[index.path_rank(steps)]) // ON_PATH))
    if page > last:
        return RedirectResponse(view.path_url(steps) + (f"?page={last}" if last > 1 else ""), 303)

    def values() -> dict[str, Any]:
        detail = path_detail(index, steps)
        return {
            "detail": detail,
            "path": steps,
            "text": text,
            "name": view.path_name(steps),
            "found": path_examples(index, steps, limit=ON_PATH, offset=(page - 1) * ON_PATH),
            "page": page,
            "last": last,
            "plot": lift_plot(detail.lifts),
            "list_query": list_query("path", [("path", text), *([("order", "near")] if view.has_distances else [])]),
        }

    return render_once(request, index, "path.html", values)


@router.get("/explore/{model}/{name}/examples/{example:int}")
async def example_page(request: Request, library: LibraryOf, model: str, name: str, example: int) -> HTMLResponse:
    """One example."""
    index = await run_in_threadpool(library.set, model, name)
    await compute_list(request, index, request.query_params.multi_items())
    return await run_in_threadpool(_example, request, index, example)


def _example(request: Request, index: SetIndex, example: int) -> HTMLResponse:
    row = index.row_of(example)
    given = request.query_params.multi_items()

    found: ListRows | None = None

    def before() -> None:
        nonlocal found
        prepare_example(index, row)
        found = read_list(index, given)

    def values() -> dict[str, Any]:
        detail = example_detail(index, example)
        place = listed(index, found, row)
        return {
            "place": place,
            "detail": detail,
            "s": of_example(index, detail, explain_example(index, row) if index.distances is not None else None),
            "attributes": len(index.attribute_names),
            "able": bool(index.file(row)) and _has_model(index),
            "before": int(index.ids[row - 1]) if row else None,
            "after": int(index.ids[row + 1]) if row + 1 < len(index.ids) else None,
        }

    return render_once(request, index, "example.html", values, before=before)


def _has_model(index: SetIndex) -> bool:
    """Whether the set's model may be a file that this server can run."""
    record = index.record
    return record is not None and not record.without_model and not record.collected


def _series(history: History, index: SetIndex) -> tuple[SeriesSummary, ...]:
    """The series of a set; none where they cannot be listed now, which their own page reports."""
    published = published_set(index)
    try:
        return history.series(published) if published else ()
    except ClusterPathsError as error:
        LOGGER.warning("the overview of %s has no series: %s", index.name, error)
        return ()


def _maps(index: SetIndex) -> tuple[MapPicture, ...]:
    try:
        return index.once("map pictures", lambda: draw_maps(index))
    except ClusterPathsError as error:  # the rest of the page does not need them
        LOGGER.warning("the maps of %s cannot be drawn: %s", index.name, error)
        return ()


def _written(file: Path) -> int:
    """Modification time of a file; 0 if missing."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
