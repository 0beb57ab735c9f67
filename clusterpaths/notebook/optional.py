"""Packages that are used where they are installed: pandas, polars, plotly, matplotlib.

Belongs here: the search, and the paragraph that says how to install one.
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from typing import Any

from clusterpaths.errors import ConfigError


def first_installed(*names: str) -> str | None:
    """The first of these packages that is installed."""
    return next((name for name in names if importlib.util.find_spec(name)), None)


def require_package(name: str, what: str) -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed; says how to install it.
    """
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}, which is not installed. Install it: pip install {package}")
    return import_module(name)
