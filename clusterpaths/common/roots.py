"""Default directories: where CLUSTERPATHS_HOME points, else in the checkout, else in the working directory."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "CLUSTERPATHS_HOME"


def checkout() -> Path | None:
    """The checkout that this library is run from; None for an installed wheel, which has no flows beside it."""
    found = Path(__file__).resolve().parents[2]
    return found if (found / "pyproject.toml").is_file() and (found / "flows" / "cli.py").is_file() else None


def home() -> Path:
    """The directory that holds data/, ONNX_models/ and activation_cache/."""
    moved = os.environ.get(HOME_VARIABLE)
    return Path(moved).expanduser().resolve() if moved else checkout() or Path.cwd()


def data_root() -> Path:
    """Images."""
    return home() / "data"


def models_root() -> Path:
    """ONNX files."""
    return home() / "ONNX_models"


def cache_root() -> Path:
    """Results."""
    return home() / "activation_cache"
