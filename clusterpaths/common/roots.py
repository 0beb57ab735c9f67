"""Default directories: in the project directory, or where CLUSTERPATHS_HOME points."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "CLUSTERPATHS_HOME"


def home() -> Path:
    """The directory that holds data/, ONNX_models/ and activation_cache/."""
    moved = os.environ.get(HOME_VARIABLE)
    return Path(moved).expanduser().resolve() if moved else Path(__file__).resolve().parents[2]


def data_root() -> Path:
    """Images."""
    return home() / "data"


def models_root() -> Path:
    """ONNX files."""
    return home() / "ONNX_models"


def cache_root() -> Path:
    """Results."""
    return home() / "activation_cache"
