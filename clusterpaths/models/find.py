"""Where a run's model is: as named, or in the default place.

Belongs here: paths, before a file is read. No library of models is imported, so that a missing file is reported at once.
Reading the file is `check.py`.
"""

from __future__ import annotations

from pathlib import Path

from clusterpaths.common import roots
from clusterpaths.errors import ModelError


def default_model(name: str = "CelebA_CNN") -> Path:
    """ONNX_models/NAME_instrumented.onnx or, where only that is there, NAME.onnx."""
    instrumented = roots.models_root() / f"{name}_instrumented.onnx"
    plain = roots.models_root() / f"{name}.onnx"
    return plain if plain.is_file() and not instrumented.is_file() else instrumented


def require_model(path: Path) -> Path:
    """The path, if there is a file.

    Raises:
        ModelError: there is none.
    """
    if path.is_file():
        return path
    raise ModelError(
        f"There is no model at {path}. Expected an ONNX image classifier there. Put it there, or name yours with "
        "--model PATH, an option of `clusterpaths celeba` and `clusterpaths images`; or train one on your own CelebA with "
        "`python flows/train.py --dataset celeba`; or start with `python flows/celeba.py --sample`, which needs no model "
        "and no download."
    )
