"""Packages that only some runs need: what is reported where one is missing.

Belongs here: the one message with the exact pip line. Which packages an extra brings is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util

from clusterpaths.common.roots import checkout
from clusterpaths.errors import ConfigError

_PACKAGES = {"umap": "umap-learn"}  # modules whose package has another name


def require_extra(what: str, extra: str, *modules: str, otherwise: str = "") -> None:
    """Check that modules can be imported, without importing them.

    Args:
        what: needs them, as the subject of a sentence: "--engine dask".
        extra: of this project, which brings them.
        modules: by the name that is imported.
        otherwise: what to do instead, as the end of a sentence: "leave out --engine".

    Raises:
        ConfigError: one is not installed.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        packages = ", ".join(_PACKAGES.get(name, name.replace("_", "-")) for name in missing)  # what pip calls them
        raise ConfigError(
            f"{what} needs {packages}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Install the extra with `{pip_line(extra)}`{f'; or {otherwise}' if otherwise else ''}."
        )


def require_umap(what: str = "--map umap") -> None:
    """Raises: ConfigError: umap-learn, which `what` needs, is not installed."""
    require_extra(what, "umap", "umap", otherwise="take --map pca")


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return importlib.util.find_spec("umap") is not None


def pip_line(extra: str) -> str:
    """The command that installs an extra, from any directory."""
    found = checkout()
    return f'pip install -e "{found}[{extra}]"' if found else f'pip install "clusterpaths[{extra}]"'
