"""The pages' templates: one environment for all, so that escaping is always on."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2

from clusterpaths.report.colours import numbered
from clusterpaths.report.numbers import percent, portion, seconds, thousands


def render(template: str, **values: Any) -> str:
    """One template of this directory, rendered; everything in `values` but `Markup` is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> jinja2.Environment:
    """Created once: compiling a template takes longer than rendering it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clusterpaths", "report"),
        autoescape=True,  # file names, class names and layer names are untrusted
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "thousands": thousands,
        "percent": percent,
        "seconds": seconds,
        "portion": portion,
        "numbered": numbered,
    }
    return environment
