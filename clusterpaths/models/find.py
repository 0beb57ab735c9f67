"""Where a run's model is: as named, or in the default place.

Belongs here: paths, before a file is read. No library of models is imported, so that a missing file is reported at once.
Reading the file is `check.py`.
"""

from __future__ import annotations

from pathlib import Path

from clusterpaths.common import roots
from clusterpaths.errors import ModelError

PACKAGED = Path(__file__).resolve().parents[1] / "datasets" / "drawn_faces"  # holds the sample's model


def default_model(name: str = "CelebA_CNN") -> Path:
    """ONNX_models/NAME_instrumented.onnx, NAME.onnx where only that is there, or the one that the library brings."""
    instrumented = roots.models_root() / f"{name}_instrumented.onnx"
    plain = [roots.models_root() / f"{name}.onnx", PACKAGED / f"{name}.onnx"]
    return next((path for path in (instrumented, *plain) if path.is_file()), instrumented)


def require_model(path: Path) -> Path:
    """The path, if there is a file.

    Raises:
        ModelError: there is none.
    """
    if path.is_file():
        return path
    directory = ", which is a directory" if path.is_dir() else ""
    raise ModelError(
        f"There is no model at {path}{directory}. Expected an ONNX image classifier there"
        f"{'; on a command line the model comes first, then the images' if directory else ''}. Put it there, or name yours with "
        "--model PATH, an option of `clusterpaths run`, `clusterpaths celeba` and `clusterpaths images`; or train one on your "
        "own CelebA with `python flows/train.py --dataset celeba` in a checkout; or start with `clusterpaths sample`, which "
        "needs no model and no download."
    )
