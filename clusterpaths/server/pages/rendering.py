"""Rendering templates: the environment, and cached pages.

Belongs here: rendering templates/, and caching the result. The other modules choose the values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2.compiler import CodeGenerator
from markupsafe import Markup, escape

from clusterpaths.common.lru import LRUCache
from clusterpaths.explore.index import SetIndex
from clusterpaths.explore.records import ModelSummary
from clusterpaths.monitoring.words import p_text
from clusterpaths.report.colours import numbered
from clusterpaths.report.numbers import percent, portion, thousands, verdict
from clusterpaths.server.addresses import encoded, image_url, monitoring_url, names_url, set_url, window_url
from clusterpaths.server.answers import ONE_AT_A_TIME
from clusterpaths.server.pages import words
from clusterpaths.server.pages.hints import HINTS
from clusterpaths.server.pages.set_view import set_view
from clusterpaths.server.static_files import static_url

WORDS = (  # functions of words.py that templates call
    words.any_wrong,
    words.attribute_choices,
    words.example_words,
    words.lift_rows,
    words.path_text,
    words.path_words,
    words.span_words,
    words.thumbs_of,
    words.time_words,
)
try:  # the C function behind markupsafe.escape, from str to str: a thousand calls a page, 0.05 us each instead of 0.3
    from markupsafe._speedups import _escape_inner as _escape_str
except ImportError:  # a release without it

    def _escape_str(text: str, /) -> str:
        return str(escape(text))


_REVALIDATED = {"Cache-Control": "private, no-cache"}  # a page lists the current sets


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render one of templates/.

    `index` (a SetIndex) among the values makes it a page of that set: the template then has `view`, its SetView, too.
    """
    index: SetIndex | None = values.get("index")
    view = set_view(index) if index is not None else None
    hint = HINTS.get(template)
    first_visit = (template.removesuffix(".html"), hint) if hint and status == 200 else None
    shown = {
        "request": request,
        "view": view,
        "at_address": quote(request.url.path),
        "first_visit": first_visit,
        **values,
    }
    if "listed" not in shown:  # not without the token, which also avoids reading the disk
        shown["listed"] = listed_models(request)
    if view is not None:
        shown["editable"] = request.app.state.settings.edit and view.names.can_be_edited
    return HTMLResponse(environment().get_template(template).render(shown), status, headers=_REVALIDATED)


def render_once(
    request: Request,
    index: SetIndex,
    template: str,
    values: Callable[[], dict[str, Any]],
    *state: Hashable,
    before: Callable[[], object] = lambda: None,
) -> HTMLResponse:
    """As `render` for a page of a set, rendered once per address; `state` are further dependencies.

    `before`: as that of `answers.of_set`.
    """
    listed = listed_models(request)
    versions = tuple((one.model, one.set, one.version) for model in listed for one in model.sets)
    named = set_view(index).names.version
    key = (template, request.url.path, request.url.query, index.summary.version, named, versions, *state)
    answers: LRUCache[bytes] = request.app.state.answers

    def make() -> bytes:
        before()
        with ONE_AT_A_TIME:
            return bytes(render(request, template, index=index, listed=listed, **values()).body)

    return HTMLResponse(answers.get(key, make), headers=_REVALIDATED)


def listed_models(request: Request) -> tuple[ModelSummary, ...]:
    """For the list of sets in the header of the page."""
    models: tuple[ModelSummary, ...] = request.app.state.library.models_lately()
    return models


def compile_templates() -> None:
    """Compile all templates at startup: some 20 ms each."""
    for name in environment().list_templates(filter_func=lambda name: not name.startswith("report/")):
        if name.endswith(".html"):
            environment().get_template(name)


def escaped(value: Any) -> str:
    """As markupsafe.escape, but returns a str: creating Markup objects took most of the rendering time."""
    kind = type(value)
    if kind is str:
        text: str = _escape_str(value)
        return text
    return value if kind is Markup else str(value) if kind is int else escape(value)


class _Generator(CodeGenerator):
    """Generates template code with `escaped` around every expression."""

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape or finalize.src is not None:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.escaped(")


class _Environment(jinja2.Environment):
    code_generator_class = _Generator
    escaped = staticmethod(escaped)


@cache
def environment() -> jinja2.Environment:
    """Templates of the server, and those of the report as report/….html."""
    found = _Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PackageLoader("clusterpaths.server", "templates"),
                jinja2.PrefixLoader({"report": jinja2.PackageLoader("clusterpaths", "report")}),
            ]
        ),
        autoescape=True,  # names of files, classes, layers and models are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "thousands": thousands,
        "percent": percent,
        "part": encoded,
        "numbered": numbered,
        "signed": words.signed,
        "p_text": p_text,
        "verdict": verdict,
        "portion": portion,
    }
    found.globals |= {"static": static_url, "address": set_url, "image_url": image_url, "names_url": names_url}
    found.globals |= {"monitoring_url": monitoring_url, "window_url": window_url}
    found.globals |= {one.__name__: one for one in WORDS}
    return found
