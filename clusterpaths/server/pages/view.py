"""What all pages share: the templates' environment, and a set as pages show it: addresses, colours, words.

Belongs here: from names to addresses, from clusters to colours. Which page shows what is `pages*.py`; the Sankey's data
are `page_routes.py`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, cached_property, lru_cache
from importlib import metadata, resources
from typing import Any
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup, escape

from clusterpaths.common.lru import Kept
from clusterpaths.explore.index import PAGES, SetIndex
from clusterpaths.explore.records import ModelSummary, Routes
from clusterpaths.explore.routes import routes
from clusterpaths.report.numbers import percent, thousands
from clusterpaths.server.answers import IN_TURN
from clusterpaths.server.pages import html as page_html
from clusterpaths.server.pages.html import address, encoded
from clusterpaths.server.pages.routes import RoutesFigure, routes_figure

COLOURS = 7  # of classes; the eighth colour of report.css is for all others
OTHER = 7
NO_CLASS = 8  # hatched: no class is known
PIECES = (  # of page_html, for templates
    "address",
    "attribute_choice",
    "example_words",
    "found_item",
    "image_url",
    "lift_rows",
    "path_row",
    "share_bar",
    "thumb",
    "thumbs",
)
_ASKED_AGAIN = {"Cache-Control": "private, no-cache"}  # a page lists the sets that there are now


class SetView:
    """A set as the pages show it. Colour stands for classes: the most frequent ones have one each, others are grey."""

    def __init__(self, index: SetIndex) -> None:
        self.summary = index.summary
        self.layers = tuple(index.layers)
        self.n = index.summary.num_examples
        self.has_images = bool(index.summary.dataset)
        self.has_distances = index.distances is not None
        self.url = address(index.summary)
        self.routes: Routes = routes(index)
        self.pages: Kept[bytes] = Kept(PAGES, len)
        self._stops: dict[tuple[int, int, bool], str] = {}

    @cached_property
    def figure(self) -> RoutesFigure:
        """Of the routes, worked out once."""
        return routes_figure(self)

    @cached_property
    def usual(self) -> dict[str, float]:
        """Shares of the classes among all examples: the marks beside a group's bars."""
        return {one.name: one.share for one in self.routes.classes}

    @cached_property
    def colours(self) -> tuple[tuple[int, ...], ...]:
        """The colour of each cluster's majority class, else one of its number: colours[layer][cluster]."""
        if self.routes.source is None:
            return tuple(tuple(c % 8 for c in range(self.summary.k_per_layer[layer])) for layer in self.layers)
        found: dict[str, list[int]] = {layer: [] for layer in self.layers}
        for info in self.routes.clusters:  # by layer, then number
            found[info.layer].append(self.colour(info.majority.name) if info.majority else NO_CLASS)
        return tuple(tuple(found[layer]) for layer in self.layers)

    @cached_property
    def _class_colours(self) -> dict[str, int]:
        return {one.name: min(place, OTHER) for place, one in enumerate(self.routes.classes)}

    def colour(self, name: str | None) -> int:
        """Of a class, by name; None: no class is known."""
        return NO_CLASS if name is None else self._class_colours.get(name, OTHER)

    def cluster_colour(self, layer: int, cluster: int) -> int:
        """The colour of a cluster; of one that there is not, as of one without a class."""
        row = self.colours[layer] if layer < len(self.colours) else ()
        return row[cluster] if 0 <= cluster < len(row) else NO_CLASS

    def route(self, path: Sequence[int], other: Sequence[int] | None = None) -> Markup:
        """A path as chips, one a layer, each a link to its cluster; of `other`, layers that differ are marked."""
        stops = (self._stop(at, c, other is not None and other[at] != c) for at, c in enumerate(path))
        return Markup(f'<span class="route">{"".join(stops)}</span>')

    def _stop(self, at: int, cluster: int, differs: bool) -> str:
        if (at, cluster, differs) not in self._stops:
            layer, marked = escape(self.layers[at]), " differs" if differs else ""
            self._stops[at, cluster, differs] = (
                f'<a class="stop{marked}" href="{self.cluster_url(at, cluster)}" title="{layer}, cluster {cluster}">'
                f'<span class="hidden">{layer} cluster </span>{self._chip(at, cluster)}'
                f'<small aria-hidden="true">{layer}</small></a> '
            )
        return self._stops[at, cluster, differs]

    def line(self, path: Sequence[int]) -> Markup:
        """A path as chips close together, without links."""
        return Markup("".join(self._chip(at, cluster) for at, cluster in enumerate(path)))

    def chip(self, layer: int, cluster: int) -> Markup:
        """One cluster: its number in its colour."""
        return Markup(self._chip(layer, cluster))

    def _chip(self, layer: int, cluster: int) -> str:
        return f'<span class="chip f{self.cluster_colour(layer, cluster)}">{cluster}</span>'

    def cluster_url(self, layer: str | int, cluster: int) -> str:
        name = self.layers[layer] if isinstance(layer, int) else layer
        return f"{self.url}/clusters/{encoded(name)}/{cluster}"

    def path_url(self, path: Sequence[int]) -> str:
        return f"{self.url}/paths/{'-'.join(map(str, path))}"

    def paths_url(self, order: str = "common", page: int = 1) -> str:
        query = {k: v for k, v in (("order", order), ("page", page)) if v not in ("common", 1)}
        return f"{self.url}/paths" + (f"?{urlencode(query)}" if query else "")

    def example_url(self, example: int) -> str:
        return f"{self.url}/examples/{example}"

    def ask_url(self, **fields: Any) -> str:
        """The ask page with this question; see `explore.records.Question`."""
        return f"{self.url}/ask{question(_pairs(fields))}"

    def csv_url(self, **fields: Any) -> str:
        """All of a question's examples as a file."""
        of_set = f"/api/v1/models/{encoded(self.summary.model)}/sets/{encoded(self.summary.set)}"
        return f"{of_set}/examples.csv{question(_pairs(fields))}"


def question(pairs: Iterable[tuple[str, str]]) -> str:
    """Fields of a question as the query of an address, ? included; nothing where there are none."""
    query = "&".join(_field(name, value) for name, value in pairs)
    return f"?{query}" if query else ""


@lru_cache(4096)  # a page with a thousand ids has them in dozens of addresses
def _field(name: str, value: str) -> str:
    return f"{name}={quote(value, safe=':-*')}"


def _pairs(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """Several values of a field become several pairs."""
    several = ((name, value if isinstance(value, tuple | list) else (value,)) for name, value in fields.items())
    return [(name, str(one)) for name, values in several for one in values]


_views: WeakKeyDictionary[SetIndex, SetView] = WeakKeyDictionary()


def set_view(index: SetIndex) -> SetView:
    """The view of a set, made once and kept as long as the set is."""
    found = _views.get(index)
    if found is None:
        found = _views[index] = SetView(index)
    return found


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """One of templates/, filled in.

    `index` (a SetIndex) among the values makes it a page of that set: the template then has `view`, its SetView, too.
    """
    index: SetIndex | None = values.get("index")
    view = set_view(index) if index is not None else None
    shown = {"request": request, "view": view, "at_address": quote(request.url.path), **values}
    if "listed" not in shown:  # strangers are shown none, and cost no look at the disk
        shown["listed"] = listed_models(request)
    return HTMLResponse(_environment().get_template(template).render(shown), status, headers=_ASKED_AGAIN)


def render_once(
    request: Request, index: SetIndex, template: str, values: Callable[[], dict[str, Any]], *state: Hashable
) -> HTMLResponse:
    """As `render` for a page of a set, made once an address; `state` is what else it depends on."""
    listed = listed_models(request)
    versions = tuple((one.model, one.set, one.version) for model in listed for one in model.sets)
    key = (template, request.url.path, request.url.query, versions, *state)

    def make() -> bytes:
        with IN_TURN:
            return bytes(render(request, template, index=index, listed=listed, **values()).body)

    return HTMLResponse(set_view(index).pages.get(key, make), headers=_ASKED_AGAIN)


def listed_models(request: Request) -> tuple[ModelSummary, ...]:
    """For the list of sets in the head of the page."""
    models: tuple[ModelSummary, ...] = request.app.state.library.models_lately()
    return models


@cache
def static(name: str) -> str:
    """The address of a file of static/, with its version: browsers keep it for ever.

    report.css is the report's, plotly.min.js the installed package's.
    """
    if name == "plotly.min.js":
        return f"/static/{name}?v={metadata.version('plotly')}"
    package = "clusterpaths.report" if name == "report.css" else "clusterpaths.server.static"
    try:
        content = resources.files(package).joinpath(name).read_bytes()
    except FileNotFoundError:
        return f"/static/{name}"
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


def kept_for(name: str, given: str | None) -> str:
    """Cache-Control of a file of static/: for ever where the address gives its version, else to be asked for again."""
    current = given and static(name) == f"/static/{name}?v={given}"
    return "public, max-age=31536000, immutable" if current else "public, no-cache"


def compile_templates() -> None:
    """So that the first visitor of a page need not wait for it: some 20 ms a template."""
    for name in _environment().list_templates(filter_func=lambda name: not name.startswith("report/")):
        if name.endswith(".html"):
            _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("clusterpaths.server", "templates"),
                jinja2.PrefixLoader({"report": jinja2.PackageLoader("clusterpaths", "report")}),
            ]
        ),
        autoescape=True,  # names of files, classes, layers and models come from elsewhere
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"thousands": thousands, "percent": percent, "part": encoded, "signed": page_html.signed}
    environment.globals |= {"static": static} | {name: getattr(page_html, name) for name in PIECES}
    return environment
